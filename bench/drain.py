"""Drains a full queue: with the pipeline, with a row-by-row script, and with bare loops that store nothing."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import database, emulator, sqs
from bench.failure import BenchmarkError
from bench.measure import Spread, Timing, timed
from bench.messages import bodies, other_kinds
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings
from loginetl_assets.storage.database import LoginDatabase

PIPELINE = "loginetl"
ROW_SCRIPT = "row script"
BARE_THREADS = "bare loop, 1 × 8 threads"
BARE_PROCESSES = "bare loop, 2 × 4 threads"


@dataclass(frozen=True)
class Contender:
    """The rates of one contender over all repeats, in messages per second."""

    drained: Spread  # from the first receive to the last commit (or delete)
    with_process: Spread  # from the start of the process to its end
    details: list[dict[str, Any]] = field(default_factory=list)


def compare(
    home: Path, server_url: str, *, messages: int, repeats: int, say: Callable[[str], None]
) -> dict[str, Contender]:
    """Lets all contenders drain the same messages, one after the other.

    Args:
        home: an empty directory, for the pipeline's keys and landing.
        server_url: URL of the Postgres server.
        messages: number of messages in each run.
        repeats: number of runs of each contender.
        say: prints what runs next.

    Raises:
        BenchmarkError: the result of a contender is wrong.
    """
    sent = list(bodies(messages))
    contenders: dict[str, Callable[[str, str], Timing]] = {
        BARE_THREADS: lambda url, _: timed([("bench.bare_loop", url, "8")], {}),
        BARE_PROCESSES: lambda url, _: timed([("bench.bare_loop", url, "4")] * 2, {}),
        ROW_SCRIPT: lambda url, name: _row_script(url, name, server_url, messages),
        PIPELINE: lambda url, name: _pipeline(url, name, server_url, home / name, messages),
    }
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    with emulator.running() as endpoint:
        for repeat in range(repeats):
            for number, (name, drain) in enumerate(contenders.items()):
                say(f"{name} ({repeat + 1} of {repeats})")
                place = f"bench_{repeat}_{number}"
                with emulator.queue(endpoint, place) as url:
                    sqs.fill(url, sent)
                    _expect(f"{name}, before", {"waiting": sqs.depth(url)[0]}, {"waiting": messages})
                    timing = drain(url, place)
                    waiting, in_flight = sqs.depth(url)
                    _expect(
                        name,
                        {"messages": timing.messages, "waiting": waiting, "in flight": in_flight},
                        {"messages": messages, "waiting": 0, "in flight": 0},
                    )
                timings[name].append(timing)
    return {
        name: Contender(
            drained=Spread.of([messages / one.seconds for one in runs]),
            with_process=Spread.of([messages / one.process_seconds for one in runs]),
            details=[one.details for one in runs if one.details],
        )
        for name, runs in timings.items()
    }


def _row_script(url: str, name: str, server_url: str, messages: int) -> Timing:
    with database.fresh(server_url, name) as database_url:
        timing = timed([("bench.row_script", url, database_url)], {})
        rows = database.count(database_url, "user_logins")
        _expect(ROW_SCRIPT, {"rows": rows}, {"rows": messages - other_kinds(messages)})
    return timing


def _pipeline(url: str, name: str, server_url: str, home: Path, messages: int) -> Timing:
    with ExitStack() as stack:
        database_url = stack.enter_context(database.fresh(server_url, name))
        settings = Settings(home=home, queue_url=url, database_url=database_url)
        LoginDatabase(database_url).migrate()
        Services(settings).keyring.make_missing()
        timing = timed([("bench.pipeline", str(messages * 2))], settings.as_environment())
        _expect(
            PIPELINE,
            {
                "rows": database.count(database_url, "user_logins"),
                "rejected": database.count(database_url, "loginetl.rejected_logins"),
                "stopped_reason": timing.details["steps"]["raw_login_messages"]["stopped_reason"],
                "undeleted": timing.details["steps"]["raw_login_messages"]["undeleted"],
                "failed checks": timing.details["failed_checks"],
            },
            {
                "rows": messages - other_kinds(messages),
                "rejected": other_kinds(messages),
                "stopped_reason": "queue_empty",
                "undeleted": 0,
                "failed checks": [],
            },
        )
    return timing


def _expect(who: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    wrong = [f"{name} {found[name]}, not {value}" for name, value in expected.items() if found[name] != value]
    if wrong:
        raise BenchmarkError(f"{who}: {'; '.join(wrong)}")
