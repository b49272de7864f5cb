"""Keysets where production keeps them: files, variables, Secrets Manager, wrapped by KMS; and shown nowhere."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import boto3
import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap

from loginetl_assets.build import build_definitions
from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keyring import OFFICER_FILE
from loginetl_assets.keys.keysets import read_keyset
from loginetl_assets.logins.encryption import decrypt, encrypt
from loginetl_assets.privacy.recover import recover, tokens_of_user
from loginetl_assets.services import Services
from loginetl_assets.settings import Environment, KeysetRole, Settings
from loginetl_assets_tests.support.command import run_loginetl
from loginetl_assets_tests.support.pipeline import Pipeline, login

REGION = "us-east-1"
FILES = ["landing.json", "masking.json", OFFICER_FILE, "rejects.json", "vault.json"]


def _cli(
    directory: Path, *arguments: str, exit_code: int = 0, environment: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    environment = {"LOGINETL_HOME": str(directory / "home"), **environment}
    return run_loginetl(*arguments, cwd=directory, environment=environment, exit_code=exit_code)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A set of keysets as `loginetl keys init` makes it."""
    _cli(tmp_path, "keys", "init", str(tmp_path / "keysets"))
    return tmp_path / "keysets"


def _material(directory: Path) -> list[str]:
    """What of the keysets must be seen nowhere: pieces of the secret ones' base64 beside Tink's fixed beginning."""
    found = []
    for path in directory.glob("*.json"):
        for key in json.loads(path.read_text()).get("key", []):
            if key["keyData"]["keyMaterialType"] != "ASYMMETRIC_PUBLIC":
                value = key["keyData"]["value"]
                found += [value[12:36], value[-28:-4]]
    assert found
    return found


def _production(settings: Settings, keys: Path, **changes: Any) -> Settings:
    made = replace(
        settings,
        environment=Environment.PRODUCTION,
        landing_url=(settings.home.parent / "landing").as_uri(),
        keysets={role: str(keys / f"{role}.json") for role in KeysetRole},
    )
    return replace(made, **changes)


def _runs(settings: Settings, directory: Path, officer: str) -> None:
    """The whole way: sent, loaded, a rejected one beside it, and recovered."""
    with Pipeline.on(settings, directory) as pipeline:
        pipeline.send([login(), "{}"])
        pipeline.process()
        assert pipeline.totals().loaded == pipeline.totals().rejected == 1
        database = pipeline.services.database()
        reader = Services(replace(settings, officer_keyset=officer)).officer()
        answers = recover(database, reader, tokens_of_user(database, "u-1"), reason="test")
        assert {one.value for one in answers} == {"198.51.100.7", "593-47-5928"}


