"""Erasure and retention on a bucket that keeps the versions of deleted objects."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import pytest

from loginetl_assets.errors import TransientError
from loginetl_assets.landing.object_store import MASKED
from loginetl_assets.local.stack import Addresses
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure, ErasureCounts, subject_of
from loginetl_assets.services import Services
from loginetl_assets_tests.support.http_proxy import HttpProxy, Request, answer
from loginetl_assets_tests.support.pipeline import Pipeline, login, new_bucket, s3_client
from loginetl_assets_tests.support.proxy import Rule

ANNA, BERT = "anna-4711", "bert-0815"
DENIED = answer(403, b"<Error><Code>AccessDenied</Code></Error>")


@pytest.fixture
def on_s3(
    pipeline: Pipeline, addresses: Addresses, proxy: HttpProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pipeline]:
    """The pipeline with a loaded batch of Anna's and Bert's on a versioned bucket behind the proxy."""
    name = new_bucket(addresses.sqs_endpoint)
    s3_client(addresses.sqs_endpoint).put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    settings = replace(pipeline.settings, landing_url=f"s3://{name}/login")
    with Pipeline.on(settings, tmp_path / "on-s3") as on_s3:
        bodies = [login(user_id=user_id, device_id=f"{user_id}-device") for user_id in (ANNA, BERT)]
        on_s3.land([QueuedMessage(str(uuid4()), 1_700_000_000_000, body.encode()) for body in bodies])
        on_s3.run(job="process_landed")
        yield on_s3


def _versions(pipeline: Pipeline, addresses: Addresses) -> set[str]:
    """The keys of all versions and delete markers of batches and masked files."""
    s3 = s3_client(addresses.sqs_endpoint)
    bucket = str(pipeline.settings.landing_url).split("/")[2]
    found: dict[str, Any] = s3.list_object_versions(Bucket=bucket)
    keys = [one["Key"].removeprefix("login/") for kind in ("Versions", "DeleteMarkers") for one in found.get(kind, ())]
    return {key for key in keys if "/" in key}


def _named(pipeline: Pipeline) -> set[str]:
    rows = pipeline.query("SELECT object_path, masked_path FROM loginetl.batches WHERE object_purged_at IS NULL")
    return {key for row in rows for key in row if key}


def _erase(pipeline: Pipeline) -> ErasureCounts:
    services = Services(pipeline.settings)
    subject = subject_of(ANNA, [], services.keyring)
    return Erasure(services.database(), services.landing(), services.keyring, subject).run("she asked")


def test_an_erasure_deletes_every_version(on_s3: Pipeline, addresses: Addresses) -> None:
    assert _erase(on_s3).kept_versions == 0
    assert _versions(on_s3, addresses) == _named(on_s3)
    assert [row[0] for row in on_s3.rows()] == [BERT]


def test_retention_deletes_every_version(on_s3: Pipeline, addresses: Addresses) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    on_s3.execute("UPDATE loginetl.batches SET loaded_at = :old, landed_at = :old", old=old)
    on_s3.run(job="retention")
    assert _versions(on_s3, addresses) == set()


def _of_a_version(method: str) -> Callable[[Request], bool]:
    return lambda request: request.method == method and "versionId=" in request.path


def _of_the_list(request: Request) -> bool:
    return request.method == "GET" and "versions" in request.path


def _erase_by_command(pipeline: Pipeline) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "loginetl"), "erase", "--user-id", ANNA, "--yes", "--reason", "she asked"],
        env={**os.environ, "COLUMNS": "200"} | pipeline.settings.as_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("denied", [_of_a_version("DELETE"), _of_the_list], ids=["delete", "list"])
def test_versions_that_stay_are_told_and_deleted_once_they_may_be(
    on_s3: Pipeline, addresses: Addresses, proxy: HttpProxy, denied: Callable[[Request], bool]
) -> None:
    fault = proxy.add(Rule(denied, DENIED, times=None))
    assert _erase(on_s3).kept_versions == 2, "the batch and its masked file"
    assert fault.acted
    assert len(_versions(on_s3, addresses) - _named(on_s3)) == 2
    told = _erase_by_command(on_s3)
    assert (told.returncode, "s3:DeleteObjectVersion" in told.stderr) == (1, True), told.stderr
    proxy.clear()
    assert _erase(on_s3).kept_versions == 0
    assert _versions(on_s3, addresses) == _named(on_s3)


def test_versions_of_what_no_batch_names_are_deleted_though_the_first_attempt_fails(
    on_s3: Pipeline, addresses: Addresses, proxy: HttpProxy
) -> None:
    landing = on_s3.services.landing()
    ((key,),) = on_s3.query("SELECT masked_path FROM loginetl.batches")
    left = f"{MASKED}/{uuid4()}.parquet"
    landing.put(left, landing.get(key))
    fault = proxy.add(
        Rule(lambda request: _of_the_list(request) and left in unquote(request.path), answer(503), times=None)
    )
    with pytest.raises(TransientError):
        _erase(on_s3)
    assert fault.acted
    proxy.clear()
    _erase(on_s3)
    assert _versions(on_s3, addresses) == _named(on_s3)


def test_an_erasure_that_cannot_tell_whether_versions_are_kept_says_so(on_s3: Pipeline, proxy: HttpProxy) -> None:
    proxy.add(Rule(lambda request: request.method == "GET" and "versioning" in request.path, DENIED, times=None))
    told = _erase_by_command(on_s3)
    assert (told.returncode, "s3:GetBucketVersioning" in told.stderr) == (1, True), told.stderr
    assert [row[0] for row in on_s3.rows()] == [BERT]
