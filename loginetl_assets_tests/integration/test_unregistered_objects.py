"""Objects of the landing that the ledger does not name: after a restore of Postgres, and after runs that died."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import dagster as dg
import pytest
from sqlalchemy import create_engine, make_url, text

from loginetl_assets.aws.session import open_session
from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.keys.keysets import with_new_primary
from loginetl_assets.landing.batch_files import write_messages
from loginetl_assets.landing.object_store import MARKER, Landing
from loginetl_assets.logins.encryption import encrypt
from loginetl_assets.logins.message import QueuedMessage, encode_messages
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.settings import KeysetRole, Settings
from loginetl_assets.steps.unregistered_objects import UnregisteredTotals, register_objects
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login

TWO_DAYS, TWO_MONTHS = timedelta(days=2), timedelta(days=60)
NOT_A_LOGIN = "{}"


class Snapshot:
    """A copy of the whole database as it was, as a backup is; `restore` puts it in the database's place."""

    def __init__(self, settings: Settings) -> None:
        assert settings.database_url is not None
        self._url = make_url(settings.database_url)
        self._copy = f"{self._url.database}_then"
        self._execute(f"CREATE DATABASE {self._copy} TEMPLATE {self._url.database}")

    def restore(self) -> None:
        self._execute(f"DROP DATABASE {self._url.database} WITH (FORCE)")
        self._execute(f"ALTER DATABASE {self._copy} RENAME TO {self._url.database}")

    def _execute(self, statement: str) -> None:
        url = self._url.set(drivername="postgresql+psycopg", database="postgres")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


def message(user: str) -> QueuedMessage:
    return QueuedMessage(str(uuid4()), 1_750_939_200_000, login(user_id=user).encode())


def land_unregistered(pipeline: Pipeline, *messages: QueuedMessage) -> str:
    """Leaves an object as a run leaves it that dies between its put and its commit; gives the key."""
    return write_messages(pipeline.services.landing(), pipeline.services.keyring.landing, list(messages)).object_path


def age(pipeline: Pipeline, by: timedelta = TWO_DAYS, keys: Iterable[str] | None = None) -> None:
    """Makes objects of the landing old; all of them where none is named."""
    root = pipeline.settings.home / "landing"
    then = (datetime.now(UTC) - by).timestamp()
    for path in [root / key for key in keys] if keys else [path for path in root.rglob("*") if path.is_file()]:
        os.utime(path, (then, then))


def retention(pipeline: Pipeline) -> dict[str, Any]:
    """Runs retention; gives what it said."""
    result = pipeline.run({"purge": {"days": 30}}, job="retention")
    (output,) = (event for event in result.all_events if event.is_successful_output)
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def register(pipeline: Pipeline) -> UnregisteredTotals:
    one = pipeline.services
    totals, _ = register_objects(one.database(), one.landing(), one.keyring, before=datetime.now(UTC))
    return totals


def users(pipeline: Pipeline) -> list[str]:
    return [row.user_id for row in pipeline.query("SELECT user_id FROM user_logins ORDER BY user_id")]


def objects(pipeline: Pipeline, prefix: str = "batches") -> set[str]:
    return {path for path, _ in pipeline.services.landing().list(prefix)}


# A restore


def test_what_landed_after_the_moment_that_postgres_was_put_back_to_is_loaded_again(pipeline: Pipeline) -> None:
    pipeline.send([login(user_id="before")])
    pipeline.process()
    snapshot = Snapshot(pipeline.settings)
    pipeline.send([login(user_id="loaded-since"), NOT_A_LOGIN])
    pipeline.process()
    pipeline.send([login(user_id="landed-since")])
    pipeline.drain(visibility_seconds=30)
    snapshot.restore()
    assert users(pipeline) == ["before"]
    age(pipeline)

    said = retention(pipeline)
    result = pipeline.run(job="process_landed")

    assert (said["registered_batches"], said["unreadable_objects"]) == (2, 0)
    assert users(pipeline) == ["before", "landed-since", "loaded-since"]
    assert checks(result)["counts_reconcile"]
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.rejected, totals.duplicates, totals.pending) == (4, 3, 1, 0, 0)
    assert retention(pipeline)["registered_batches"] == 0


