from pathlib import Path

import dagster as dg
import pytest

from loginetl_assets.assets.catalog import MEANINGS, NUMBERS
from loginetl_assets.build import build_definitions
from loginetl_assets.settings import Settings


def specs(**variables: str) -> dict[str, dg.AssetSpec]:
    settings = Settings.from_environment({"LOGINETL_ENV": "local", **variables})
    return {spec.key.to_user_string(): spec for spec in build_definitions(settings).resolve_all_asset_specs()}


@pytest.mark.parametrize(("landing", "kind"), [("s3://bucket/logins", "s3"), ("file:///srv/landing", "file")])
def test_kinds_follow_the_landing_in_use(landing: str, kind: str) -> None:
    found = specs(LOGINETL_LANDING_URL=landing)
    assert found["raw_login_messages"].kinds == {"sqs", kind}
    assert found["masked_logins"].kinds == {"polars", "parquet", kind}
    assert found["user_logins"].kinds == {"postgres"}


def test_every_asset_tells_its_domain_its_personal_data_and_its_release() -> None:
    found = specs()
    assert {name: spec.tags["pii"] for name, spec in found.items()} == {
        "login_queue": "plaintext",
        "raw_login_messages": "encrypted",
        "masked_logins": "tokens",
        "rejected_logins": "encrypted",
        "pii_vault": "encrypted",
        "user_logins": "tokens",
        "login_activity": "none",
    }
    assert {spec.tags["domain"] for spec in found.values()} == {"logins"}
    assert {name for name, spec in found.items() if not spec.code_version} == {"login_queue"}


def test_an_asset_links_to_its_source_in_the_local_environment() -> None:
    (reference,) = specs()["user_logins"].metadata["dagster/code_references"].code_references
    assert Path(reference.file_path).name == "user_logins.py"


def test_every_number_of_a_run_is_explained_in_its_asset_s_description() -> None:
    found = specs()
    for asset, numbers in NUMBERS.items():
        for name in numbers:
            assert f"- `{name}`: {MEANINGS[name]}" in (found[asset].description or ""), asset
    assert {*MEANINGS} == {name for numbers in NUMBERS.values() for name in numbers}
