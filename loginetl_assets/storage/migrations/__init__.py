"""The migrations of schema `loginetl`, as Alembic reads them."""

from alembic.config import Config
from sqlalchemy import Connection

VERSION_TABLE = "alembic_version"


def alembic_config(connection: Connection) -> Config:
    """Returns Alembic's configuration for its commands on a connection; no ini file is read."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "loginetl_assets.storage:migrations")
    config.set_main_option("path_separator", "os")
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config
