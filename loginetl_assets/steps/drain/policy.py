"""The rules of a drain: which receives are next, when a batch is landed, when to stop. No I/O, threads or clock."""

from dataclasses import dataclass
from enum import Enum
from operator import sub
from typing import NamedTuple

import msgspec

from loginetl_assets.aws.sqs import MAX_PER_CALL

# With two batches on their way to the landing, memory is better kept flat than filled.
LANDINGS_AT_WHICH_RECEIVING_PAUSES = 2

MAX_RECEIVERS = 64  # with 100 ms a call these bring 6 400 messages a second
_BUSY = 0.9  # of a core: what the threads of one process, of which one at a time runs Python, can use of it
_MAX_GROWTH = 4.0  # at once: the latency that is seen with few calls is not yet that of many
_STRETCHES_UNTIL_TRIED_AGAIN = 8


class StoppedReason(Enum):
    """Why a drain ended."""

    QUEUE_EMPTY = "queue_empty"
    MAX_MESSAGES = "max_messages"
    MAX_SECONDS = "max_seconds"

    def __add__(self, other: "StoppedReason") -> "StoppedReason":
        """Returns the reason of two drains together: a limit, if either reached one."""
        return self if other is StoppedReason.QUEUE_EMPTY else other


class DrainLimits(msgspec.Struct, frozen=True):
    """The bounds of one drain."""

    max_messages: int
    max_seconds: float
    receivers: int = 4  # to begin with, and as many must find nothing before the queue counts as empty
    max_receivers: int = MAX_RECEIVERS
    # 5 000 messages of the usual 170 bytes are under 1 MB: memory stays flat, and the file is worth a put.
    batch_messages: int = 5_000
    batch_bytes: int = 16 * 1024 * 1024
    # With landing and deletes this must end well inside the visibility time-out (120 s by default).
    batch_seconds: float = 10.0
    # Long polling asks all of SQS's servers; a receive without it can miss messages that are there.
    wait_seconds: int = 1
    expected: int = 0  # how many messages the queue said it had, if known
    visibility_seconds: int = 120

    @property
    def connections(self) -> int:
        """How many calls to the queue are under way at most: as many deletes as receives."""
        return 2 * max(self.receivers, self.max_receivers)


class Receive(NamedTuple):
    """One call: how many messages it may bring, and how long it waits where there are none."""

    max_messages: int
    wait_seconds: int


class Gathered(NamedTuple):
    """The open batch: received and not yet landed."""

    messages: int = 0
    bytes: int = 0  # of the bodies
    seconds: float = 0.0  # since its first message


class Receivers(NamedTuple):
    """How many receives are to be under way."""

    number: int
    before: int = 0  # fewer: what it is tried in place of
    rate_before: float = 0.0  # messages a second that these brought
    wait: int = 0  # for how many stretches more are not tried


class Stretch(NamedTuple):
    """Some time of a drain in which nothing but the calls held up receiving."""

    seconds: float
    cpu_seconds: float  # of this process
    receives: int  # that ended
    messages: int  # that they brought
    bytes: int  # of the bodies

    def since(self, before: "Stretch") -> "Stretch":
        """Returns what came after a stretch that began with this one."""
        return Stretch(*map(sub, self, before))


@dataclass(frozen=True)
class Situation:
    """What a drain knows when it decides."""

    seconds: float = 0.0  # since it began
    received: int = 0  # messages
    receives: tuple[Receive, ...] = ()  # under way
    empty_in_a_row: int = 0  # receives that brought nothing, since one did
    batch: Gathered = Gathered()
    landings: int = 0  # under way
    deletes: int = 0  # under way
    is_fifo: bool = False
    failed: bool = False  # then what is under way is ended, and nothing else is received
    receivers: int = 0  # as `next_receivers` said last


class Decision(NamedTuple):
    """What a drain does next."""

    receives: list[Receive]  # issued now, beside those under way
    land: bool  # the open batch, now
    stopped: StoppedReason | None  # nothing more is received, for this reason


