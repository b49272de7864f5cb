"""The rules of a drain, without a queue: what it receives next, when it lands, when it stops."""

from collections import deque
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loginetl_assets.aws.sqs import MAX_PER_CALL
from loginetl_assets.steps.drain.policy import (
    LANDINGS_AT_WHICH_RECEIVING_PAUSES,
    DrainLimits,
    Gathered,
    Receive,
    Receivers,
    Situation,
    StoppedReason,
    Stretch,
    decide,
    next_receivers,
)

LIMITS = DrainLimits(max_messages=1_000, max_seconds=60)
PATIENT, HURRIED = Receive(10, 1), Receive(10, 0)

receives = st.builds(Receive, st.integers(1, MAX_PER_CALL), st.integers(0, 1))
all_limits = st.builds(
    DrainLimits,
    max_messages=st.integers(1, 200),
    max_seconds=st.floats(0, 20),
    receivers=st.integers(1, 8),
    batch_messages=st.integers(1, 50),
    batch_bytes=st.integers(1, 10_000),
    batch_seconds=st.floats(0, 20),
    expected=st.integers(0, 200),
)
situations = st.builds(
    Situation,
    seconds=st.floats(0, 40),
    received=st.integers(0, 220),
    receives=st.lists(receives, max_size=8).map(tuple),
    empty_in_a_row=st.integers(0, 9),
    batch=st.builds(Gathered, st.integers(0, 60), st.integers(0, 12_000), st.floats(0, 40)),
    landings=st.integers(0, 3),
    deletes=st.integers(0, 3),
    is_fifo=st.booleans(),
    failed=st.booleans(),
    receivers=st.integers(0, 16),
)


# What is received next


def test_a_drain_begins_with_a_long_poll_of_ten_from_each_receiver() -> None:
    assert decide(Situation(), LIMITS).receives == [PATIENT] * 4


def test_the_last_receive_asks_for_no_more_than_the_limit_leaves() -> None:
    limits = DrainLimits(max_messages=25, max_seconds=60)
    assert decide(Situation(), limits).receives == [PATIENT, PATIENT, Receive(5, 1)]


def test_there_are_as_many_receivers_as_latency_takes_until_one_finds_nothing() -> None:
    assert decide(Situation(receivers=32), LIMITS).receives == [PATIENT] * 32
    assert decide(Situation(receivers=32, empty_in_a_row=1), LIMITS).receives == [PATIENT] * 3


def test_a_receive_that_was_empty_is_not_followed_by_another() -> None:
    assert decide(Situation(receives=(PATIENT,), empty_in_a_row=2), LIMITS).receives == [PATIENT]


def test_receives_are_short_once_what_the_queue_said_it_had_is_on_its_way() -> None:
    limits = DrainLimits(max_messages=1_000, max_seconds=60, expected=20)
    assert decide(Situation(), limits).receives == [PATIENT, PATIENT]
    assert decide(Situation(received=20), limits).receives == [HURRIED] * 4
    assert decide(Situation(received=20, receivers=32), limits).receives == [HURRIED] * 4


def test_receives_are_long_where_the_queue_said_that_it_had_nothing() -> None:
    assert decide(Situation(), DrainLimits(max_messages=10, max_seconds=60, expected=0)).receives == [PATIENT]


@given(situations, all_limits)
def test_never_more_is_under_way_than_the_limits_allow(situation: Situation, limits: DrainLimits) -> None:
    issued = decide(situation, limits).receives
    under_way = [*situation.receives, *issued]
    assert all(1 <= receive.max_messages <= MAX_PER_CALL for receive in issued)
    assert len(under_way) <= max(limits.receivers, situation.receivers, len(situation.receives))
    on_its_way = situation.received + sum(receive.max_messages for receive in under_way)
    assert not issued or on_its_way <= limits.max_messages


@given(situations, all_limits)
def test_no_short_poll_is_issued_beside_a_patient_one(situation: Situation, limits: DrainLimits) -> None:
    under_way = list(situation.receives)
    for issued in decide(situation, limits).receives:
        assert issued.wait_seconds or not any(receive.wait_seconds for receive in under_way)
        under_way.append(issued)


