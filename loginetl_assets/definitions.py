"""What Dagster's tools load: the definitions of the environment's settings."""

from loginetl_assets.build import build_definitions
from loginetl_assets.settings import Settings

defs = build_definitions(Settings.from_environment())
