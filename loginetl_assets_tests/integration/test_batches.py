"""The rules of batches and message ids, each by itself on Postgres: what is claimed, counted, kept and removed.

The pipeline's own tests show that these rules are used; this file is what `make mutants` runs against changes of them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, event, text

from loginetl_assets.embedded import Addresses
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.settings import KeysetRole
from loginetl_assets.storage import batches, installation, message_ids, objects, rejections
from loginetl_assets.storage.batches import Batch, BatchState, Results
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.message_ids import REDELIVERY
from loginetl_assets_tests.support.databases import new_database

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
RETENTION = 30 * DAY


class Rules:
    """A database, with what the tests put into it."""

    def __init__(self, url: str) -> None:
        self.database = LoginDatabase(url)

    @contextmanager
    def open(self) -> Iterator[Connection]:
        with self.database.transaction() as connection:
            yield connection

    def add(self, state: BatchState = BatchState.LANDED, *, messages: int = 3, **columns: Any) -> int:
        """Registers a batch of `messages`, and sets its columns; gives its id."""
        with self.open() as connection:
            batch_id = batches.register_batch(
                connection,
                object_path=f"batches/{uuid4()}",
                landing_key_id=1,
                messages=[QueuedMessage("", 0, b"")] * messages,
                bytes=10,
                run_id="landing",
            )
            changes = {"state": state.value, **columns}
            if state is BatchState.LOADED:
                changes = {"loaded": messages, "loaded_at": NOW, **changes}
            connection.execute(
                text(
                    f"UPDATE loginetl.batches SET {', '.join(f'{name} = :{name}' for name in changes)}"  # noqa: S608
                    " WHERE batch_id = :batch_id"
                ),
                {**changes, "batch_id": batch_id},
            )
        return batch_id

    def settle(self, batch_id: int, outcome: str, *keys: UUID) -> list[UUID]:
        """Enters messages with an outcome, of new ids where none are given; a rejected one has its body."""
        entered = list(keys) or [uuid4()]
        for key in entered:
            self.execute(
                "INSERT INTO loginetl.processed_messages (message_uuid, batch_id, outcome)"
                " VALUES (:key, :id, :outcome)",
                key=key,
                id=batch_id,
                outcome=outcome,
            )
            if outcome == "rejected":
                self.execute(
                    "INSERT INTO loginetl.rejected_logins (message_uuid, batch_id, sent_at, reason, encrypted_body)"
                    " VALUES (:key, :id, now(), 'bad_ip', '')",
                    key=key,
                    id=batch_id,
                )
        return entered

    def execute(self, statement: str, **values: Any) -> None:
        with self.open() as connection:
            connection.execute(text(statement), values)

    def query(self, statement: str, **values: Any) -> list[Any]:
        with self.open() as connection:
            return [tuple(row) for row in connection.execute(text(statement), values)]

    def batch(self, batch_id: int) -> Batch:
        with self.open() as connection:
            return _of(batches.claim_batch(connection, list(BatchState), only=[batch_id]))

    def outcomes(self) -> dict[UUID, tuple[int, str]]:
        return {
            key: (batch_id, outcome)
            for key, batch_id, outcome in self.query(
                "SELECT message_uuid, batch_id, outcome FROM loginetl.processed_messages"
            )
        }


def _of(batch: Batch | None) -> Batch:
    assert batch is not None
    return batch


def _ids(batches: Sequence[Batch]) -> list[int]:
    return [batch.batch_id for batch in batches]


@pytest.fixture(scope="module")
def database_url(addresses: Addresses) -> Iterator[str]:
    """A migrated database for all tests of this module: `make mutants` runs them some hundred times."""
    with new_database(addresses) as url:
        yield url


@pytest.fixture
def rules(database_url: str) -> Rules:
    """A database without batches and message ids."""
    rules = Rules(database_url)
    for table in ("rejected_logins", "processed_messages", "batches", "pending_deletions", "keys"):
        rules.execute(f"DELETE FROM loginetl.{table}")  # noqa: S608
    return rules


@contextmanager
def _impatient(rules: Rules) -> Iterator[Connection]:
    """A second session that waits for nothing."""
    with rules.open() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '200ms'"))
        yield connection


def test_a_batch_is_registered_as_landed_with_what_is_known_of_it(rules: Rules) -> None:
    sent = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp() * 1000)
    with rules.open() as connection:
        batch_id = batches.register_batch(
            connection,
            object_path="batches/x",
            landing_key_id=7,
            messages=[QueuedMessage("", sent + later, b"") for later in (1, 0, 2)],
            bytes=11,
            run_id="run",
        )
    found = rules.batch(batch_id)
    assert (found.batch_id, found.object_path, found.landing_key_id) == (batch_id, "batches/x", 7)
    assert (found.state, found.messages, found.pending, found.masked_path) == (BatchState.LANDED, 3, 3, None)
    assert rules.query("SELECT bytes, oldest_sent_at, landed_run_id FROM loginetl.batches") == [
        (11, datetime(2026, 1, 2, tzinfo=UTC), "run")
    ]


def test_a_batch_that_is_registered_again_landed_when_its_object_was_written(rules: Rules) -> None:
    written = datetime(2026, 1, 2, tzinfo=UTC)
    with rules.open() as connection:
        for landed_at in (None, written):
            batches.register_batch(
                connection,
                object_path=f"batches/{landed_at}",
                landing_key_id=1,
                messages=[QueuedMessage("", 0, b"")],
                bytes=1,
                run_id=None,
                landed_at=landed_at,
            )
        now = connection.execute(text("SELECT now()")).scalar_one()
    assert rules.query("SELECT landed_at, registered_again_at FROM loginetl.batches ORDER BY batch_id") == [
        (now, None),
        (written, now),
    ]


def test_the_oldest_batch_of_the_states_asked_for_is_claimed(rules: Rules) -> None:
    rules.add(BatchState.LOADED)
    purged = rules.add(object_purged_at=NOW)
    first, second, masked = rules.add(), rules.add(), rules.add(BatchState.MASKED)
    with rules.open() as connection:
        landed = [BatchState.LANDED]
        assert _of(batches.claim_batch(connection, landed)).batch_id == first
        assert _of(batches.claim_batch(connection, landed, after=first)).batch_id == second
        assert batches.claim_batch(connection, landed, after=second) is None
        assert _of(batches.claim_batch(connection, landed, newest=True)).batch_id == second
        assert _of(batches.claim_batch(connection, landed, newest=True, before=second)).batch_id == first
        assert _of(batches.claim_batch(connection, [BatchState.MASKED])).batch_id == masked
        assert _of(batches.claim_batch(connection, landed, only=[second, masked])).batch_id == second
        assert batches.claim_batch(connection, landed, only=[masked, purged]) is None


def test_a_claimed_batch_is_passed_over_by_others_until_the_claim_ends(rules: Rules) -> None:
    first, second = rules.add(), rules.add()
    with rules.open() as mine:
        assert _of(batches.claim_batch(mine, [BatchState.LANDED])).batch_id == first
        with _impatient(rules) as others:
            assert _of(batches.claim_batch(others, [BatchState.LANDED])).batch_id == second
            assert batches.claim_batch(others, [BatchState.LANDED], only=[first]) is None
    assert rules.batch(first).batch_id == first


def test_a_batch_that_is_locked_by_id_is_waited_for(rules: Rules) -> None:
    batch_id, purged = rules.add(), rules.add(object_purged_at=NOW)
    with rules.open() as mine:
        assert _of(batches.lock_batch(mine, batch_id)).batch_id == batch_id
        assert batches.lock_batch(mine, purged) is None
        with pytest.raises((OperatorError, TransientError)), _impatient(rules) as others:
            batches.lock_batch(others, batch_id)
        with pytest.raises((OperatorError, TransientError)), _impatient(rules) as others:
            batches.lock_batches(others, [purged, batch_id])
    with rules.open() as mine:
        batches.lock_batches(mine, [batch_id])
        with _impatient(rules) as others:
            assert batches.claim_batch(others, list(BatchState)) is None


def test_several_batches_are_locked_in_the_order_of_their_ids(rules: Rules) -> None:
    first, second = rules.add(), rules.add()

    def lock_both() -> None:
        with rules.open() as connection:
            batches.lock_batches(connection, [second, first])

    with ThreadPoolExecutor(1) as pool:
        with rules.open() as mine:
            batches.lock_batches(mine, [second])
            both = pool.submit(lock_both)
            while not rules.query("SELECT FROM pg_locks WHERE NOT granted") and not both.done():
                time.sleep(0.01)
            with rules.open() as others:
                assert batches.claim_batch(others, list(BatchState), only=[first]) is None, (
                    "it waits with the first one"
                )
        both.result()


def test_pending_masked_batches_come_oldest_first_in_pages(rules: Rules) -> None:
    rules.add()
    masked = [rules.add(BatchState.MASKED) for _ in range(3)]
    rules.add(BatchState.LOADED)
    with rules.open() as connection:
        assert _ids(batches.list_batches(connection, BatchState.MASKED, limit=2)) == masked[:2]
        assert _ids(batches.list_batches(connection, BatchState.MASKED, after=masked[1], limit=2)) == masked[2:]


@pytest.mark.parametrize("action", ["masked", "loaded"])
def test_a_check_sees_the_batches_of_its_run_or_the_latest_that_is_there(rules: Rules, action: Any) -> None:
    state = BatchState(action)

    def touched(run_id: str, days: int, **columns: Any) -> int:
        changes: dict[str, Any] = {f"{action}_run_id": run_id, f"{action}_at": NOW - days * DAY, **columns}
        return rules.add(state, **changes)

    of_run = [touched("a", 3), touched("a", 4)]
    latest = [touched("b", 1) for _ in range(2)][-1]
    touched("c", 0, object_purged_at=NOW)
    rules.add()
    with rules.open() as connection:
        assert _ids(batches.touched_by_run(connection, "a", action)) == of_run
        assert _ids(batches.touched_by_run(connection, "nobody", action)) == [latest]


def test_a_batch_that_cannot_be_read_is_reported_with_its_reason(rules: Rules) -> None:
    rules.add()
    aside = [rules.add(messages=count) for count in (4, 5)]
    with rules.open() as connection:
        for batch_id, reason in zip(aside, ("gone", "cut"), strict=True):
            batches.quarantine(connection, _of(batches.lock_batch(connection, batch_id)), reason)
    with rules.open() as connection:
        found = batches.list_batches(connection, BatchState.QUARANTINED)
        assert [(one.batch_id, one.messages, one.reason) for one in found] == [
            (aside[0], 4, "gone"),
            (aside[1], 5, "cut"),
        ]
        assert all(one.quarantined_at and NOW - DAY < one.quarantined_at < NOW + DAY for one in found)
        assert batches.list_batches(connection, BatchState.QUARANTINED, limit=1) == found[:1]


def test_what_is_settled_is_known_with_its_batch_and_outcome(rules: Rules) -> None:
    one, other = rules.add(), rules.add()
    (loaded,), (rejected,) = rules.settle(one, "loaded"), rules.settle(other, "rejected")
    strangers = [uuid4()]
    with rules.open() as connection:
        assert message_ids.outcomes_of(connection, list(map(str, [loaded, rejected, *strangers]))) == {
            str(loaded): (one, "loaded"),
            str(rejected): (other, "rejected"),
        }
        assert message_ids.outcomes_of(connection, list(map(str, strangers))) == {}
    (another,) = rules.settle(one, "loaded")
    (erased,) = rules.settle(one, "erased")
    with rules.open() as connection:
        assert message_ids.ids_by_outcome(connection, one) == {
            "loaded": {str(loaded), str(another)},
            "erased": {str(erased)},
        }
        assert message_ids.ids_by_outcome(connection, other) == {"rejected": {str(rejected)}}
        assert message_ids.ids_by_outcome(connection, other + 1) == {}


def test_an_event_is_known_and_a_message_that_brings_it_again_is_settled_once(rules: Rules) -> None:
    first, second = rules.add(), rules.add()
    (key,), event, unknown = rules.settle(first, "loaded"), uuid4(), uuid4()
    rules.execute("UPDATE loginetl.processed_messages SET event_uuid = :event", event=event)
    again = uuid4()
    with rules.open() as connection:
        assert message_ids.loaded_events(connection, [event, unknown]) == {event}
        assert message_ids.loaded_events(connection, [unknown]) == set()
        message_ids.record_duplicates(connection, second, [again, key])
    assert rules.outcomes() == {key: (first, "loaded"), again: (second, "duplicate")}


def test_a_masked_batch_is_recorded_with_its_counts_and_its_former_file_is_to_be_deleted(rules: Rules) -> None:
    batch_id, other = rules.add(messages=9), rules.add()
    for masked_path in ("masked/one", "masked/two"):
        with rules.open() as connection:
            batches.mark_masked(
                connection,
                _of(batches.lock_batch(connection, batch_id)),
                Results(loaded=1, duplicates=3, rejected=2),
                masked_path=masked_path,
                unknown_fields=4,
                run_id="masking",
            )
    found = rules.batch(batch_id)
    assert (found.state, found.masked_path) == (BatchState.MASKED, "masked/two")
    assert (found.rejected, found.duplicates, found.loaded) == (2, 3, 1)
    assert rules.query(
        "SELECT unknown_fields, masked_run_id, masked_at > now() - '1 day'::interval FROM loginetl.batches"
        " WHERE batch_id = :id",
        id=batch_id,
    ) == [(4, "masking", True)]
    assert rules.batch(other).state is BatchState.LANDED
    assert rules.query("SELECT object_path FROM loginetl.pending_deletions") == [("masked/one",)]


def test_a_load_adds_to_the_counts_that_masking_made(rules: Rules) -> None:
    batch_id = rules.add(BatchState.MASKED, messages=21, loaded=1, rejected=2, duplicates=3)
    other = rules.add(BatchState.MASKED)
    with rules.open() as connection:
        batch = _of(batches.lock_batch(connection, batch_id))
        batches.mark_loaded(connection, batch, Results(loaded=4, duplicates=6, rejected=5), run_id="loading")
    found = rules.batch(batch_id)
    assert (found.state, found.loaded, found.rejected, found.duplicates) == (BatchState.LOADED, 5, 7, 9)
    assert rules.query(
        "SELECT loaded_run_id, loaded_at > now() - '1 day'::interval FROM loginetl.batches WHERE batch_id = :id",
        id=batch_id,
    ) == [("loading", True)]
    assert rules.batch(other).state is BatchState.MASKED


def test_a_loaded_batch_whose_counts_do_not_add_up_is_refused(rules: Rules) -> None:
    batch_id = rules.add(BatchState.MASKED, messages=3)
    with pytest.raises(OperatorError), rules.open() as connection:
        batch = _of(batches.lock_batch(connection, batch_id))
        batches.mark_loaded(connection, batch, Results(loaded=1), run_id="loading")


def test_the_totals_add_up_every_batch_by_state(rules: Rules) -> None:
    rules.add(messages=100)
    rules.add(BatchState.MASKED, messages=50, rejected=4, duplicates=3, loaded=2, erased=1)
    rules.add(BatchState.QUARANTINED, messages=7)
    rules.add(BatchState.LOADED, messages=20, loaded=11, rejected=4, duplicates=3, erased=2, loaded_at=NOW - DAY)
    rules.add(BatchState.LOADED, messages=5, loaded_at=NOW - 2 * DAY, object_purged_at=NOW)
    with rules.open() as connection:
        found = batches.totals(connection)
    assert (found.batches, found.messages) == (5, 182)
    assert (found.loaded, found.rejected, found.duplicates, found.erased) == (18, 8, 6, 3)
    assert found.pending == 100 + 40 + 7
    assert (found.pending_batches, found.quarantined_batches) == (2, 1)
    assert found.last_loaded_at == NOW - DAY
    assert found.messages == found.loaded + found.rejected + found.duplicates + found.erased + found.pending


def test_batches_expire_once_they_were_loaded_long_enough_ago_and_are_not_in_use(rules: Rules) -> None:
    before = NOW - RETENTION
    rules.add(landed_at=NOW - 99 * DAY)
    rules.add(BatchState.MASKED, loaded_at=before - DAY)
    rules.add(BatchState.LOADED, loaded_at=before)
    rules.add(BatchState.LOADED, loaded_at=before - DAY, object_purged_at=NOW)
    expired = [rules.add(BatchState.LOADED, loaded_at=before - days * DAY) for days in (1, 3, 2)]
    with rules.open() as connection:
        assert _ids(batches.expired_batches(connection, before, limit=9)) == expired
        with _impatient(rules) as others:
            assert batches.expired_batches(others, before, limit=9) == []
    with rules.open() as connection:
        assert _ids(batches.expired_batches(connection, before, limit=2)) == expired[:2]
        with _impatient(rules) as others:
            assert _ids(batches.expired_batches(others, before, limit=2)) == expired[2:]


def test_a_purged_batch_keeps_its_counts_and_loses_its_file(rules: Rules) -> None:
    purged, other = (rules.add(BatchState.LOADED, masked_path=f"masked/{n}") for n in range(2))
    with rules.open() as connection:
        batches.mark_purged(connection, [purged])
    assert rules.query(
        "SELECT batch_id, masked_path, object_purged_at IS NULL, loaded FROM loginetl.batches ORDER BY 1"
    ) == [
        (purged, None, False, 3),
        (other, "masked/1", True, 3),
    ]
    last = rules.add()
    rules.execute("UPDATE loginetl.batches SET bytes = 1 WHERE batch_id = :id", id=other)  # its row lies last now
    with rules.open() as connection:
        assert batches.batches_in_landing(connection) == [other, last]


def test_an_object_is_named_by_a_batch_or_by_the_list_of_what_is_to_be_deleted(rules: Rules) -> None:
    batch = rules.batch(rules.add(BatchState.LOADED, masked_path="masked/named"))
    with rules.open() as connection:
        objects.schedule_deletion(connection, ["batches/pending_deletion", "masked/pending_deletion"])
        objects.schedule_deletion(connection, ["batches/pending_deletion"])
        named = [batch.object_path, "masked/named", "batches/pending_deletion", "masked/pending_deletion"]
        assert objects.unregistered_objects(connection, [*named, "batches/unregistered"]) == ["batches/unregistered"]
        assert sorted(objects.pending_deletions(connection)) == ["batches/pending_deletion", "masked/pending_deletion"]
        objects.forget_deletions(connection, ["masked/pending_deletion"])
        assert objects.pending_deletions(connection) == ["batches/pending_deletion"]


def _pruned(rules: Rules) -> int:
    with rules.open() as connection:
        return message_ids.prune(connection, NOW - RETENTION)


def _old(rules: Rules, days: float = 60, **columns: Any) -> int:
    moment = NOW - days * DAY
    changes = {"landed_at": moment, "object_purged_at": NOW, **columns}
    return rules.add(changes.pop("state", BatchState.LOADED), **changes)


def test_ids_are_forgotten_once_their_batch_is_loaded_old_and_gone(rules: Rules) -> None:
    gone = rules.settle(_old(rules), "loaded")
    kept = [
        *rules.settle(_old(rules, days=1), "loaded"),
        *rules.settle(_old(rules, state=BatchState.QUARANTINED, messages=1), "loaded"),
    ]
    assert set(rules.outcomes()) == {*gone, *kept}
    assert _pruned(rules) == 1
    assert set(rules.outcomes()) == set(kept)


def test_the_id_of_a_rejected_message_is_kept_with_its_body(rules: Rules) -> None:
    (kept,) = rules.settle(_old(rules), "rejected")
    (dropped,) = rules.settle(_old(rules), "rejected")
    rules.execute("DELETE FROM loginetl.rejected_logins WHERE message_uuid = :key", key=dropped)
    assert _pruned(rules) == 1
    assert list(rules.outcomes()) == [kept]


@pytest.mark.parametrize(
    ("object_landed", "kept"),
    [
        (timedelta(), True),  # its own
        (-DAY, True),  # one that landed before it
        (REDELIVERY - DAY, True),  # one with which its message may have come again
        (REDELIVERY, False),
        (REDELIVERY + DAY, False),
    ],
)
def test_an_id_is_kept_while_an_object_is_there_that_may_hold_its_message(
    rules: Rules, object_landed: timedelta, kept: bool
) -> None:
    rules.settle(_old(rules), "loaded")
    rules.add(BatchState.LOADED, landed_at=NOW - 60 * DAY + object_landed)
    rules.add(BatchState.LOADED, landed_at=NOW - DAY)
    assert _pruned(rules) == (0 if kept else 1)


def test_an_id_of_a_batch_that_landed_at_the_moment_itself_is_kept(rules: Rules) -> None:
    rules.settle(_old(rules), "loaded")
    with rules.open() as connection:
        assert message_ids.prune(connection, NOW - 60 * DAY) == 0
        assert message_ids.prune(connection, NOW - 60 * DAY + timedelta(microseconds=1)) == 1


def test_an_id_stays_while_its_own_object_is_there(rules: Rules) -> None:
    rules.settle(_old(rules, object_purged_at=None), "loaded")
    assert _pruned(rules) == 0


def _replaced(rules: Rules, batch_id: int, erased: Sequence[UUID], masked_path: str | None = None) -> int:
    with rules.open() as connection:
        batch = _of(batches.lock_batch(connection, batch_id))
        return batches.replace_objects(
            connection,
            batch,
            object_path="batches/new",
            landing_key_id=8,
            bytes=5,
            masked_path=masked_path,
            erased=erased,
        )


def test_an_erasure_in_a_loaded_batch_moves_the_messages_to_their_own_outcome(rules: Rules) -> None:
    batch_id, other = rules.add(BatchState.LOADED, messages=9, loaded=4, rejected=3, duplicates=2), rules.add()
    loaded, rejected = rules.settle(batch_id, "loaded", uuid4(), uuid4()), rules.settle(batch_id, "rejected")
    (elsewhere,) = rules.settle(other, "rejected")
    kept = rules.settle(batch_id, "loaded")
    old = rules.batch(batch_id).object_path
    assert _replaced(rules, batch_id, [*loaded, *rejected, elsewhere], "masked/new") == 1
    found = rules.batch(batch_id)
    assert (found.object_path, found.masked_path, found.landing_key_id) == ("batches/new", "masked/new", 8)
    assert (found.state, found.messages) == (BatchState.LOADED, 9)
    assert (found.loaded, found.duplicates, found.rejected, found.erased, found.lost) == (2, 1, 2, 4, 0)
    assert rules.query("SELECT bytes FROM loginetl.batches WHERE batch_id = :id", id=batch_id) == [(5,)]
    assert rules.outcomes() == {
        **dict.fromkeys([*loaded, *rejected], (batch_id, "erased")),
        elsewhere: (other, "rejected"),
        **dict.fromkeys(kept, (batch_id, "loaded")),
    }
    assert rules.query("SELECT message_uuid FROM loginetl.rejected_logins") == [(elsewhere,)]
    assert rules.query("SELECT object_path FROM loginetl.pending_deletions") == [(old,)]
    assert rules.batch(other).erased == 0


def test_an_erasure_sends_a_masked_batch_back_to_be_masked_again(rules: Rules) -> None:
    batch_id = rules.add(BatchState.MASKED, messages=5, masked_path="masked/old", duplicates=1)
    new = uuid4()
    assert _replaced(rules, batch_id, [new, new]) == 0
    found = rules.batch(batch_id)
    assert (found.state, found.masked_path, found.erased, found.duplicates) == (BatchState.LANDED, None, 2, 0)
    assert rules.outcomes() == {new: (batch_id, "erased")}


def test_ids_are_inserted_in_their_order_so_that_runs_wait_and_never_deadlock(rules: Rules) -> None:
    duplicates, erased = ([uuid4() for _ in range(9)] for _ in range(2))
    batch_id = rules.add(messages=9)
    rules.execute("TRUNCATE loginetl.processed_messages")  # so that rows lie in the order in which they were entered
    with rules.open() as connection:
        message_ids.record_duplicates(connection, batch_id, duplicates)
    _replaced(rules, batch_id, erased)
    entered = rules.query("SELECT message_uuid FROM loginetl.processed_messages ORDER BY ctid")
    assert [key for (key,) in entered] == [*sorted(duplicates), *sorted(erased)]


def test_what_was_erased_already_is_counted_once(rules: Rules) -> None:
    batch_id = rules.add(BatchState.LOADED, messages=3, loaded=2, erased=1)
    already, fresh = rules.settle(batch_id, "erased")[0], rules.settle(batch_id, "loaded")[0]
    _replaced(rules, batch_id, [already, fresh])
    found = rules.batch(batch_id)
    assert (found.loaded, found.duplicates, found.erased) == (1, 0, 2)


@pytest.mark.parametrize(
    ("settle", "statements", "outcome"), [(rejections.hand_over, 1, None), (rejections.erase, 3, "erased")]
)
def test_rejections_of_many_batches_are_removed_at_the_cost_of_one(
    rules: Rules, settle: Callable[[Connection, Sequence[UUID]], None], statements: int, outcome: str | None
) -> None:
    touched = [rules.add(BatchState.LOADED, messages=3, loaded=0, rejected=3) for _ in range(4)]
    other = rules.add(BatchState.LOADED, messages=3, loaded=2, rejected=1)
    keys = {key: one for one in touched for key in rules.settle(one, "rejected", uuid4(), uuid4())}
    rules.settle(other, "rejected")
    sent = list[str]()
    with rules.open() as connection:
        event.listen(connection, "before_cursor_execute", lambda *details: sent.append(details[2]))
        settle(connection, [*keys, uuid4()])
    assert len(sent) == statements
    for found in (rules.batch(one) for one in touched):
        erased = 2 if outcome else 0
        assert (found.rejected, found.erased, found.duplicates) == (1, erased, 2 - erased)
    assert (rules.batch(other).rejected, len(rules.query("SELECT FROM loginetl.rejected_logins"))) == (1, 1)
    assert {key: rules.outcomes().get(key) for key in keys} == {
        key: outcome and (batch_id, outcome) for key, batch_id in keys.items()
    }


def test_a_masked_file_is_replaced_or_asked_for_again(rules: Rules) -> None:
    batch_id, other = (rules.add(BatchState.MASKED, masked_path=f"masked/{n}") for n in "ab")
    with rules.open() as connection:
        batches.replace_masked(connection, _of(batches.lock_batch(connection, batch_id)), "masked/c")
    assert (rules.batch(batch_id).state, rules.batch(batch_id).masked_path) == (BatchState.MASKED, "masked/c")
    with rules.open() as connection:
        batches.replace_masked(connection, _of(batches.lock_batch(connection, batch_id)), None)
    assert (rules.batch(batch_id).state, rules.batch(batch_id).masked_path) == (BatchState.LANDED, None)
    assert rules.batch(other).masked_path == "masked/b"
    assert sorted(rules.query("SELECT object_path FROM loginetl.pending_deletions")) == [("masked/a",), ("masked/c",)]


def test_keys_are_remembered_by_role_and_a_second_one_does_not_displace_the_first(rules: Rules) -> None:
    one, two = b"1" * 16, b"2" * 16
    with rules.open() as connection:
        installation.check_keys(connection, KeysetRole.MASKING, {1: one})
        installation.check_keys(connection, KeysetRole.LANDING, {5: two})
        installation.check_keys(connection, KeysetRole.MASKING, {2: two, 1: one})
        installation.remember_key(connection, KeysetRole.MASKING, 2, one)
        assert installation.check_belonging(connection, KeysetRole.MASKING, {2: two}) == {1, 2}
        with pytest.raises(OperatorError, match="MASKING has none"):
            installation.check_keys(connection, KeysetRole.MASKING, {5: two})
        with pytest.raises(OperatorError, match="another key under the id 2"):
            installation.check_keys(connection, KeysetRole.MASKING, {1: one, 2: one})


def test_one_session_registers_left_objects_at_a_time(rules: Rules) -> None:
    with rules.open() as mine:
        objects.lock_registering(mine)
        with pytest.raises((OperatorError, TransientError)), _impatient(rules) as others:
            objects.lock_registering(others)


def test_a_ledger_that_cannot_be_written_is_reported_before_any_work(rules: Rules) -> None:
    with rules.open() as connection:
        batches.check_writable(connection)
    with pytest.raises(OperatorError, match="read-only"), rules.open() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        batches.check_writable(connection)
