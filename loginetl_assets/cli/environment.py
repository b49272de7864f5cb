"""What commands take from the environment: the services of the settings, and DAGSTER_HOME."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loginetl_assets.errors import SettingsError
from loginetl_assets.settings import Settings

if TYPE_CHECKING:
    from loginetl_assets.services import Services


def configured_services(queue_url: str | None = None) -> "Services":
    """Returns the services of the environment's settings, with another queue if one is named; opens nothing yet."""
    from loginetl_assets.services import Services

    settings = Settings.from_environment()
    return Services(replace(settings, queue_url=queue_url) if queue_url else settings)


def dagster_home(services: "Services") -> Path:
    """Returns DAGSTER_HOME; unset, in the local environment, the one whose storage is the embedded Postgres.

    Raises:
        SettingsError: it is needed and unset, or not a directory that Dagster takes.
    """
    if named := os.environ.get("DAGSTER_HOME"):
        directory = Path(os.path.expanduser(named))  # noqa: PTH111 - as Dagster does: an unknown ~user is no error
        if not (directory.is_absolute() and directory.is_dir()):
            raise SettingsError("DAGSTER_HOME must be the absolute path of a directory that exists")
        return directory
    if not services.settings.is_local:
        raise SettingsError(f"LOGINETL_ENV={services.settings.environment} needs DAGSTER_HOME to be set")
    return services.stack.dagster_home()
