"""What is measured from outside: whole runs, of loginetl and of the other contenders, on full queues."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.contenders import BARE, CONTENDERS, LOGINETL, OMNILOAD, ROW_SCRIPT, Contender, Place
from bench.messages import bodies
from bench.pipeline import installed, materialize
from bench.run import Say, on_cores
from bench.services import Services
from bench.targets import Counts, Readings
from loginetl_assets.services import Services as Opened
from loginetl_assets.settings import Settings
from loginetl_assets.steps.health import read_health


def end_to_end(services: Services, counts: Counts, say: Say) -> Readings:
    """Lets each contender empty the same queue into a fresh database; their order changes from round to round."""
    readings = defaultdict[str, list[float]](list)
    sent = list(bodies(counts.messages))
    for number in range(counts.repeats):
        for contender in CONTENDERS if number % 2 else reversed(CONTENDERS):
            say(f"{contender.name} ({number + 1} of {counts.repeats})")
            _drain(services, contender, sent[: round(counts.messages * contender.share)], readings)

    def ratios(name: str, figure: str) -> list[float]:
        ours, theirs = readings[f"{LOGINETL}: {figure}"], readings[f"{name}: {figure}"]
        return [mine / other for mine, other in zip(ours, theirs, strict=True)]

    readings["over bare"] = ratios(BARE, "drained")
    readings["over omniload"] = ratios(OMNILOAD, "whole")
    readings["over row script"] = ratios(ROW_SCRIPT, "whole")
    readings["cpu"] = readings[f"{LOGINETL}: cpu"]
    return readings


def latency(services: Services, counts: Counts, say: Say) -> Readings:
    """Drains with and without latency added to each call, no setting changed."""
    readings = defaultdict[str, list[float]](list)
    for number in range(counts.repeats):
        rates = {}
        for milliseconds in (0, 20, 100):
            say(f"drain with {milliseconds} ms added ({number + 1} of {counts.repeats})")
            with installed_with_queue(services, counts.drained) as settings, services.emulator.delay(milliseconds):
                rates[milliseconds] = materialize(settings, select="raw_login_messages").rate("raw_login_messages")
            readings[f"drain with {milliseconds} ms"].append(rates[milliseconds])
        readings["latency 20"].append(rates[20] / rates[0])
        readings["latency 100"].append(rates[100] / rates[0])
    return readings


def workers(services: Services, counts: Counts, say: Say) -> Readings:
    """Drains and masks on one core and on two, which emulator and Postgres share."""
    readings = defaultdict[str, list[float]](list)
    for number in range(counts.repeats):
        done = {}
        for cores in (1, 2):
            say(f"on {cores} of the cores ({number + 1} of {counts.repeats})")
            with installed_with_queue(services, counts.drained) as settings, on_cores(cores):
                done[cores] = materialize(settings)
        for name, asset in (("drain", "raw_login_messages"), ("mask", "masked_logins")):
            rates = {cores: one.rate(asset) for cores, one in done.items()}
            readings[f"{name} on one core"].append(rates[1])
            readings[f"{name} on two cores"].append(rates[2])
            readings[f"scales {name}"].append(rates[2] / rates[1])
    return readings


def memory(services: Services, counts: Counts, say: Say) -> Readings:
    """Watches the memory of all processes of a run on a short and on a long queue."""
    readings = defaultdict[str, list[float]](list)
    for number in range(counts.repeats):
        peaks = []
        for messages in counts.memory:
            say(f"memory at {messages:,} messages ({number + 1} of {counts.repeats})")
            with installed_with_queue(services, messages) as settings:
                done = materialize(settings, max_messages=2 * messages, watch_memory=True)
            peaks.append(done.run.peak_mib or 0.0)
            readings[f"peak at {messages:,}"].append(peaks[-1])
        readings["memory growth"].append(peaks[-1] / peaks[0])
        readings["memory peak"].append(peaks[-1])
    return readings


@contextmanager
def installed_with_queue(services: Services, messages: int) -> Iterator[Settings]:
    """Yields settings of everything fresh, and of a queue of so many messages, which is empty at the end."""
    with services.emulator.queue(bodies(messages)) as queue, installed(services, queue.url) as settings:
        yield settings
        queue.require_empty(LOGINETL)


def _drain(services: Services, contender: Contender, sent: list[str], readings: dict[str, list[float]]) -> None:
    with ExitStack() as stack:
        queue = stack.enter_context(services.emulator.queue(sent))
        settings = stack.enter_context(installed(services, queue.url))
        url = stack.enter_context(services.database())
        if contender.name == LOGINETL:
            done = materialize(settings, max_messages=max(100_000, len(sent)))
            run, last = done.run, done.committed_at
            share = (done.checks_seconds + status_seconds(settings)) / run.seconds
            readings["checks and status"].append(share)
            for asset in ("raw_login_messages", "masked_logins", "user_logins"):
                readings[f"step {asset}"].append(done.rate(asset))
            url = settings.database_url or ""
        else:
            run = contender.run(Place(queue, services.emulator.endpoint, settings, url))
            run.require_success(contender.name)
            last = queue.state().last_delete_at
        queue.require_empty(contender.name)
        contender.require_rows(url, sent)
        readings[f"{contender.name}: drained"].append(len(sent) / (last - queue.state().first_receive_at))
        readings[f"{contender.name}: whole"].append(len(sent) / run.seconds)
        readings[f"{contender.name}: cpu"].append(run.cpu_seconds * 1e6 / len(sent))


def status_seconds(settings: Settings) -> float:
    """Returns how long it takes to read what `loginetl status` shows."""
    opened = Opened(settings)
    database, queue = opened.database(), opened.queue()
    started = time.perf_counter()
    read_health(database, queue)
    return time.perf_counter() - started
