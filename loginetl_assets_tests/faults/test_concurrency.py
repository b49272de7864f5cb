"""Runs in parallel over one queue, killed at random while messages arrive: the soak, in a minute."""

import pytest

from loginetl_assets.settings import Settings
from loginetl_assets_tests.faults.soak import Plan, Soak

# 36 s of arrival: on two cores the start takes ten seconds or so, each kill costs a new process 2.5 s of CPU, and what
# a killed run held comes again after the visibility time-out.
PLAN = Plan(
    seconds=36,
    rate=50,
    workers=5,
    kill_seconds=3,
    max_messages=200,
    batch_messages=20,
    visibility_seconds=4,
    reprocess_share=0.2,
    hasty_share=0.2,
    drain_seconds=60,
)


@pytest.mark.timeout(240)
def test_parallel_runs_killed_at_random_lose_nothing_and_load_nothing_twice(settings: Settings) -> None:
    outcome = Soak(settings, PLAN).run()
    assert outcome.problems == []
    assert sum(outcome.kinds.values()) == PLAN.seconds * PLAN.rate
    assert outcome.samples[-1].lag == 0
    # Else nothing was tried:
    assert outcome.kills >= 5
    assert outcome.verdict.totals["duplicates"] > 0
    assert any(run.reprocess for run in outcome.runs)
    assert outcome.memory.growth < 0.3