@given(situations, all_limits)
def test_nothing_is_received_while_two_batches_are_landing_or_once_it_failed_or_stopped(
    situation: Situation, limits: DrainLimits
) -> None:
    decision = decide(situation, limits)
    if situation.landings >= LANDINGS_AT_WHICH_RECEIVING_PAUSES or situation.failed or decision.stopped:
        assert decision.receives == []


# How many receivers there are


def drained(
    latency: float, limits: DrainLimits = LIMITS, *, server: float = 1e9, seconds: float = 10.0
) -> tuple[float, int]:
    """Messages that a process drains whose receive and delete of ten use 1 ms of its CPU; and its last receivers.

    The server answers so many receives a second at most.
    """
    receivers, messages, cpu = Receivers(limits.receivers), 0.0, 0.001
    for _ in range(int(seconds / 0.25)):
        receives = 0.25 * min(receivers.number / (latency + cpu), 1 / cpu, server)
        messages += 10 * receives
        stretch = Stretch(0.25, receives * cpu, round(receives), round(receives) * 10, round(receives) * 2_000)
        receivers = next_receivers(receivers, stretch, limits)
    return messages, receivers.number


@pytest.mark.parametrize(("latency", "share"), [(0.005, 0.8), (0.02, 0.8), (0.1, 0.5)])
def test_a_drain_takes_so_many_receivers_that_latency_costs_little(latency: float, share: float) -> None:
    without, _ = drained(0.0)
    assert drained(latency)[0] >= share * without
    few = DrainLimits(max_messages=1_000, max_seconds=60, max_receivers=4)
    assert drained(latency, few)[0] < share * without, "that is what it is for"


def test_without_latency_few_receivers_are_enough() -> None:
    assert drained(0.0)[1] == LIMITS.receivers


def test_receivers_stay_few_where_more_of_them_bring_no_more() -> None:
    assert drained(0.0, server=400)[1] <= 2 * LIMITS.receivers
    assert drained(0.02, server=400)[1] < 20


def test_receivers_become_fewer_again_where_the_process_has_no_cpu_left() -> None:
    assert next_receivers(Receivers(40), Stretch(1.0, 1.0, 100, 1_000, 200_000), LIMITS) == Receivers(36)


def test_it_is_not_for_latency_that_a_nearly_empty_queue_lets_wait() -> None:
    assert next_receivers(Receivers(40), Stretch(1.0, 0.1, 100, 150, 30_000), LIMITS) == Receivers(LIMITS.receivers)


def test_receives_that_bring_large_messages_stay_few() -> None:
    half_a_mebibyte_each = Stretch(1.0, 0.1, 10, 100, 50 * 1024 * 1024)
    assert next_receivers(Receivers(4), half_a_mebibyte_each, LIMITS).number == LIMITS.receivers
    a_tenth_of_it = half_a_mebibyte_each._replace(bytes=5 * 1024 * 1024)
    assert next_receivers(Receivers(16), a_tenth_of_it, LIMITS).number == 32, "16 MiB on their way at most"


@given(
    st.builds(Receivers, st.integers(1, 64), st.integers(0, 64), st.floats(0, 10_000), st.integers(0, 8)),
    st.builds(
        Stretch,
        st.floats(0, 10),
        st.floats(0, 40),
        st.integers(0, 1_000),
        st.integers(0, 10_000),
        st.integers(0, 2**40),
    ),
)
def test_receivers_stay_between_what_they_begin_with_and_the_limit(last: Receivers, stretch: Stretch) -> None:
    last = last._replace(number=max(last.number, 4), before=last.before and max(last.before, 4))
    assert LIMITS.receivers <= next_receivers(last, stretch, LIMITS).number <= LIMITS.max_receivers


# When a batch is landed


@pytest.mark.parametrize(
    "full",
    [
        Gathered(messages=LIMITS.batch_messages),
        Gathered(messages=1, bytes=LIMITS.batch_bytes),
        Gathered(messages=1, seconds=LIMITS.batch_seconds),
    ],
    ids=["messages", "bytes", "seconds"],
)
def test_a_batch_is_landed_once_it_is_full_or_old(full: Gathered) -> None:
    assert decide(Situation(receives=(PATIENT,), batch=full), LIMITS).land
    assert not decide(Situation(receives=(PATIENT,), batch=Gathered(1, 1, 1.0)), LIMITS).land


