"""Erasure and retention on a bucket that keeps the versions of deleted objects."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import pytest

from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import TransientError
from loginetl_assets.landing.object_store import BATCHES, MASKED
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure, ErasureTotals
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets_tests.support.http_proxy import HttpProxy, Request, answer
from loginetl_assets_tests.support.pipeline import Pipeline, login, s3_client
from loginetl_assets_tests.support.proxy import Rule

ANNA, BERT = "anna-4711", "bert-0815"
DENIED = answer(403, b"<Error><Code>AccessDenied</Code></Error>")


def _bucket(pipeline: Pipeline) -> str:
    return str(pipeline.settings.landing_url).split("/")[2]


@pytest.fixture
def versioned(on_s3: Pipeline, addresses: Addresses) -> Pipeline:
    """The pipeline on S3 with a loaded batch of Anna's and Bert's; its bucket keeps versions."""
    s3_client(addresses.sqs_endpoint).put_bucket_versioning(
        Bucket=_bucket(on_s3), VersioningConfiguration={"Status": "Enabled"}
    )
    bodies = [login(user_id=user_id, device_id=f"{user_id}-device") for user_id in (ANNA, BERT)]
    on_s3.land([QueuedMessage(str(uuid4()), 1_700_000_000_000, body.encode()) for body in bodies])
    on_s3.run(job="process_landed")
    return on_s3


def _versions(pipeline: Pipeline, addresses: Addresses) -> set[str]:
    """The keys of all versions and delete markers of batches and masked files."""
    found: dict[str, Any] = s3_client(addresses.sqs_endpoint).list_object_versions(Bucket=_bucket(pipeline))
    keys = [one["Key"].removeprefix("login/") for kind in ("Versions", "DeleteMarkers") for one in found.get(kind, ())]
    return {key for key in keys if key.startswith((f"{BATCHES}/", f"{MASKED}/"))}


def _named(pipeline: Pipeline) -> set[str]:
    rows = pipeline.query("SELECT object_path, masked_path FROM loginetl.batches WHERE object_purged_at IS NULL")
    return {key for row in rows for key in row if key}


def _erase(pipeline: Pipeline) -> ErasureTotals:
    services = Services(pipeline.settings)
    subject = subject_of(ANNA, [], services.keyring)
    return Erasure(services.database(), services.landing(), services.keyring, subject).run("she asked")


def test_an_erasure_deletes_every_version(versioned: Pipeline, addresses: Addresses) -> None:
    assert _erase(versioned).kept_versions == 0
    assert _versions(versioned, addresses) == _named(versioned)
    assert [row[0] for row in versioned.rows()] == [BERT]


def test_retention_deletes_every_version(versioned: Pipeline, addresses: Addresses) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    versioned.execute("UPDATE loginetl.batches SET loaded_at = :old, landed_at = :old", old=old)
    versioned.run(job="retention")
    assert _versions(versioned, addresses) == set()


def _of_a_version(method: str) -> Callable[[Request], bool]:
    return lambda request: request.method == method and "versionId=" in request.path


def _of_the_list(request: Request) -> bool:
    return request.method == "GET" and "versions" in request.path


def _erase_by_command(pipeline: Pipeline) -> subprocess.CompletedProcess[str]:
    settings = replace(pipeline.settings, visibility_seconds=30)  # no command takes the two seconds of the tests
    return subprocess.run(
        [str(Path(sys.executable).parent / "loginetl"), "erase", "--user-id", "--yes", "--reason", "she asked"],
        input=ANNA,
        env={**os.environ, "COLUMNS": "200"} | settings.as_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("denied", [_of_a_version("DELETE"), _of_the_list], ids=["delete", "list"])
def test_versions_that_stay_are_reported_and_deleted_once_they_may_be(
    versioned: Pipeline, addresses: Addresses, proxy: HttpProxy, denied: Callable[[Request], bool]
) -> None:
    fault = proxy.add(Rule(denied, DENIED, times=None))
    assert _erase(versioned).kept_versions == 2, "the batch and its masked file"
    assert fault.acted
    assert len(_versions(versioned, addresses) - _named(versioned)) == 2
    result = _erase_by_command(versioned)
    assert (result.returncode, "s3:DeleteObjectVersion" in result.stderr) == (1, True), result.stderr
    proxy.clear()
    assert _erase(versioned).kept_versions == 0
    assert _versions(versioned, addresses) == _named(versioned)


def test_versions_of_what_no_batch_names_are_deleted_though_the_first_attempt_fails(
    versioned: Pipeline, addresses: Addresses, proxy: HttpProxy
) -> None:
    landing = versioned.services.landing()
    ((key,),) = versioned.query("SELECT masked_path FROM loginetl.batches")
    left = f"{MASKED}/{uuid4()}.parquet"
    landing.put(left, landing.get(key))
    fault = proxy.add(
        Rule(lambda request: _of_the_list(request) and left in unquote(request.path), answer(503), times=None)
    )
    with pytest.raises(TransientError):
        _erase(versioned)
    assert fault.acted
    proxy.clear()
    _erase(versioned)
    assert _versions(versioned, addresses) == _named(versioned)


def test_an_erasure_that_cannot_tell_whether_versions_are_kept_says_so(versioned: Pipeline, proxy: HttpProxy) -> None:
    proxy.add(Rule(lambda request: request.method == "GET" and "versioning" in request.path, DENIED, times=None))
    result = _erase_by_command(versioned)
    assert (result.returncode, "s3:GetBucketVersioning" in result.stderr) == (1, True), result.stderr
    assert [row[0] for row in versioned.rows()] == [BERT]
