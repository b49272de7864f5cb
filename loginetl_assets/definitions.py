"""What Dagster's tools load: the definitions of the environment's settings, with those of the folder `defs`."""

import warnings
from pathlib import Path

import dagster as dg

import loginetl_assets.defs
from loginetl_assets.build import build_definitions
from loginetl_assets.settings import Settings


def _definitions_of_folder() -> dg.Definitions:
    """Returns what is in the folder; not by `load_from_defs_folder`, which a wheel has no pyproject.toml for."""
    folder = Path(loginetl_assets.defs.__file__).parent
    if {one.name for one in folder.iterdir()} <= {"__init__.py", "__pycache__"}:
        return dg.Definitions()  # looked into, it costs the import of every integration that is installed: 0.5 s of CPU
    tree = dg.ComponentTree.from_module(defs_module=loginetl_assets.defs, project_root=folder.parents[1])
    with warnings.catch_warnings(action="ignore", category=dg.PreviewWarning):  # its loader uses preview functions
        return tree.build_defs()


defs = dg.Definitions.merge(build_definitions(Settings.from_environment()), _definitions_of_folder())
