"""Which runs have a living worker, by something that dies with it: each beats in a row of `loginetl.live_runs`.

Dagster itself knows of a run's process only what the launcher tells, and that may have died with it. A row needs no
session that lasts, so it goes through a pooler; times are the server's, so clocks may differ. A worker that cannot
reach the server is not told from a dead one by one look: the row must be found silent, and still be silent later, when
a living worker would have had the time to beat on the very server that was looked at.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from sqlalchemy import Connection, text

from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.storage.database import CONNECT_TIMEOUT_SECONDS, LoginDatabase

BEAT_SECONDS = 10
# With sensors that look every 30 s, these two report a run at most 100 s after its last beat.
SILENCE = timedelta(seconds=40)
SECOND_LOOK = timedelta(seconds=25)  # a beat's interval, and a connection that is tried until its time-out

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
            connection.execute(
                text("DELETE FROM loginetl.live_runs WHERE beat_at < now() - CAST(:age AS interval)"),
                {"age": FORGOTTEN},
            )
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
    connection.execute(
        text(
            "INSERT INTO loginetl.live_runs (run_id) VALUES (:run_id)"
            " ON CONFLICT (run_id) DO UPDATE SET beat_at = now(), missed_at = NULL"
        ),
        {"run_id": run_id},
    )


def expect(connection: Connection, run_ids: Sequence[str]) -> None:
    """Enters runs that are said to be under way and never beat, as if they had just done so."""
    connection.execute(
        text("INSERT INTO loginetl.live_runs (run_id) SELECT unnest(CAST(:run_ids AS text[])) ON CONFLICT DO NOTHING"),
        {"run_ids": list(run_ids)},
    )


def without_worker(connection: Connection) -> list[str]:
    """The runs that were silent at an earlier look and still are; takes note of those that are so for the first."""
    connection.execute(
        text(
            "UPDATE loginetl.live_runs SET missed_at = now()"
            " WHERE beat_at < now() - CAST(:silence AS interval) AND missed_at IS NULL"
        ),
        {"silence": SILENCE},
    )
    return list(
        connection.execute(
            text("SELECT run_id FROM loginetl.live_runs WHERE missed_at <= now() - CAST(:later AS interval)"),
            {"later": SECOND_LOOK},
        ).scalars()
    )


def forget(connection: Connection, run_ids: Sequence[str]) -> None:
    """Takes runs off the list."""
    connection.execute(text("DELETE FROM loginetl.live_runs WHERE run_id = ANY(:run_ids)"), {"run_ids": list(run_ids)})


def unreported(connection: Connection) -> list[str]:
    """Runs that have been without a worker for so long that somebody should have reported it; takes note of nothing."""
    return list(
        connection.execute(
            text(
                "SELECT run_id FROM loginetl.live_runs WHERE beat_at < now() - CAST(:age AS interval) ORDER BY beat_at"
            ),
            {"age": UNREPORTED},
        ).scalars()
    )


def at_work(connection: Connection) -> int:
    """How many runs have a living worker, as far as is known; takes note of nothing."""
    found: int = connection.execute(
        text("SELECT count(*) FROM loginetl.live_runs WHERE beat_at >= now() - CAST(:silence AS interval)"),
        {"silence": SILENCE},
    ).scalar_one()
    return found