def test_keys_init_makes_five_private_files_and_names_the_settings(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "keysets"
    done = _cli(tmp_path, "keys", "init", str(directory))
    assert sorted(path.name for path in directory.iterdir()) == FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert done.stdout.split() == [
        f"LOGINETL_KEYSET_{role.upper()}={directory / f'{role}.json'}" for role in KeysetRole
    ]
    assert OFFICER_FILE in done.stderr.replace("\n", "")
    assert not any(piece in done.stdout + done.stderr for piece in _material(directory))


def test_keys_init_never_touches_a_directory_with_something_in_it(tmp_path: Path, keys: Path) -> None:
    before = {path.name: path.read_text() for path in keys.iterdir()}
    done = _cli(tmp_path, "keys", "init", str(keys), exit_code=2)
    assert "never overwritten" in done.stderr
    assert {path.name: path.read_text() for path in keys.iterdir()} == before
    (tmp_path / "a-file").write_text("")
    assert "cannot write keysets" in _cli(tmp_path, "keys", "init", str(tmp_path / "a-file"), exit_code=1).stderr


def test_a_place_that_cannot_take_a_rotated_keyset_is_named(tmp_path: Path, keys: Path) -> None:
    before = {path.name: path.read_text() for path in keys.iterdir()}
    environment = {"LOGINETL_KEYSET_MASKING": str(keys / "masking.json")}
    for output in ("missing/x.json", "keysets/masking.json/x.json"):
        arguments = ("keys", "rotate", "masking", "--output", output)
        done = _cli(tmp_path, *arguments, exit_code=2, environment=environment)
        assert output in done.stderr
        assert "--output" in done.stderr
        assert not any(piece in done.stdout + done.stderr for piece in _material(keys))
    assert {path.name: path.read_text() for path in keys.iterdir()} == before


def test_production_runs_end_to_end_on_the_files_of_keys_init(settings: Settings, keys: Path, tmp_path: Path) -> None:
    production = _production(settings, keys)
    read = Settings.from_environment(production.as_environment())
    assert read.keysets == production.keysets
    _runs(read, tmp_path / "dagster", str(keys / OFFICER_FILE))
    assert not settings.home.joinpath("keys").exists(), "production makes no keys of its own"


def test_production_takes_keysets_as_json_text(settings: Settings, keys: Path, tmp_path: Path) -> None:
    texts = {role: (keys / f"{role}.json").read_text() for role in KeysetRole}
    inline = Settings.from_environment(_production(settings, keys, keysets=texts).as_environment())
    _runs(inline, tmp_path / "dagster", (keys / OFFICER_FILE).read_text())
    done = _cli(tmp_path, "keys", "rotate", "masking", exit_code=1, environment=inline.as_environment())
    assert "--output" in done.stderr
    assert not any(piece in done.stderr for piece in _material(keys))


@pytest.mark.parametrize(
    "content", ["", "{}", "no json", "\xff\xfe", '{"encryptedKeyset": "AAAA"}', '{"primaryKeyId": 1}']
)
def test_a_file_that_is_no_keyset_is_one_line_without_its_text(tmp_path: Path, content: str) -> None:
    (tmp_path / "keyset.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(OperatorError) as caught:
        read_keyset("LOGINETL_KEYSET_MASKING", str(tmp_path / "keyset.json"))
    assert "LOGINETL_KEYSET_MASKING" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not content or content not in str(caught.value)


def test_a_private_keyset_is_refused_as_the_vaults(settings: Settings, keys: Path) -> None:
    private = _production(settings, keys, keysets={KeysetRole.VAULT: str(keys / OFFICER_FILE)})
    with pytest.raises(OperatorError, match="LOGINETL_KEYSET_VAULT is not a public Tink keyset"):
        _ = Services(private).keyring.vault


def test_production_without_the_officers_keyset_cannot_recover(settings: Settings, keys: Path) -> None:
    with pytest.raises(OperatorError, match="LOGINETL_KEYSET_OFFICER is not set"):
        Services(_production(settings, keys)).officer()


@contextmanager
def _ministack(directory: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
    with (directory / "ministack.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            cwd=directory,
            env={
                **{name: os.environ[name] for name in kept if name in os.environ},
                "BIND_HOST": "127.0.0.1",
                "EDGE_PORT": str(port),
                "SERVICES": "secretsmanager,kms",
                "IOT_MTLS_ENABLED": "0",
                "SFTP_ENABLED": "0",
                "LOG_LEVEL": "WARNING",
                "PERSIST_STATE": "0",
                "STATE_DIR": str(directory / "state"),
                "TMPDIR": str(directory),
                "DOCKER_HOST": f"unix://{directory}/no-docker",
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        endpoint = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None and time.monotonic() < deadline, "ministack did not start"
            with suppress(OSError), urlopen(f"{endpoint}/_ministack/health", timeout=5):  # noqa: S310 - our own
                break
            time.sleep(0.1)
        yield endpoint
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Secrets Manager and KMS of our own."""
    with _ministack(tmp_path_factory.mktemp("ministack")) as endpoint:
        yield endpoint


@pytest.fixture
def aws(emulator: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every boto3 client for the two services, here and in commands, is one of the emulator."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", emulator)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", emulator)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    return emulator


def _client(service: Any) -> Any:
    return boto3.client(service, region_name=REGION)


def _kms_key_uri() -> str:
    return f"aws-kms://{_client('kms').create_key()['KeyMetadata']['Arn']}"


@pytest.mark.usefixtures("aws")
def test_keysets_are_read_from_secrets_manager(settings: Settings, keys: Path, tmp_path: Path) -> None:
    client = _client("secretsmanager")
    named = {}
    for role in KeysetRole:
        text = (keys / f"{role}.json").read_text()
        secret = client.create_secret(Name=f"{tmp_path.name}/{role}", SecretString=text)
        named[role] = f"aws-secretsmanager:{secret['ARN' if role is KeysetRole.LANDING else 'Name']}"
    stored = Settings.from_environment(_production(settings, keys, keysets=named).as_environment())
    _runs(stored, tmp_path / "dagster", str(keys / OFFICER_FILE))


@pytest.mark.usefixtures("aws")
def test_a_rotation_writes_the_keyset_back_to_its_secret(settings: Settings, keys: Path, tmp_path: Path) -> None:
    client = _client("secretsmanager")
    name = f"{tmp_path.name}/rotated"
    client.create_secret(Name=name, SecretString=(keys / "masking.json").read_text())
    files = {role: str(keys / f"{role}.json") for role in KeysetRole}
    stored = _production(settings, keys, keysets={**files, KeysetRole.MASKING: f"aws-secretsmanager:{name}"})
    (old,) = Services(stored).keyring.key_ids(KeysetRole.MASKING)
    done = _cli(tmp_path, "keys", "rotate", "masking", environment=stored.as_environment())
    assert not any(piece in done.stdout + done.stderr for piece in _material(keys))
    new, kept = Services(stored).keyring.key_ids(KeysetRole.MASKING)
    assert kept == old != new
    assert json.loads(client.get_secret_value(SecretId=name)["SecretString"])["primaryKeyId"] == new


@pytest.mark.usefixtures("aws")
def test_a_missing_secret_is_one_line(settings: Settings, keys: Path) -> None:
    for content in (None, b"binary"):
        name = f"absent-{keys.parent.name}-{content is None}"
        if content:
            _client("secretsmanager").create_secret(Name=name, SecretBinary=content)
        missing = _production(settings, keys, keysets={KeysetRole.MASKING: f"aws-secretsmanager:{name}"})
        with pytest.raises(OperatorError) as caught:
            _ = Services(missing).keyring.tokenizer
        assert "LOGINETL_KEYSET_MASKING: Secrets Manager does not return the secret" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("aws")
def test_keysets_wrapped_by_kms_hold_no_clear_key_and_run_the_pipeline(settings: Settings, tmp_path: Path) -> None:
    uri = _kms_key_uri()
    wrapped = tmp_path / "wrapped"
    _cli(tmp_path, "keys", "init", str(wrapped), "--kms-key-uri", uri)
    for name in FILES:
        text = (wrapped / name).read_text()
        assert ("encryptedKeyset" in text) == (name != "vault.json"), name
        assert "SYMMETRIC" not in text.replace("ASYMMETRIC_PUBLIC", "")
    production = _production(settings, wrapped, kms_key_uri=uri)
    keyring = Services(production).keyring
    for encryptor in (keyring.landing, keyring.rejects):
        assert decrypt(encryptor, encrypt(encryptor, b"body", "place"), "place") == b"body"
    _runs(Settings.from_environment(production.as_environment()), tmp_path / "dagster", str(wrapped / OFFICER_FILE))
    (old,) = keyring.key_ids(KeysetRole.MASKING)
    _cli(tmp_path, "keys", "rotate", "masking", environment=production.as_environment())
    text = (wrapped / "masking.json").read_text()
    assert "encryptedKeyset" in text, "what was wrapped stays wrapped"
    assert '"key":' not in text
    assert Services(production).keyring.key_ids(KeysetRole.MASKING)[1:] == (old,)


@pytest.mark.usefixtures("aws")
def test_the_wrong_kms_key_or_none_is_one_line_without_material(settings: Settings, tmp_path: Path) -> None:
    uri, other = _kms_key_uri(), _kms_key_uri()
    wrapped = tmp_path / "wrapped"
    _cli(tmp_path, "keys", "init", str(wrapped), "--kms-key-uri", uri)
    text = json.loads((wrapped / "masking.json").read_text())["encryptedKeyset"]
    absent = f"{uri.rsplit('/', 1)[0]}/00000000-0000-0000-0000-000000000000"
    for kms_key_uri, said in (
        (None, "LOGINETL_KMS_KEY_URI"),
        (other, "LOGINETL_KMS_KEY_URI"),
        ("aws-kms://nonsense", "aws-kms://arn:aws:kms:REGION"),
        ("gcp-kms://a/b/c/d", "aws-kms://arn:aws:kms:REGION"),
    ):
        with pytest.raises(OperatorError) as caught:
            _ = Services(_production(settings, wrapped, kms_key_uri=kms_key_uri)).keyring.tokenizer
        assert said in str(caught.value), kms_key_uri
        assert "\n" not in str(caught.value)
        assert text[:20] not in str(caught.value)
    _client("kms").disable_key(KeyId=uri.rsplit("/", 1)[1])
    with pytest.raises(OperatorError, match="LOGINETL_KMS_KEY_URI does not open this keyset"):
        _ = Services(_production(settings, wrapped, kms_key_uri=uri)).keyring.tokenizer
    done = _cli(tmp_path, "keys", "init", str(tmp_path / "more"), "--kms-key-uri", absent, exit_code=1)
    assert "cannot wrap a keyset" in done.stderr
    assert not list((tmp_path / "more").iterdir())


@pytest.mark.usefixtures("aws")
def test_services_that_cannot_be_reached_are_one_line(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = _kms_key_uri()
    wrapped = tmp_path / "wrapped"
    _cli(tmp_path, "keys", "init", str(wrapped), "--kms-key-uri", uri)
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", nowhere)
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", nowhere)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(OperatorError, match="LOGINETL_KEYSET_MASKING: the key of LOGINETL_KMS_KEY_URI cannot be"):
            _ = Services(_production(settings, wrapped, kms_key_uri=uri)).keyring.tokenizer
        secret = _production(settings, wrapped, keysets={KeysetRole.MASKING: "aws-secretsmanager:x"})
        with pytest.raises(OperatorError, match="does not return the secret"):
            _ = Services(secret).keyring.tokenizer


def test_key_material_is_in_no_repr_snapshot_or_run_config(settings: Settings, keys: Path, tmp_path: Path) -> None:
    material = _material(keys)
    texts = {role: (keys / f"{role}.json").read_text() for role in KeysetRole}
    inline = _production(settings, keys, keysets=texts, officer_keyset=(keys / OFFICER_FILE).read_text())
    with Pipeline.on(inline, tmp_path / "dagster") as pipeline:
        pipeline.send([login()])
        result = pipeline.run()
        definitions = build_definitions(inline)
        repository = definitions.get_repository_def()
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of Dagster's own code
            snapshot = RepositorySnap.from_def(repository)
        keyring = pipeline.services.keyring
        shown = {
            "settings": repr(inline) + str(inline),
            "keyring": repr(keyring) + "".join(repr(keyring.handle(role)) for role in KeysetRole),
            "officer": repr(Services(inline).officer()),
            "services": repr(pipeline.services),
            "resources": str(definitions.resources) + repr(repository.get_top_level_resources()),
            "repository": dg.serialize_value(snapshot),
            "jobs": "".join(dg.serialize_value(job.get_job_snapshot()) for job in repository.get_all_jobs()),
            "run": dg.serialize_value(pipeline.instance.get_run_by_id(result.run_id) or result.dagster_run),
            "events": "".join(dg.serialize_value(one) for one in pipeline.instance.all_logs(result.run_id)),
        }
    assert all(shown.values())
    assert "masked_logins" in shown["repository"]
    assert [name for name, text in shown.items() if any(piece in text for piece in material)] == []
