"""`loginetl status`: addresses, counts, conditions; starts nothing and changes nothing."""

import os
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from loginetl_assets.cli.console import AsJson, note, print_json, print_record
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.errors import OperatorError

if TYPE_CHECKING:
    from loginetl_assets.services import Services
    from loginetl_assets.settings import Settings

app = typer.Typer()

# Of the ledger's totals.
_COUNTS = ("messages", "pending_batches", "pending", "quarantined_batches",
           "loaded", "rejected", "erased", "lost", "duplicates")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Status:
    """What `loginetl status --json` prints, in this order; None is not known, as all counts while services are down."""

    environment: str
    running: bool
    home: str | None
    queue_url: str | None
    sqs_endpoint: str | None
    database_url: str | None = None
    table: str | None = None
    landing_url: str
    queued: int | None = None
    delayed: int | None = None
    in_flight: int | None = None
    messages: int | None = None
    pending_batches: int | None = None
    pending: int | None = None
    quarantined_batches: int | None = None
    loaded: int | None = None
    rejected: int | None = None
    erased: int | None = None
    lost: int | None = None
    duplicates: int | None = None
    last_loaded_at: str | None = None
    oldest_pending_seconds: int | None = None
    rejection_rate: float | None = None
    quarantined: list[dict[str, Any]] | None = None
    automation: str | None = None
    runs_at_work: int | None = None
    runs_without_worker: list[str] | None = None
    sizes: dict[str, dict[str, int]] | None = None
    conditions: dict[str, str] | None = None


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show addresses and counts; starts nothing and changes nothing."""
    found = read_status(configured_services())
    if as_json:
        print_json(asdict(found))
    else:
        print_status(found)
    if reason := (found.conditions or {}).get("queue_unreachable"):
        raise OperatorError(reason)


def read_status(services: "Services") -> Status:
    """Reads it all; a queue that does not answer is a condition.

    Raises:
        OperatorError, TransientError: the database does not answer, or its schema is not this version's.
    """
    from loginetl_assets.steps.health import read_health

    settings = services.settings
    addresses = services.stack.find() if services.needs_stack else None
    running = not services.needs_stack or addresses is not None
    where: dict[str, Any] = {
        "environment": settings.environment,
        "running": running,
        "home": str(services.stack.home) if settings.is_local else None,
        "queue_url": settings.queue_url or (addresses and addresses.queue_url),
        "sqs_endpoint": addresses and addresses.sqs_endpoint,
        "landing_url": settings.landing_url or (settings.home / "landing").as_uri(),
    }
    if not running:
        return Status(**where)
    database = services.unchanged_database()
    seen = read_health(database, services.queue())
    depth, loaded_at = seen.depth, seen.totals.last_loaded_at
    automation, conditions = _automation(settings)
    return Status(
        **where,
        database_url=database.address,
        table=str(settings.table),
        queued=depth.waiting if depth else None,
        delayed=depth.delayed if depth else None,
        in_flight=depth.in_flight if depth else None,
        **{name: value for name, value in asdict(seen.totals).items() if name in _COUNTS},
        last_loaded_at=loaded_at.isoformat(timespec="seconds") if loaded_at else None,
        oldest_pending_seconds=None if seen.oldest_pending_seconds is None else round(seen.oldest_pending_seconds),
        rejection_rate=round(seen.rejection_rate, 4),
        quarantined=[asdict(one) for one in seen.quarantined],
        automation=automation,
        runs_at_work=seen.runs_at_work,
        runs_without_worker=seen.runs_without_worker,
        sizes={name: asdict(size) for name, size in seen.sizes.items()},
        conditions=seen.conditions(
            max_rejection_rate=settings.max_rejection_rate, freshness_hours=settings.freshness_hours
        )
        | seen.not_begun()
        | conditions,
    )


def _automation(settings: "Settings") -> tuple[str, dict[str, str]]:
    """Returns whether runs start by themselves, in words, and what is wrong about it.

    Dagster is asked, and imported, only where DAGSTER_HOME names an instance.
    """
    default = f"sensors and schedules are {'on' if settings.is_automatic else 'off'} unless switched in the Dagster UI"
    if not os.environ.get("DAGSTER_HOME"):
        return f"{default}; DAGSTER_HOME is not set, so more is not known", {}
    import dagster as dg

    from loginetl_assets.dagster_instance import read_automation

    try:
        with dg.DagsterInstance.get() as instance:
            state = read_automation(instance, settings)
    except Exception as error:  # noqa: BLE001 - whatever storage it has; nothing else of the report depends on it
        return f"{default}; the instance of DAGSTER_HOME cannot be read ({type(error).__name__})", {}
    return (str(state), state.conditions(settings)) if state else (default, {})


def print_status(found: Status) -> None:
    """Prints it for people."""
    if not found.running:
        note(f"the embedded services of {escape(str(found.home))} are down: `loginetl up` starts them")
        return
    shown: dict[str, object] = asdict(found)
    if found.oldest_pending_seconds is not None:
        shown["oldest_pending_seconds"] = timedelta(seconds=found.oldest_pending_seconds)
    shown["rejection_rate"] = f"{found.rejection_rate or 0:.2%} within a day"
    for name, lines in {
        "quarantined": [f"batch {one['batch_id']}: {one['reason']}" for one in found.quarantined or ()],
        "runs_without_worker": found.runs_without_worker,
        "sizes": [
            f"{table}: {size['bytes']:,} bytes, ~{size['rows']:,} rows" for table, size in (found.sizes or {}).items()
        ],
        "conditions": [f"{name}: {text}" for name, text in (found.conditions or {}).items()] or ["healthy"],
    }.items():
        shown[name] = "\n".join(lines or ()) or None
    print_record(shown)