def test_a_batch_waits_for_no_more_once_a_receive_was_empty() -> None:
    assert decide(Situation(receives=(PATIENT,), batch=Gathered(1), empty_in_a_row=1), LIMITS).land


def test_a_batch_without_messages_is_never_landed() -> None:
    assert not decide(Situation(received=1_000, batch=Gathered(seconds=99)), LIMITS).land


@given(situations, all_limits)
def test_a_batch_is_landed_at_the_latest_when_nothing_more_can_come_for_it(
    situation: Situation, limits: DrainLimits
) -> None:
    decision = decide(situation, limits)
    if situation.batch.messages and not (situation.receives or decision.receives):
        assert decision.land


# When it stops


@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        (Situation(received=1_000), StoppedReason.MAX_MESSAGES),
        (Situation(empty_in_a_row=4), StoppedReason.QUEUE_EMPTY),
        (Situation(seconds=60), StoppedReason.MAX_SECONDS),
        (Situation(empty_in_a_row=4, seconds=60), StoppedReason.QUEUE_EMPTY),
        (Situation(empty_in_a_row=3, seconds=59), None),
    ],
)
def test_it_stops_at_its_limits_and_where_each_receiver_found_nothing(
    situation: Situation, reason: StoppedReason | None
) -> None:
    assert decide(situation, LIMITS).stopped is reason


@pytest.mark.parametrize("under_way", [{"landings": 1}, {"deletes": 1}])
def test_a_fifo_queue_is_not_empty_before_what_it_delivered_is_deleted(under_way: dict[str, Any]) -> None:
    empty = Situation(empty_in_a_row=4, **under_way)
    assert decide(empty, LIMITS).stopped is StoppedReason.QUEUE_EMPTY
    assert decide(replace(empty, is_fifo=True), LIMITS).stopped is None


@given(situations, all_limits)
def test_a_drain_with_nothing_under_way_goes_on_or_says_why_it_stopped(
    situation: Situation, limits: DrainLimits
) -> None:
    decision = decide(replace(situation, receives=(), landings=0, deletes=0, failed=False), limits)
    assert decision.receives or decision.land or decision.stopped


@given(all_limits, st.integers(0, 150), st.booleans(), st.randoms(use_true_random=False))
def test_every_drain_ends_with_all_it_received_landed_and_with_all_there_was_unless_a_limit_stopped_it(
    limits: DrainLimits, waiting: int, is_fifo: bool, chance: Random
) -> None:
    """A queue that delivers what it has, from one to ten a call; a FIFO one nothing before the deletes."""
    receives, landings, deletes = list[Receive](), 0, 0
    left, received, landed, batch, empty, seconds = waiting, 0, 0, 0, 0, 0.0
    for _ in range(10_000):
        gathered = Gathered(batch)
        decision = decide(
            Situation(
                *(seconds, received, tuple(receives), empty, gathered, landings, deletes, is_fifo),
                receivers=chance.randint(1, 16),
            ),
            limits,
        )
        receives += decision.receives
        if decision.land:
            landed, batch, landings = landed + batch, 0, landings + 1
        ends = deque([*range(len(receives)), *["landing"] * landings, *["delete"] * deletes])
        if not ends:
            break
        seconds += 0.05
        end = chance.choice(ends)
        if end == "landing":
            landings, deletes = landings - 1, deletes + 1
        elif end == "delete":
            deletes -= 1
            empty = 0 if is_fifo and not (landings or deletes) else empty
        else:
            receive = receives.pop(int(end))
            held_up = is_fifo and (batch or landings or deletes)
            brought = 0 if held_up else min(left, chance.randint(1, receive.max_messages))
            left, received, batch = left - brought, received + brought, batch + brought
            empty = 0 if brought else empty + 1
    else:
        raise AssertionError("it does not end")
    assert (landed, received, batch) == (received, waiting - left, 0)
    match decision.stopped:
        case StoppedReason.QUEUE_EMPTY:
            assert left == 0
        case StoppedReason.MAX_MESSAGES:
            assert received == limits.max_messages
        case reason:
            assert (reason, seconds >= limits.max_seconds) == (StoppedReason.MAX_SECONDS, True)
