"""Which runs have a living worker, by something that dies with it: each beats in a row of `loginetl.live_runs`.

Dagster itself knows of a run's process only what the launcher tells, and that may have died with it. A row needs no
session that lasts, so it goes through a pooler; times are the server's, so clocks may differ. A worker that cannot
reach the server looks dead to a single reading: the row must be silent, and still be silent later, when
a living worker would have had the time to beat on the very server that was read.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.storage.database import CONNECT_TIMEOUT_SECONDS, LoginDatabase
from loginetl_assets.storage.statements import among, named
from loginetl_assets.storage.tables import live_runs

BEAT_SECONDS = 10
# With sensors that look every 30 s, these two report a run at most 100 s after its last beat.
SILENCE = timedelta(seconds=40)
CONFIRMED_AFTER = timedelta(seconds=25)  # a beat's interval, and a connection that is tried until its time-out

UNREPORTED = timedelta(minutes=3)  # silent for longer than any report takes: nobody looks
FORGOTTEN = timedelta(hours=1)  # on an instance that is gone, as that of `dagster asset materialize` may be


class Heartbeat:
    """The sign of life of a run's worker, from a thread of its own: a step may take minutes in one statement."""

    def __init__(self, database: LoginDatabase, run_id: str) -> None:
        """Takes the database and the run; nothing beats yet."""
        self._database = database
        self._run_id = run_id
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beats once, and from then on until `stop`.

        Raises:
            OperatorError, TransientError: the first beat failed.
        """
        with self._database.transaction() as connection:
            old = delete(live_runs).where(live_runs.c.beat_at < func.now() - FORGOTTEN)
            connection.execute(named("forget_old_runs", old))
            beat(connection, self._run_id)
        self._thread.start()

    def stop(self) -> None:
        """Ends the beats and takes the run off the list; one whose server is gone stays on it, and falls silent."""
        self._stopped.set()
        self._thread.join(CONNECT_TIMEOUT_SECONDS)

    def _beat_until_stopped(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            with suppress(OperatorError, TransientError), self._database.transaction() as connection:
                beat(connection, self._run_id)
        with suppress(OperatorError, TransientError), self._database.transaction() as connection:
            forget(connection, [self._run_id])


def beat(connection: Connection, run_id: str) -> None:
    """Records that a run's worker is alive."""
    row = insert(live_runs).values(run_id=run_id)
    upsert = row.on_conflict_do_update(index_elements=["run_id"], set_={"beat_at": func.now(), "missed_at": None})
    connection.execute(named("beat", upsert))


def expect(connection: Connection, run_ids: Sequence[str]) -> None:
    """Adds runs that are said to be under way and never beat, as if they had just done so."""
    if run_ids:
        rows = insert(live_runs).values([{"run_id": run_id} for run_id in run_ids])
        connection.execute(named("expect_runs", rows.on_conflict_do_nothing()))


def without_worker(connection: Connection) -> list[str]:
    """Returns the runs that were silent before and still are; notes those that are silent for the first time."""
    silent = update(live_runs).where(live_runs.c.beat_at < func.now() - SILENCE, live_runs.c.missed_at.is_(None))
    connection.execute(named("note_silent_runs", silent.values(missed_at=func.now())))
    dead = select(live_runs.c.run_id).where(live_runs.c.missed_at <= func.now() - CONFIRMED_AFTER)
    return list(connection.scalars(named("list_dead_runs", dead)))


def forget(connection: Connection, run_ids: Sequence[str]) -> None:
    """Takes runs off the list."""
    connection.execute(named("forget_runs", delete(live_runs).where(among(live_runs.c.run_id, run_ids))))


def unreported(connection: Connection) -> list[str]:
    """Returns runs that have had no worker for so long that they should have been reported; notes nothing."""
    silent = select(live_runs.c.run_id).where(live_runs.c.beat_at < func.now() - UNREPORTED)
    return list(connection.scalars(named("list_unreported_runs", silent.order_by(live_runs.c.beat_at))))


def at_work(connection: Connection) -> int:
    """Returns how many runs have a living worker, as far as is known; notes nothing."""
    alive = select(func.count()).where(live_runs.c.beat_at >= func.now() - SILENCE)
    return connection.scalars(named("count_runs_at_work", alive)).one()
