"""Which tool keeps what it is sent: the same queue with one fault, a few runs, and then every message is looked for."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

import psycopg

from bench.contenders import CONTENDERS, LOGINETL, Contender, Loaded, Place
from bench.messages import OTHER_KIND_EVERY, bodies
from bench.pipeline import installed
from bench.run import ROOT, Say
from bench.services import QueueState, Services, execute
from bench.targets import Counts

_RUNS = 3  # what is not gone from the queue by then is stuck
_LOST_DELETES = 10
_SECONDS_TO_A_MOMENT = 120

_NOT_JSON = "{not json"
_WRONG_TYPE = json.dumps({"foo": "oops_wrong_msg_type", "bar": "123"})


@dataclass(frozen=True)
class Outcome:
    """What became of the messages, in numbers; `rejected` are kept elsewhere, with a reason."""

    rows: int
    rejected: int
    lost: int  # neither a row, nor rejected, nor on the queue
    twice: int
    stuck: int  # still on the queue
    new_columns: int  # of the table, beside those that it has without the fault


@dataclass(frozen=True)
class _Fault:
    name: str
    body: str | None = None  # one message more
    number_for_ip: bool = False  # in one of the logins
    deletes_to_lose: int = 0
    kills: tuple[Callable[[QueueState, QueueState], bool], ...] = ()  # when each of the first runs is killed


def _half_received(before: QueueState, now: QueueState) -> bool:
    return now.received - before.received >= before.waiting // 2


def _deleting(before: QueueState, now: QueueState) -> bool:
    return now.last_delete_at > before.last_delete_at


_FAULTS = (
    _Fault("none"),
    _Fault("one body is not JSON", body=_NOT_JSON),
    _Fault("one message of the wrong type", body=_WRONG_TYPE),
    _Fault("one number for an ip", number_for_ip=True),
    _Fault(f"{_LOST_DELETES} messages are delivered again", deletes_to_lose=_LOST_DELETES),
    _Fault("killed by SIGKILL: half received, first delete", kills=(_half_received, _deleting)),
)


def faults(services: Services, counts: Counts, say: Say) -> dict[str, dict[str, dict[str, int]]]:
    """Returns the outcome of each fault for each contender that loads a table, by names."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for contender in CONTENDERS:
        if contender.loaded is None:
            continue
        columns: set[str] = set()
        for fault in _FAULTS:
            say(f"{contender.name}: {fault.name}")
            outcome, after = _outcome(services, contender, contender.loaded, fault, _sent(fault, counts.faulty))
            columns = columns or after
            new = len(after - columns)
            found.setdefault(fault.name, {})[contender.name] = {**asdict(outcome), "new_columns": new}
    return found


def _sent(fault: _Fault, messages: int) -> list[str]:
    """Returns bodies of logins, each of a user of its own, with the fault in the middle."""
    logins = [body for number, body in enumerate(bodies(messages, returning=0), 1) if number % OTHER_KIND_EVERY]
    middle = len(logins) // 2
    if fault.number_for_ip:
        logins[middle] = json.dumps({**json.loads(logins[middle]), "ip": 2_130_706_433})
    if fault.body is not None:
        logins.insert(middle, fault.body)
    return logins


def _outcome(
    services: Services, contender: Contender, loaded: Loaded, fault: _Fault, sent: list[str]
) -> tuple[Outcome, set[str]]:
    """Returns it with the names of the table's columns."""
    with (
        services.emulator.queue(sent, deletes_to_lose=fault.deletes_to_lose) as queue,
        installed(services, queue.url) as settings,
        services.database() as url,
    ):
        place = Place(queue, services.emulator.endpoint, settings, url)
        for kill_at in fault.kills:
            _run_and_kill(contender, place, kill_at)
            queue.expire()
        for _ in range(_RUNS):
            contender.run(place)
            queue.expire()
            if not queue.state().waiting:
                break
        if contender.name == LOGINETL:
            url = settings.database_url or ""
        return _counted(url, loaded, contender.name == LOGINETL, len(sent), queue.state().waiting)


def _counted(url: str, loaded: Loaded, has_rejects: bool, sent: int, stuck: int) -> tuple[Outcome, set[str]]:
    rows = distinct = rejected = 0
    schema, _, table = loaded.table.rpartition(".")
    with suppress(psycopg.errors.UndefinedTable):  # it never got as far
        # What has no user is a row of another kind.
        ((rows, distinct),) = execute(
            url,
            f"SELECT count(*), count(DISTINCT user_id) + count(*) - count(user_id) FROM {loaded.table}",
        )
    if has_rejects:
        ((rejected,),) = execute(url, "SELECT count(*) FROM loginetl.rejected_logins")
    columns = execute(
        url,
        "SELECT column_name FROM information_schema.columns"
        f" WHERE table_schema = '{schema or 'public'}' AND table_name = '{table}'",
    )
    lost = sent - distinct - rejected - stuck
    return Outcome(rows, rejected, max(0, lost), rows - distinct, stuck, 0), {name for (name,) in columns}


def _run_and_kill(contender: Contender, place: Place, is_time: Callable[[QueueState, QueueState], bool]) -> None:
    """Runs it until a moment and kills its process; what it started is left to notice."""
    (command,) = contender.commands(place)
    before, deadline = place.queue.state(), time.monotonic() + _SECONDS_TO_A_MOMENT
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **contender.environment(place)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and not is_time(before, place.queue.state()) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