def decide(situation: Situation, limits: DrainLimits) -> Decision:
    """Returns what comes next. A drain ends once nothing is under way and nothing comes next."""
    stopped = _stopped(situation, limits)
    receives = [] if stopped or situation.failed else _next_receives(situation, limits)
    # An empty queue has nothing to wait for; on a FIFO queue waiting would hold up the whole group.
    waits = (situation.receives or receives) and not situation.empty_in_a_row
    batch = situation.batch
    is_full = batch.messages >= limits.batch_messages or batch.bytes >= limits.batch_bytes
    land = batch.messages > 0 and (not waits or is_full or batch.seconds >= limits.batch_seconds)
    return Decision(receives, land, stopped)


def next_receivers(last: Receivers, stretch: Stretch, limits: DrainLimits) -> Receivers:
    """Returns how many receives should be under way after a stretch with so many.

    What latency costs, more calls at once make up for, as long as the process has CPU left: by Little's law twice the
    calls are twice the rate, and twice the CPU. Where they bring less, something else is the limit, such as a server or
    a core that is shared: then they would only cost (64 threads use a sixth more CPU for a message than 4).
    """
    if 2 * stretch.messages < MAX_PER_CALL * stretch.receives:
        return Receivers(limits.receivers)  # it is messages that are waited for
    rate = stretch.messages / max(stretch.seconds, 1e-9)
    if last.before and rate < last.rate_before * (1 + (last.number / last.before - 1) / 3):
        return Receivers(last.before, wait=_STRETCHES_UNTIL_TRIED_AGAIN)
    wanted = last.number * min(_MAX_GROWTH, _BUSY * stretch.seconds / max(stretch.cpu_seconds, 1e-9))
    # What is under way may bring another batch's worth of bytes, and no more.
    affordable = limits.batch_bytes * stretch.receives / max(stretch.bytes, 1)
    number = max(limits.receivers, min(round(wanted), int(affordable), limits.max_receivers))
    if number <= last.number:
        return Receivers(number)
    if last.wait:
        return Receivers(last.number, wait=last.wait - 1)
    return Receivers(number, last.number, rate)


def _stopped(situation: Situation, limits: DrainLimits) -> StoppedReason | None:
    if situation.received >= limits.max_messages:
        return StoppedReason.MAX_MESSAGES
    # A FIFO queue that delivers nothing may be waiting for the deletes of what it delivered.
    held_up = situation.is_fifo and (situation.landings or situation.deletes)
    if situation.empty_in_a_row >= limits.receivers and not held_up:
        return StoppedReason.QUEUE_EMPTY
    return StoppedReason.MAX_SECONDS if situation.seconds >= limits.max_seconds else None


def _next_receives(situation: Situation, limits: DrainLimits) -> list[Receive]:
    if situation.landings >= LANDINGS_AT_WHICH_RECEIVING_PAUSES:
        return []
    under_way = list(situation.receives)
    # What is under way may bring all that it may bring.
    on_its_way = situation.received + sum(receive.max_messages for receive in under_way)
    # Once one found nothing the others hardly find more.
    many = limits.receivers if situation.empty_in_a_row else max(limits.receivers, situation.receivers)
    while len(under_way) + situation.empty_in_a_row < many:
        max_messages = min(MAX_PER_CALL, limits.max_messages - on_its_way)
        if max_messages <= 0:
            break
        # What the queue said it had is on its way: what comes late is the next run's, and not worth a long poll's
        # second. Where it said nothing is there it may not know yet (AWS's count lags).
        hurry = 0 < limits.expected <= on_its_way
        if hurry and (len(under_way) >= limits.receivers or any(receive.wait_seconds for receive in under_way)):
            break  # a short poll beside them would take what they are waiting for
        under_way.append(Receive(max_messages, 0 if hurry else limits.wait_seconds))
        on_its_way += max_messages
    return under_way[len(situation.receives) :]