def test_a_batch_that_was_masked_when_postgres_was_put_back_is_masked_again(pipeline: Pipeline) -> None:
    pipeline.land([message("one")])
    pipeline.mask()
    snapshot = Snapshot(pipeline.settings)
    pipeline.process_landed(reprocess=True)
    age(pipeline)
    retention(pipeline)
    snapshot.restore()
    age(pipeline)

    retention(pipeline)  # deletes the newer masked file, which this ledger does not name; the older one is gone
    for _ in range(2):
        pipeline.process_landed()

    assert users(pipeline) == ["one"]
    assert pipeline.totals().quarantined_batches == 0


# Runs that died


def test_an_unregistered_object_whose_messages_came_again_adds_no_row(pipeline: Pipeline) -> None:
    pipeline.send([login(user_id="one")])
    (received,) = pipeline.services.queue().receive(wait_seconds=1, visibility_seconds=0)
    land_unregistered(pipeline, received.message)
    pipeline.run_until_empty()
    age(pipeline)

    assert retention(pipeline)["registered_batches"] == 1
    pipeline.process_landed()

    assert users(pipeline) == ["one"]
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.duplicates, totals.pending) == (2, 1, 1, 0)


def test_an_old_unregistered_object_keeps_the_ids_that_are_known_of_its_messages(pipeline: Pipeline) -> None:
    once = message("one")
    pipeline.land([once])
    unregistered = land_unregistered(pipeline, once)
    pipeline.process_landed()
    long_ago = timedelta(days=60)
    age(pipeline, long_ago, [unregistered])
    pipeline.execute("UPDATE loginetl.batches SET landed_at = :old, loaded_at = :old", old=datetime.now(UTC) - long_ago)

    retention(pipeline)
    pipeline.process_landed()

    assert users(pipeline) == ["one"]
    assert pipeline.totals().duplicates == 1


def test_what_is_young_may_still_be_registered_by_its_run(pipeline: Pipeline) -> None:
    key = land_unregistered(pipeline, message("one"))
    assert retention(pipeline)["registered_batches"] == 0
    assert objects(pipeline) == {key}


def test_what_does_not_open_is_left_and_counted(pipeline: Pipeline) -> None:
    landing = pipeline.services.landing()
    landing.put("batches/foreign", b"something of someone else's")
    key = land_unregistered(pipeline, message("one"))
    moved = "batches/moved"
    landing.put(moved, landing.get(key))
    landing.delete([key])
    age(pipeline)

    said = retention(pipeline)

    assert (said["unreadable_objects"], said["registered_batches"]) == (2, 0)
    assert objects(pipeline) == {"batches/foreign", moved}


def test_what_nobody_can_need_is_deleted(pipeline: Pipeline) -> None:
    landing, keys = pipeline.services.landing(), pipeline.services.keyring
    pipeline.land([message("one")])
    pipeline.mask()
    (named,) = objects(pipeline)
    landing.put(f"batches/probe-{uuid4()}", b"")  # of a run that was killed while it tried whether it can write
    empty = f"batches/{uuid4()}"  # of an erasure that took the last message and was killed
    landing.put(empty, encrypt(keys.landing, encode_messages([]), empty))
    (kept,) = objects(pipeline, "masked")
    landing.put("masked/unregistered.parquet", landing.get(kept))
    age(pipeline)

    assert retention(pipeline)["unregistered_objects"] == 3
    assert (objects(pipeline), objects(pipeline, "masked")) == ({named}, {kept})


def test_ids_are_kept_while_an_object_is_there_that_may_hold_their_messages(pipeline: Pipeline) -> None:
    pipeline.send([login(user_id="one")])
    (received,) = pipeline.services.queue().receive(wait_seconds=1, visibility_seconds=0)
    path = pipeline.settings.home / "landing" / land_unregistered(pipeline, received.message)
    pipeline.run_until_empty()
    content = path.read_bytes()
    path.write_bytes(b"cannot be opened")
    pipeline.execute("UPDATE loginetl.batches SET landed_at = now() - :age, loaded_at = now() - :age", age=TWO_MONTHS)
    age(pipeline, TWO_MONTHS)

    assert retention(pipeline)["unreadable_objects"] == 1
    path.write_bytes(content)
    age(pipeline, TWO_MONTHS)
    assert retention(pipeline)["registered_batches"] == 1
    pipeline.process_landed()

    assert users(pipeline) == ["one"]


