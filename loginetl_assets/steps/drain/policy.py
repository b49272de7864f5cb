"""The rules of a drain: which receives are next, when a batch is landed, when to stop. No I/O, threads or clock."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import msgspec

from loginetl_assets.aws.sqs import MAX_PER_CALL

# With two batches on their way to the landing, memory is better kept flat than filled.
LANDINGS_AT_WHICH_RECEIVING_PAUSES = 2


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
    receivers: int = 4
    # 5 000 messages of the usual 170 bytes are under 1 MB: memory stays flat, and the file is worth a put.
    batch_messages: int = 5_000
    batch_bytes: int = 16 * 1024 * 1024
    # With landing and deletes this must end well inside the visibility time-out (120 s by default).
    batch_seconds: float = 10.0
    # Long polling asks all of SQS's servers; a receive without it can miss messages that are there.
    wait_seconds: int = 1
    expected: int = 0  # how many messages the queue said it had, if known
    visibility_seconds: int = 120


class Receive(NamedTuple):
    """One call: how many messages it may bring, and how long it waits where there are none."""

    max_messages: int
    wait_seconds: int


class Gathered(NamedTuple):
    """The open batch: received and not yet landed."""

    messages: int = 0
    bytes: int = 0  # of the bodies
    seconds: float = 0.0  # since its first message


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
    while len(under_way) + situation.empty_in_a_row < limits.receivers:
        # What is under way may bring all that it may bring.
        on_its_way = situation.received + sum(receive.max_messages for receive in under_way)
        max_messages = min(MAX_PER_CALL, limits.max_messages - on_its_way)
        if max_messages <= 0:
            break
        # What the queue said it had is on its way: what comes late is the next run's, and not worth a long poll's
        # second. Where it said nothing is there it may not know yet (AWS's count lags).
        hurry = 0 < limits.expected <= on_its_way
        if hurry and any(receive.wait_seconds for receive in under_way):
            break  # a short poll beside them would take what they are waiting for
        under_way.append(Receive(max_messages, 0 if hurry else limits.wait_seconds))
    return under_way[len(situation.receives) :]
