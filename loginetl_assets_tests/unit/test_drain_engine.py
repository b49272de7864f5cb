"""How a drain carries out what its policy says: on fakes, with the threads it has on real services."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loginetl_assets.aws.payloads import Payloads
from loginetl_assets.errors import OperatorError, TransientError
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.landing.batch_files import read_messages
from loginetl_assets.steps.batch_objects import BatchLanding
from loginetl_assets.steps.drain.engine import DELETE_ATTEMPTS, RECEIVES_FOR_A_PAYLOAD, Drain, DrainTotals
from loginetl_assets.steps.drain.policy import DrainLimits, StoppedReason
from loginetl_assets_tests.support.fakes import (
    FakeClock,
    FakeDatabase,
    FakeLanding,
    FakePayloads,
    FakeSqs,
    sqs_unavailable,
)

UNAVAILABLE = TransientError("it is away")


class Services:
    """What a drain uses, all of it fake but for the keys."""

    def __init__(self, directory: Path, *, fifo: bool = False, **objects: bytes | None) -> None:
        self.clock = FakeClock()
        self.sqs = FakeSqs(self.clock, fifo=fifo)
        self.payloads: Payloads = FakePayloads(**objects)
        self.landing, self.database = FakeLanding(), FakeDatabase()
        self.keyring = Keyring({}, directory)

    def drain(self, *, max_messages: int = 1_000, receivers: int = 4, batch_messages: int = 5_000) -> DrainTotals:
        limits = DrainLimits(max_messages, max_seconds=60, receivers=receivers, batch_messages=batch_messages)
        land = BatchLanding(self.database, self.landing, self.keyring)
        return Drain(self.sqs.queue, self.payloads, land, limits, clock=self.clock).run()

    @property
    def landed(self) -> list[str]:
        """The bodies of all messages in the landing."""
        paths = self.landing.objects
        return [one.body.decode() for path in paths for one in read_messages(self.landing, self.keyring.landing, path)]


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return Services(tmp_path)


def bodies(count: int) -> list[str]:
    return [f"login {number}" for number in range(count)]


def on_call(number: int, action: Callable[[], None]) -> Callable[[], None]:
    """Does something at that call and at those that follow."""
    calls = iter(range(1, 1_000))

    def act() -> None:
        if next(calls) >= number:
            action()

    return act


# What succeeds


def test_a_drain_lands_all_there_is_and_deletes_it(services: Services) -> None:
    services.sqs.put(*bodies(57))
    totals = services.drain(batch_messages=20)
    assert (totals.messages, totals.undeleted, totals.postponed) == (57, 0, 0)
    assert totals.stopped_reason is StoppedReason.QUEUE_EMPTY
    assert totals.batches == len(services.landing.objects) == services.database.committed
    assert totals.bytes == sum(map(len, services.landing.objects.values()))
    assert sorted(services.landed) == sorted(bodies(57))
    assert services.sqs.visible == services.sqs.in_flight == []


def test_a_drain_leaves_what_is_beyond_its_limit(services: Services) -> None:
    services.sqs.put(*bodies(57))
    totals = services.drain(max_messages=33)
    assert (totals.messages, totals.stopped_reason) == (33, StoppedReason.MAX_MESSAGES)
    assert len(services.sqs.visible) == 57 - 33


def test_a_drain_stops_receiving_when_its_time_has_passed(services: Services) -> None:
    def half_a_minute() -> None:
        services.clock.now += 30

    services.sqs.put(*bodies(100))
    services.sqs.before["receive"] = half_a_minute
    totals = services.drain(receivers=1)
    assert (totals.messages, totals.stopped_reason) == (20, StoppedReason.MAX_SECONDS)
    assert sorted(services.landed) == sorted(bodies(20))


def test_nothing_is_deleted_before_it_is_in_the_landing_and_registered(services: Services) -> None:
    services.sqs.put(*bodies(10))
    seen: list[tuple[int, int]] = []
    services.sqs.before["delete"] = lambda: seen.append((len(services.landed), services.database.committed))
    services.drain()
    assert seen == [(10, 1)]


def test_one_drain_empties_a_fifo_queue_that_delivers_nothing_before_the_deletes(tmp_path: Path) -> None:
    services = Services(tmp_path, fifo=True)
    services.sqs.put(*bodies(35))
    assert services.drain().messages == 35
    assert services.landed == bodies(35)


def test_a_message_that_sqs_does_not_delete_is_tried_again_and_counted(services: Services) -> None:
    services.sqs.put(*bodies(5))
    services.sqs.undeletable = {"login 3"}
    assert services.drain().undeleted == 1
    assert services.sqs.calls["delete"] == DELETE_ATTEMPTS
    assert services.sqs.in_flight == ["login 3"], "it comes again after its visibility time-out"


# What fails


@pytest.mark.parametrize("failing", ["landing", "database"])
def test_a_batch_that_is_not_landed_or_not_registered_is_made_visible_again(services: Services, failing: str) -> None:
    services.sqs.put(*bodies(25))
    getattr(services, failing).failure = UNAVAILABLE
    with pytest.raises(TransientError, match="it is away"):
        services.drain()
    assert sorted(services.sqs.visible) == sorted(bodies(25))
    assert services.sqs.calls["delete"] == 0


def test_nothing_more_is_received_once_a_landing_failed(services: Services) -> None:
    services.sqs.put(*bodies(100))
    services.landing.failure = UNAVAILABLE
    with pytest.raises(TransientError):
        services.drain(receivers=1, batch_messages=10)
    assert services.sqs.calls["receive"] <= 3, "one that failed, and those under way meanwhile"


def test_what_was_received_before_a_receive_failed_is_landed_and_deleted(services: Services) -> None:
    services.sqs.put(*bodies(25))
    services.sqs.before["receive"] = on_call(2, sqs_unavailable)
    with pytest.raises(TransientError, match="answered ServiceUnavailable"):
        services.drain(receivers=1)
    assert sorted(services.landed) == sorted(bodies(10))
    assert len(services.sqs.visible) == 15
    assert services.sqs.in_flight == []


def test_the_first_failure_is_the_one_that_is_reported_though_making_visible_fails_too(services: Services) -> None:
    services.sqs.put(*bodies(25))
    services.database.failure = OperatorError("a grant is missing")
    services.sqs.before["make_visible"] = sqs_unavailable
    with pytest.raises(OperatorError, match="a grant is missing"):
        services.drain()
    assert len(services.sqs.in_flight) == 25, "their visibility time-out does it"


def test_a_cancelled_drain_makes_visible_what_it_holds(services: Services) -> None:
    def cancelled() -> float:
        if services.sqs.in_flight:
            raise KeyboardInterrupt
        return 0.0

    services.sqs.put(*bodies(25))
    land = BatchLanding(services.database, services.landing, services.keyring)
    with pytest.raises(KeyboardInterrupt):
        Drain(services.sqs.queue, services.payloads, land, DrainLimits(100, 60), clock=cancelled).run()
    assert sorted(services.sqs.visible) == sorted(bodies(25))


# Payloads


def test_a_payload_is_landed_in_the_place_of_its_pointer(tmp_path: Path) -> None:
    services = Services(tmp_path, there=b"login of the payload")
    services.sqs.put("login 0", "pointer:there")
    assert services.drain().messages == 2
    assert sorted(services.landed) == ["login 0", "login of the payload"]


@pytest.mark.parametrize("landing_failure", [None, UNAVAILABLE])
def test_a_postponed_payload_is_neither_landed_nor_made_visible_whatever_becomes_of_the_others(
    tmp_path: Path, landing_failure: Exception | None
) -> None:
    services = Services(tmp_path, later=None)
    services.sqs.put("login 0", "pointer:later", "login 1")
    services.landing.failure = landing_failure
    if landing_failure:
        with pytest.raises(TransientError):
            services.drain()
    else:
        totals = services.drain()
        assert (totals.messages, totals.postponed) == (2, 1)
    assert services.sqs.in_flight == ["pointer:later"], "visible, it would be received at once again"
    assert services.sqs.visible == (["login 0", "login 1"] if landing_failure else [])


def test_a_payload_that_goes_on_failing_is_landed_as_its_pointer(tmp_path: Path) -> None:
    services = Services(tmp_path, later=None)
    services.sqs.put("pointer:later")
    for receives in range(1, RECEIVES_FOR_A_PAYLOAD + 1):
        assert services.drain().postponed == (receives < RECEIVES_FOR_A_PAYLOAD)
        services.clock.now += 1_000  # past the visibility time-out
    assert services.landed == ["pointer:later"]


def test_on_a_fifo_queue_nothing_overtakes_a_postponed_payload(tmp_path: Path) -> None:
    services = Services(tmp_path, fifo=True, later=None)
    services.sqs.put("login 0", "pointer:later", "login 1")
    totals = services.drain()
    assert (totals.messages, totals.postponed) == (1, 2)
    assert services.landed == ["login 0"]
    assert services.sqs.in_flight == ["pointer:later", "login 1"]


# Totals, processes


def test_totals_add_up_and_the_more_urgent_reason_to_stop_wins() -> None:
    one = DrainTotals(messages=3, batches=1, bytes=30, stopped_reason=StoppedReason.MAX_SECONDS)
    both = one + DrainTotals(messages=4, batches=2, bytes=40, undeleted=1, postponed=2)
    assert both.as_metadata() == {
        "messages": 7,
        "batches": 3,
        "bytes": 70,
        "undeleted": 1,
        "postponed": 2,
        "stopped_reason": "max_seconds",
    }


def test_a_worker_process_starts_without_dagster() -> None:
    program = "import sys, loginetl_assets.steps.drain.workers; print([m for m in sys.modules if 'dagster' in m])"
    started = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert started.stdout.strip() == "[]"