@pytest.mark.parametrize("key", ["{}//x", "{}/../y", "{}/./z", "{}/\x01", "{}/a b?%20", "{}/", "{}/folder/"])
def test_a_stranger_s_key_in_the_bucket_stops_nothing(
    settings: Settings, addresses: Addresses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    for name, value in (
        ("ENDPOINT_URL_S3", addresses.sqs_endpoint),
        ("ACCESS_KEY_ID", "x"),
        ("SECRET_ACCESS_KEY", "x"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    s3, bucket = open_session().client("s3", region_name="us-east-1"), f"landing-{uuid4().hex[:12]}"
    s3.create_bucket(Bucket=bucket)
    there = replace(settings, landing_url=f"s3://{bucket}/in/here")
    with Pipeline.on(there, tmp_path / "there") as pipeline:
        for prefix in ("batches", "masked"):
            s3.put_object(Bucket=bucket, Key=f"in/here/{key.format(prefix)}", Body=b"a stranger's")
        land_unregistered(pipeline, message("goes"), message("stays"))

        one = pipeline.services
        found = register(pipeline)
        Erasure(one.database(), one.landing(), one.keyring, subject_of("goes", [], one.keyring)).run("asked for")
        retention(pipeline)
        pipeline.process_landed()

        assert (found.registered_batches, users(pipeline)) == (1, ["stays"])
        kept = {found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]}
        assert kept >= {f"in/here/{key.format(prefix)}" for prefix in ("batches", "masked")}


@pytest.mark.parametrize("way", ["retention", "erasure"])
def test_what_retention_has_removed_is_removed_again_when_a_backup_of_the_landing_brings_it_back(
    pipeline: Pipeline, way: str
) -> None:
    pipeline.land([message("one"), message("two")])
    pipeline.process_landed()
    (key,) = objects(pipeline)
    content = pipeline.services.landing().get(key)
    pipeline.execute("UPDATE loginetl.batches SET landed_at = now() - :age, loaded_at = now() - :age", age=TWO_MONTHS)
    retention(pipeline)
    pipeline.services.landing().put(key, content)
    age(pipeline)

    if way == "erasure":
        one = pipeline.services
        Erasure(one.database(), one.landing(), one.keyring, subject_of("one", [], one.keyring)).run("asked for")
    else:
        assert retention(pipeline)["unregistered_objects"] == 1

    assert objects(pipeline) == set()


def test_an_unregistered_object_is_registered_with_the_key_that_encrypted_it(pipeline: Pipeline) -> None:
    keys = pipeline.services.keyring
    land_unregistered(pipeline, message("one"))
    (old,) = keys.key_ids(KeysetRole.LANDING)
    from loginetl_assets.keys.keyring import TEMPLATES
    from loginetl_assets.keys.keysets import keyset_json, replace_keyset

    rotated = with_new_primary(keys.handle(KeysetRole.LANDING), TEMPLATES[KeysetRole.LANDING])
    replace_keyset("LOGINETL_KEYSET_LANDING", keys.source(KeysetRole.LANDING), keyset_json(rotated))
    with Pipeline.on(pipeline.settings, pipeline.settings.home.parent / "rotated") as again:
        assert again.services.keyring.key_ids(KeysetRole.LANDING)[0] != old
        register(again)
        assert again.query("SELECT landing_key_id FROM loginetl.batches")[0][0] == old


def test_two_that_register_at_once_register_each_object_once(pipeline: Pipeline) -> None:
    for number in range(10):
        land_unregistered(pipeline, message(f"u-{number}"))
    with ThreadPoolExecutor(2) as pool:
        found = [future.result() for future in [pool.submit(register, pipeline) for _ in range(2)]]
    assert sum(one.registered_batches for one in found) == 10
    assert pipeline.totals().batches == 10


# Erasures


class _Undeletable(Landing):
    """A landing whose deletes fail, as for a process that is killed before its first one."""

    def delete(self, keys: Iterable[str]) -> list[str]:
        if list(keys):
            raise TransientError("killed")
        return []


def test_what_an_erasure_replaced_is_never_registered_again(pipeline: Pipeline) -> None:
    one = pipeline.services
    pipeline.land([message("goes"), message("stays")])
    (replaced,) = objects(pipeline)
    subject = subject_of("goes", [], one.keyring)
    with pytest.raises(TransientError):
        Erasure(one.database(), _Undeletable(one.landing().url), one.keyring, subject).run("asked for")
    assert replaced in objects(pipeline)

    assert register(pipeline).registered_batches == 0
    age(pipeline)
    retention(pipeline)
    pipeline.process_landed()

    assert replaced not in objects(pipeline)
    assert users(pipeline) == ["stays"]


def test_what_an_erasure_wrote_and_did_not_name_ends_as_duplicates(pipeline: Pipeline) -> None:
    stays = message("stays")
    pipeline.land([stays])
    land_unregistered(pipeline, stays)
    age(pipeline)
    retention(pipeline)
    pipeline.process_landed()
    assert users(pipeline) == ["stays"]
    assert pipeline.totals().duplicates == 1


# Whose landing it is


@contextmanager
def second_installation(pipeline: Pipeline, addresses: Addresses, directory: Path) -> Iterator[Pipeline]:
    """Another database on the same landing, with the same keys."""
    name = f"second_{uuid4().hex[:12]}"
    url = make_url(addresses.database_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE loginetl_template"))
    settings = replace(
        pipeline.settings,
        database_url=addresses.database_url.replace("/loginetl?", f"/{name}?"),
    )
    with Pipeline.on(settings, directory) as second:
        second.execute("UPDATE loginetl.installation SET installation_id = gen_random_uuid()")
        yield second
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def assert_refused(result: dg.ExecuteInProcessResult) -> None:
    assert not result.success
    said = str([event.step_failure_data for event in result.get_step_failure_events()])
    assert "LOGINETL_LANDING_URL" in said
    assert MARKER in said


def test_a_second_installation_on_the_same_landing_is_refused(
    pipeline: Pipeline, addresses: Addresses, tmp_path: Path
) -> None:
    pipeline.send([login(user_id="production")])
    pipeline.drain(visibility_seconds=30)
    before = objects(pipeline)
    age(pipeline)
    with second_installation(pipeline, addresses, tmp_path / "second") as second:
        for job in ("login_etl", "process_landed", "replay_rejected", "retention"):
            assert_refused(second.run(job=job, expect_success=False))
        assert second.totals().batches == 0
    assert objects(pipeline) == before
    pipeline.process()
    assert users(pipeline) == ["production"]


def test_a_landing_whose_database_is_gone_is_taken_over_once_its_marker_is_deleted(
    pipeline: Pipeline, addresses: Addresses, tmp_path: Path
) -> None:
    pipeline.send([login(user_id="one"), login(user_id="two")])
    pipeline.process()
    age(pipeline)
    with second_installation(pipeline, addresses, tmp_path / "second") as second:
        (second.settings.home / "landing" / MARKER).unlink()
        retention(second)
        second.process_landed()
        assert users(second) == ["one", "two"]
    assert_refused(pipeline.run(expect_success=False))


@pytest.mark.parametrize("where", ["file", "s3"])
def test_of_two_that_use_a_new_landing_at_once_one_has_it(
    settings: Settings, addresses: Addresses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    url = tmp_path.as_uri()
    if where == "s3":
        import boto3

        name = f"landing-{uuid4().hex[:12]}"
        boto3.client("s3", endpoint_url=addresses.sqs_endpoint, region_name="us-east-1").create_bucket(Bucket=name)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", addresses.sqs_endpoint)
        url = f"s3://{name}/login"

    def bind(installation: UUID) -> bool:
        try:
            Landing(url).bind(installation)
        except OperatorError:
            return False
        return True

    installations = [uuid4() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        first = list(pool.map(bind, installations))
    assert sum(first) == 1
    assert [bind(one) for one in installations] == first


def test_a_marker_that_says_nothing_is_refused(pipeline: Pipeline) -> None:
    pipeline.services.landing().put(MARKER, b"")
    assert_refused(pipeline.run(expect_success=False))
