"""The landing on both of its stores: a directory, and S3 as the emulator has it."""

import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import OperatorError
from loginetl_assets.landing.object_store import Landing, ObjectMissingError
from loginetl_assets_tests.support.pipeline import SAMPLE, Pipeline


@pytest.fixture
def bucket(addresses: Addresses, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a bucket on the session's emulator."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", addresses.sqs_endpoint)
    name = f"landing-{uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=addresses.sqs_endpoint, region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}/some/prefix"


@pytest.fixture(params=["file", "s3"])
def landing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Landing]:
    """A landing on either store."""
    url = (tmp_path / "with space").as_uri() if request.param == "file" else request.getfixturevalue("bucket")
    yield Landing(url)


def test_what_was_put_is_got_listed_and_deleted(landing: Landing) -> None:
    landing.put("batches/one", b"\x00\xff" * 1000)
    landing.put("batches/two", b"")
    landing.put("masked/three", b"3")
    assert landing.get("batches/one") == b"\x00\xff" * 1000
    assert landing.get("batches/two") == b""
    assert sorted(path for path, _ in landing.list("batches")) == ["batches/one", "batches/two"]
    landing.delete(["batches/one", "batches/never"])
    assert [path for path, _ in landing.list("batches")] == ["batches/two"]
    with pytest.raises(ObjectMissingError, match="batches/one"):
        landing.get("batches/one")


def test_the_pipeline_runs_with_its_landing_on_s3(pipeline: Pipeline, bucket: str, tmp_path: Path) -> None:
    with Pipeline.on(replace(pipeline.settings, landing_url=bucket), tmp_path / "on-s3") as on_s3:
        on_s3.send(SAMPLE)
        on_s3.run()
        assert len(on_s3.rows()) == 99
        assert len(list(on_s3.services.landing().list("batches"))) == on_s3.totals().batches
    assert not (pipeline.settings.home / "landing").exists()


def test_a_bucket_that_is_missing_is_named(bucket: str) -> None:
    with pytest.raises(OperatorError, match=r"no bucket .* LOGINETL_LANDING_URL"):
        Landing("s3://no-such-bucket-anywhere/prefix").put("batches/one", b"1")


def test_what_living_processes_write_under_no_lock_is_no_leftover(tmp_path: Path) -> None:
    """A probe; all else is written under the vault's lock, which whoever deletes everything else holds alone."""
    landing = Landing((tmp_path / "landing").as_uri())
    landing.check_writable()
    directory = tmp_path / "landing" / "batches"
    being_written, left, of_a_batch = (directory / f"{name}#1" for name in ("probe-new", "probe-old", "batch"))
    for path in (being_written, left, of_a_batch):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).timestamp()
    os.utime(of_a_batch, (tomorrow, tomorrow))  # the landing's clock may be ahead of ours

    assert landing.delete_unfinished(datetime.max.replace(tzinfo=UTC)) == 2
    assert list(directory.iterdir()) == [being_written]


@pytest.mark.parametrize("missing", [["AWS_SECRET_ACCESS_KEY"], ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]])
def test_credentials_that_are_missing_are_named(
    missing: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.aws of the developer's
    for name in missing:
        monkeypatch.delenv(name)
    with pytest.raises(OperatorError, match=r"no AWS credentials: .*AWS_PROFILE"):
        Landing("s3://bucket/prefix")


def test_a_landing_that_is_made_lets_nobody_else_in(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        Landing((tmp_path / "made" / "landing").as_uri()).put("masked/one", b"1")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "made" / "landing").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o770, 0o711, 0o1777, 0o704])
def test_a_landing_that_others_can_enter_is_refused_with_the_command_that_closes_it(mode: int, tmp_path: Path) -> None:
    directory = tmp_path / "open to $others"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(OperatorError, match="LOGINETL_LANDING_URL") as raised:
        Landing(directory.as_uri())
    assert stat.S_IMODE(directory.stat().st_mode) == mode, "not ours to change: someone may rely on it"

    command = str(raised.value).partition("`")[2].partition("`")[0]
    assert command.startswith("chmod ")
    subprocess.run(["sh", "-c", command], check=True)
    Landing(directory.as_uri()).put("masked/one", b"1")


def test_a_landing_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match=r"cannot be opened \(Not a directory\): correct LOGINETL_LANDING_URL"):
        Landing((tmp_path / "file" / "landing").as_uri())


@pytest.mark.parametrize("url", ["", "landing", "/landing", "ftp://host/x", "s3://", "file://relative/path"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(OperatorError, match="LOGINETL_LANDING_URL"):
        Landing(url)
