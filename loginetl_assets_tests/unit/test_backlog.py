"""How many drains the queue_depth sensor requests for a backlog."""

import pytest

from loginetl_assets.automation.sensors import Backlog


@pytest.mark.parametrize(
    ("queued", "pending", "drains", "runs", "wanted"),
    [
        (0, 0, 0, 0, 0),
        (1, 0, 0, 0, 1),
        (10, 0, 0, 0, 1),
        (11, 0, 0, 0, 2),
        (1_000, 0, 0, 0, 3),
        (1_000, 0, 2, 2, 1),
        (1_000, 0, 4, 4, 0),
        (5, 0, 1, 1, 0),
        (5, 0, 0, 1, 1),  # a run of retention holds up no drain
        (0, 4, 0, 0, 1),
        (0, 4, 0, 1, 0),
    ],
)
def test_a_backlog_gets_as_many_drains_as_it_needs_and_a_maximum_allows(
    queued: int, pending: int, drains: int, runs: int, wanted: int
) -> None:
    backlog = Backlog(queued, pending, drains, runs)
    assert backlog.wanted_drains(messages_per_run=10, max_runs_in_flight=3) == wanted


def test_a_backlog_counts_its_nouns() -> None:
    said = "1 message on the queue, 2 batches pending, 1 drain in flight, 0 runs in flight"
    assert str(Backlog(1, 2, 1, 0)) == said
