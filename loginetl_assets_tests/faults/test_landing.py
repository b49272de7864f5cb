"""What becomes of a landing's objects, which may be gone, cut, altered or exchanged, and what becomes of S3's answers.

Nothing is ever loaded from a damaged object. Its batch is quarantined with a reason, the others go on, and once the
object is fixed `masked_logins` with `reprocess` loads what was missing. A masked file is written again.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import UnreadableError, read_masked
from loginetl_assets.logins.encryption import encrypt
from loginetl_assets.logins.message import QueuedMessage, encode_messages
from loginetl_assets.steps.batch_objects import read_batch
from loginetl_assets.storage import batches
from loginetl_assets.storage.batches import BatchState
from loginetl_assets_tests.support.http_proxy import (
    HttpProxy,
    Request,
    alter,
    answer,
    delay,
    forward_then_drop,
    half,
    operation,
)
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login, metadata
from loginetl_assets_tests.support.proxy import Rule

_CHANCE = Random(7)  # noqa: S311 - reproducible on purpose


def matching(method: str, part: str) -> Callable[[Request], bool]:
    """Matches requests by method and a part of the path."""
    return lambda request: request.method == method and part in request.path


Damage = Callable[[Path, Path], None]  # of the object at the first path; the second is another batch's


def gone(path: Path, other: Path) -> None:
    path.unlink()


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: _CHANCE.randrange(1, path.stat().st_size)])


def lengthened(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def altered_by_a_bit(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[_CHANCE.randrange(len(content))] ^= 1 << _CHANCE.randrange(8)
    path.write_bytes(content)


def exchanged(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def encrypted_with_another_key(path: Path, other: Path) -> None:
    key = f"batches/{path.name}"
    stranger = Keyring({}, path.parents[2] / f"strange-keys-{uuid4()}")
    path.write_bytes(encrypt(stranger.landing, encode_messages([]), key))


def land_users(pipeline: Pipeline, *users: str) -> None:
    """Lands a login of each user, each as a batch."""
    for user in users:
        pipeline.land([QueuedMessage(str(uuid4()), 1_750_939_200_000, login(user_id=user).encode())])


def users_of(pipeline: Pipeline) -> list[str]:
    return sorted(row.user_id for row in pipeline.query("SELECT user_id FROM user_logins"))


def objects(pipeline: Pipeline, column: str) -> list[Path]:
    """The files of all batches, oldest first."""
    rows = pipeline.query(f"SELECT {column} AS key FROM loginetl.batches ORDER BY batch_id")  # noqa: S608
    return [pipeline.settings.home / "landing" / row.key for row in rows]


def reasons(pipeline: Pipeline) -> dict[int, str]:
    rows = pipeline.query("SELECT batch_id, quarantine_reason FROM loginetl.batches WHERE state = 'quarantined'")
    return {row.batch_id: row.quarantine_reason for row in rows}


DAMAGES: list[Damage] = [
    gone, emptied, cut, lengthened, exchanged, altered_by_a_bit, altered_by_a_bit, encrypted_with_another_key,
]  # fmt: skip


OBJECT = "batches/[0-9a-f-]{36}"


def damage_all_but_every_second(paths: list[Path]) -> dict[Path, bytes]:
    """Does each kind of damage to an object between two whole ones; returns what the damaged ones held."""
    damaged = dict(zip(paths[1::2], DAMAGES, strict=True))
    whole = {path: path.read_bytes() for path in damaged}
    for (path, damage), other in zip(damaged.items(), paths[::2], strict=False):
        damage(path, other)
    return whole


def assert_quarantined(pipeline: Pipeline) -> None:
    """Every second batch is quarantined for its own reason, and the others are loaded."""
    assert users_of(pipeline) == USERS[::2]
    said = reasons(pipeline)
    assert len(said) == len(DAMAGES)
    missing, *others = [said[batch_id] for batch_id in sorted(said)]
    assert missing.startswith("raw batch: the landing has no object ")
    for said_of_it in others:
        assert re.fullmatch(rf"raw batch {OBJECT}: it was altered, or encrypted with another key", said_of_it)
    totals = pipeline.totals()
    assert (totals.quarantined_batches, totals.pending, totals.loaded) == (len(DAMAGES), len(DAMAGES), len(USERS) // 2)


def assert_all_loaded(pipeline: Pipeline) -> None:
    assert users_of(pipeline) == USERS
    assert reasons(pipeline) == {}
    totals = pipeline.totals()
    assert (totals.quarantined_batches, totals.pending, totals.loaded, totals.duplicates) == (0, 0, len(USERS), 0)


USERS = [f"u-{number:02}" for number in range(2 * len(DAMAGES))]


def test_damaged_batches_are_quarantined_and_loaded_once_they_are_fixed(pipeline: Pipeline) -> None:
    land_users(pipeline, *USERS)
    whole = damage_all_but_every_second(objects(pipeline, "object_path"))

    result = pipeline.run()

    assert metadata(result, "masked_logins")["quarantined_batches"] == len(DAMAGES)
    assert checks(result)["counts_reconcile"]
    assert_quarantined(pipeline)
    for path, content in whole.items():
        path.write_bytes(content)
    pipeline.run({"masked_logins": {"reprocess": True, "batch_ids": list(reasons(pipeline))}})
    assert_all_loaded(pipeline)


def test_damaged_masked_files_are_never_loaded_and_written_again_by_the_next_run(pipeline: Pipeline) -> None:
    land_users(pipeline, *USERS)
    pipeline.mask()
    damage_all_but_every_second(objects(pipeline, "masked_path"))

    result = pipeline.run()

    assert metadata(result, "user_logins")["batches_to_mask_again"] == len(DAMAGES)
    assert checks(result)["counts_reconcile"]
    assert users_of(pipeline) == USERS[::2]
    totals = pipeline.totals()
    assert (totals.quarantined_batches, totals.pending, totals.loaded) == (0, len(DAMAGES), len(USERS) // 2)
    pipeline.process()
    assert_all_loaded(pipeline)


def test_a_damaged_masked_file_whose_batch_is_damaged_too_is_quarantined_with_it(pipeline: Pipeline) -> None:
    land_users(pipeline, "one")
    pipeline.mask()
    for column in ("masked_path", "object_path"):
        (path,) = objects(pipeline, column)
        path.write_bytes(b"")

    for _ in range(2):
        pipeline.process()

    (path,) = objects(pipeline, "object_path")
    named = f"batches/{path.name}"
    assert list(reasons(pipeline).values()) == [f"raw batch {named}: it was altered, or encrypted with another key"]


@contextmanager
def bit_altered(path: Path, position: int) -> Iterator[None]:
    whole = path.read_bytes()
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
    yield
    path.write_bytes(whole)


def test_a_bit_altered_anywhere_in_either_object_is_noticed(pipeline: Pipeline) -> None:
    land_users(pipeline, "damaged")
    pipeline.mask()
    landing, keys = pipeline.services.landing(), pipeline.services.keyring
    with pipeline.services.database().transaction() as connection:
        batch = batches.claim_batch(connection, [BatchState.MASKED])
    assert batch is not None
    raw, masked = objects(pipeline, "object_path")[0], objects(pipeline, "masked_path")[0]

    for position in range(0, raw.stat().st_size, 3):
        with bit_altered(raw, position), pytest.raises(UnreadableError, match=f"^raw batch {OBJECT}: it was altered"):
            read_batch(landing, keys, batch)
    for position in range(0, masked.stat().st_size, 9):
        with (
            bit_altered(masked, position),
            pytest.raises(UnreadableError, match=f"^masked file masked/{masked.name}: it was altered"),
        ):
            read_masked(landing, batch.masked_path)

    assert len(read_batch(landing, keys, batch)) == read_masked(landing, batch.masked_path).height == 1


# On S3


WRITES = operation("PUT /")
BATCH_READS = matching("GET", "/login/batches/")


@pytest.mark.parametrize("status", [500, 503])
def test_a_failure_of_s3_that_passes_is_no_failure_of_the_run(on_s3: Pipeline, proxy: HttpProxy, status: int) -> None:
    on_s3.send([login(user_id="one")])
    faults = [proxy.add(Rule(matches, answer(status), times=2)) for matches in (WRITES, BATCH_READS)]

    result = on_s3.run()

    assert not [event for event in result.all_events if event.is_step_up_for_retry], "the store's own tries suffice"
    assert [fault.acted for fault in faults] == [2, 2]
    assert users_of(on_s3) == ["one"]
    assert on_s3.totals().duplicates == 0


def test_a_slow_s3_is_waited_for(on_s3: Pipeline, proxy: HttpProxy) -> None:
    on_s3.send([login(user_id="one")])
    fault = proxy.add(Rule(lambda request: True, delay(1.0), times=4))

    on_s3.process()

    assert fault.acted >= 2
    assert users_of(on_s3) == ["one"]


def test_a_failure_of_s3_that_stays_is_said_and_leaves_the_messages_on_the_queue(
    on_s3: Pipeline, proxy: HttpProxy
) -> None:
    on_s3.send([login(user_id="one")])
    proxy.add(Rule(WRITES, answer(503), times=None))

    with pytest.raises(TransientError, match="cannot write to the landing at s3://"):
        on_s3.drain()

    assert on_s3.totals().batches == 0
    proxy.clear()
    on_s3.run_until_empty()
    assert users_of(on_s3) == ["one"]
    assert on_s3.totals().messages == 1


def test_a_write_whose_answer_was_lost_is_made_again_and_counted_once(on_s3: Pipeline, proxy: HttpProxy) -> None:
    on_s3.send([login(user_id="one")])
    fault = proxy.add(Rule(WRITES, forward_then_drop(), times=2))

    on_s3.process()

    assert fault.acted == 2
    assert users_of(on_s3) == ["one"]
    assert on_s3.totals().messages == 1


def test_a_write_that_is_never_answered_leaves_an_object_that_is_not_loaded(on_s3: Pipeline, proxy: HttpProxy) -> None:
    on_s3.drain()  # the landing is bound to its database then, and the next write is the batch's
    on_s3.send([login(user_id="one")])
    proxy.add(Rule(WRITES, forward_then_drop(), times=None))

    with pytest.raises(TransientError, match="cannot write to the landing at s3://"):
        on_s3.drain()

    proxy.clear()
    unregistered = {path for path, _ in on_s3.services.landing().list("batches")}
    assert len(unregistered) == 1
    on_s3.run_until_empty()
    assert users_of(on_s3) == ["one"]
    totals = on_s3.totals()
    assert (totals.messages, totals.loaded, totals.duplicates) == (1, 1, 0)
    assert unregistered.isdisjoint(row.object_path for row in on_s3.query("SELECT object_path FROM loginetl.batches"))


@pytest.mark.parametrize("matches", [WRITES, BATCH_READS])
def test_a_landing_that_refuses_stops_the_run_with_its_setting_and_quarantines_nothing(
    on_s3: Pipeline, proxy: HttpProxy, matches: Callable[[Request], bool]
) -> None:
    on_s3.send([login(user_id="one")])
    denied = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
    fault = proxy.add(Rule(matches, answer(403, denied), times=None))

    result = on_s3.run(expect_success=False)

    assert fault.acted == 1, "not tried again"
    assert not result.success
    said = str([event.step_failure_data for event in result.get_step_failure_events()])
    assert "LOGINETL_LANDING_URL" in said
    assert "not allowed" in said
    assert on_s3.totals().quarantined_batches == 0
    proxy.clear()
    on_s3.run_until_empty()
    assert users_of(on_s3) == ["one"]


def test_a_listing_that_finds_no_bucket_names_the_setting_whatever_the_store_calls_it(
    on_s3: Pipeline, proxy: HttpProxy
) -> None:
    landing = on_s3.services.landing()
    proxy.add(Rule(lambda request: request.method == "GET", answer(404), times=None))
    with pytest.raises(OperatorError, match="LOGINETL_LANDING_URL"):
        list(landing.list("batches"))


def test_a_batch_that_s3_has_lost_is_quarantined_and_loaded_once_it_is_back(on_s3: Pipeline) -> None:
    land_users(on_s3, "lost", "kept")
    landing = on_s3.services.landing()
    (key,) = on_s3.query("SELECT object_path FROM loginetl.batches ORDER BY batch_id LIMIT 1")[0]
    content = landing.get(key)
    landing.delete([key])

    on_s3.process()

    assert users_of(on_s3) == ["kept"]
    assert list(reasons(on_s3).values()) == [f"raw batch: the landing has no object {key}"]
    landing.put(key, content)
    on_s3.process_landed(reprocess=True)
    assert users_of(on_s3) == ["kept", "lost"]


def test_an_answer_of_s3_that_was_cut_off_is_asked_for_again(on_s3: Pipeline, proxy: HttpProxy) -> None:
    on_s3.send([login(user_id="one")])
    fault = proxy.add(Rule(BATCH_READS, alter(half)))

    on_s3.process()

    assert fault.acted == 1
    assert users_of(on_s3) == ["one"]
