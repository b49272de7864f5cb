"""Runs in parallel: struck at random while messages arrive (the soak, in a minute), and brought to one moment.

At random two runs seldom insert the same rows in the same milliseconds. So another session locks the table they are
about to write, all runs pile up before it, and it is released.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import dagster as dg
from sqlalchemy import text

from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.settings import Settings
from loginetl_assets_tests.support.pipeline import Pipeline, login
from loginetl_assets_tests.support.soak import Plan, Soak
from loginetl_assets_tests.support.waiting import LOCK_SECONDS, eventually

# 40 s of arrival: on two cores the start takes ten seconds or so, each kill costs a new process 2.5 s of CPU, and what
# a killed run held comes again after the visibility time-out.
PLAN = Plan(
    seconds=40,
    rate=50,
    workers=5,
    stroke_seconds=2,
    least_strokes=6,  # two freezes and four kills
    max_messages=200,
    batch_messages=20,
    visibility_seconds=4,
    reprocess_share=0.2,
    hasty_share=0.2,
    drain_seconds=60,
)

RUNS = 4
MESSAGES = 2_000  # enough that an INSERT lasts while the others wake up


def test_parallel_runs_struck_at_random_lose_nothing_and_load_nothing_twice(settings: Settings) -> None:
    outcome = Soak(settings, PLAN).run()
    assert outcome.problems == []
    assert sum(outcome.kinds.values()) == PLAN.seconds * PLAN.rate
    assert outcome.samples[-1].lag == 0
    # Else nothing was tried:
    assert outcome.kills >= 4
    assert outcome.freezes >= 1
    assert outcome.verdict.totals["duplicates"] > 0
    assert any(run.reprocess for run in outcome.runs)


def test_runs_that_insert_the_same_values_at_once_wait_and_never_deadlock(pipeline: Pipeline, tmp_path: Path) -> None:
    # The value that all have comes last: before the others it would line the runs up.
    logins = [
        QueuedMessage(str(uuid4()), 1_700_000_000_000, login(ip=f"10.0.{number // 256}.{number % 256}").encode())
        for number in range(MESSAGES)
    ]
    for turn in range(RUNS):
        again = [QueuedMessage(str(uuid4()), one.sent_at_ms, one.body) for one in logins]
        pipeline.land(again if turn % 2 else again[::-1])
    results = _all_at_once(pipeline, tmp_path, "masked_logins", before="loginetl.pii_vault")
    assert _retries(results) == 0
    assert pipeline.query("SELECT count(*) FROM loginetl.pii_vault") == [(MESSAGES + 1,)]
    assert pipeline.query("SELECT count(*) FROM loginetl.batches WHERE state = 'masked'") == [(RUNS,)]


def test_a_message_in_batches_that_are_loaded_at_once_is_one_row(pipeline: Pipeline, tmp_path: Path) -> None:
    bodies = [login(user_id=f"u-{number}") for number in range(MESSAGES)]
    _land_in_every_batch(pipeline, bodies)
    pipeline.mask()
    results = _all_at_once(pipeline, tmp_path, "user_logins", before="loginetl.processed_messages")
    assert _retries(results) == 0
    users = [row.user_id for row in pipeline.query("SELECT user_id FROM user_logins")]
    assert sorted(users) == sorted(f"u-{number}" for number in range(MESSAGES))
    totals = pipeline.totals()
    assert (totals.loaded, totals.duplicates, totals.pending) == (MESSAGES, (RUNS - 1) * MESSAGES, 0)


def test_a_message_in_batches_that_reject_it_at_once_is_rejected_once(pipeline: Pipeline, tmp_path: Path) -> None:
    _land_in_every_batch(pipeline, ["{}"] * MESSAGES)
    results = _all_at_once(pipeline, tmp_path, "masked_logins", before="loginetl.processed_messages")
    assert _retries(results) == 0
    assert pipeline.query("SELECT count(*) FROM loginetl.rejected_logins") == [(MESSAGES,)]
    totals = pipeline.totals()
    assert (totals.rejected, totals.duplicates, totals.pending) == (MESSAGES, (RUNS - 1) * MESSAGES, 0)


def _land_in_every_batch(pipeline: Pipeline, bodies: list[str]) -> None:
    """Lands the same messages once for every run, as redelivery may, in one order and its reverse by turns."""
    messages = [QueuedMessage(str(uuid4()), 1_700_000_000_000, body.encode()) for body in bodies]
    for turn in range(RUNS):
        pipeline.land(messages if turn % 2 else messages[::-1])


def _all_at_once(pipeline: Pipeline, tmp_path: Path, asset: str, *, before: str) -> list[dg.ExecuteInProcessResult]:
    """Materializes an asset in several runs, which continue together once each is about to write to a table."""

    def run(number: int) -> dg.ExecuteInProcessResult:
        with Pipeline.on(pipeline.settings, tmp_path / f"run-{number}") as other:
            return other.materialize(asset)

    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = CAST(:table AS regclass)"
    with ThreadPoolExecutor(RUNS) as pool:
        with pipeline.services.database().transaction() as holder:
            # Reads go on under this lock, writes wait.
            holder.execute(text(f"LOCK TABLE {before} IN EXCLUSIVE MODE"))
            runs = [pool.submit(run, number) for number in range(RUNS)]
            eventually(
                "all wait to write", lambda: pipeline.query(waiting, table=before) == [(RUNS,)], seconds=LOCK_SECONDS
            )
        return [one.result() for one in runs]


def _retries(results: list[dg.ExecuteInProcessResult]) -> int:
    """How often a step was tried again: after a deadlock, for one."""
    return sum(event.is_step_up_for_retry for result in results for event in result.all_events)
