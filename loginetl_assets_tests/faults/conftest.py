"""Services behind proxies, for the tests of faults."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loginetl_assets.embedded import Addresses
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings
from loginetl_assets_tests.support.http_proxy import HttpProxy
from loginetl_assets_tests.support.pipeline import Pipeline, new_bucket
from loginetl_assets_tests.support.postgres_proxy import PostgresProxy

pytest.register_assert_rewrite("loginetl_assets_tests.support.scene")  # its reckoning then shows what does not add up
from loginetl_assets_tests.support.scene import Scene  # noqa: E402


@pytest.fixture
def proxy(addresses: Addresses) -> Iterator[HttpProxy]:
    """A proxy of the emulator's SQS and S3, without a rule yet."""
    with HttpProxy(addresses.sqs_endpoint) as proxy:
        yield proxy


@pytest.fixture
def on_s3(
    pipeline: Pipeline, addresses: Addresses, proxy: HttpProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pipeline]:
    """The pipeline with its landing on the emulator's S3, behind the proxy; its queue is reached without."""
    name = new_bucket(addresses.sqs_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    settings = replace(pipeline.settings, landing_url=f"s3://{name}/login", visibility_seconds=2)
    with Pipeline.on(settings, tmp_path / "on-s3") as on_s3:
        yield on_s3


@pytest.fixture
def scene(settings: Settings, addresses: Addresses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Messages on a queue, and services behind proxies without a fault yet; the landing is a directory."""
    assert settings.database_url is not None
    Services(settings).keyring.make_missing()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", addresses.sqs_endpoint)
    with HttpProxy(addresses.sqs_endpoint) as sqs, PostgresProxy(settings.database_url) as postgres:
        scene = Scene(settings, sqs, postgres, tmp_path)
        scene.send()
        yield scene


@pytest.fixture
def scene_on_s3(scene: Scene, addresses: Addresses) -> Scene:
    """The same with the landing on S3."""
    bucket = new_bucket(addresses.sqs_endpoint)
    scene.settings = replace(scene.settings, landing_url=f"s3://{bucket}/logins")
    return scene
