"""`loginetl status`: addresses, counts, conditions; starts nothing and changes nothing."""

import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.filesize import decimal
from rich.markup import escape

from loginetl_assets.cli.console import AsJson, note, print_json, print_record
from loginetl_assets.cli.environment import configured_services
from loginetl_assets.conditions import Condition
from loginetl_assets.errors import NeedsAttentionError, OperatorError, counted
from loginetl_assets.settings import Settings

if TYPE_CHECKING:
    from loginetl_assets.services import Services

app = typer.Typer()

# What `--json` prints, in this order. What is not known is null, such as all counts while services are down.
_NAMES = (
    *("environment", "running", "home", "queue_url", "sqs_endpoint", "database_url", "table", "landing_url"),
    *("dagster_home", "queued", "delayed", "in_flight", "messages", "pending_batches", "pending"),
    *("quarantined_batches", "loaded", "rejected", "erased", "lost", "duplicates", "last_loaded_at"),
    *("oldest_pending_seconds", "rejection_rate", "quarantined", "automation", "runs_at_work"),
    *("runs_without_worker", "sizes", "conditions"),
)
_FOR_PROGRAMS = {"running", "sqs_endpoint"}  # people see that it runs, and the endpoint in the queue's URL


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show addresses, counts and conditions; starts nothing and changes nothing.

    Exit code 3: a condition holds. 1: queue or database do not answer.
    """
    found = read_status(configured_services())
    (print_json if as_json else print_status)(found)
    conditions = found["conditions"] or {}
    if reason := conditions.get(Condition.QUEUE_UNREACHABLE):
        raise OperatorError(reason)
    if conditions:
        raise typer.Exit(NeedsAttentionError.exit_code)


def read_status(services: "Services") -> dict[str, Any]:
    """Reads it all; a queue that does not answer is a condition.

    Raises:
        OperatorError, TransientError: the database does not answer, or its schema is not this version's.
    """
    from loginetl_assets.steps.health import read_health

    settings = services.settings
    addresses = services.stack.find() if services.needs_stack else None
    running = not services.needs_stack or addresses is not None
    embedded_home = str(services.stack.home) if settings.is_local else None
    known: dict[str, Any] = {
        "environment": settings.environment,
        "running": running,
        "home": embedded_home,
        "queue_url": settings.queue_url or (addresses and addresses.queue_url),
        "sqs_endpoint": addresses and addresses.sqs_endpoint,
        "landing_url": settings.landing_url or (settings.home / "landing").as_uri(),
        "dagster_home": os.environ.get("DAGSTER_HOME") or (embedded_home and f"{embedded_home}/dagster"),
    }
    if running:
        database = services.unchanged_database()
        seen = read_health(database, services.queue())
        loaded_at, age = seen.totals.last_loaded_at, seen.oldest_pending_seconds
        automation, conditions = _automation(settings)
        known |= (
            vars(seen.totals)
            | seen.as_metadata()
            | {
                "database_url": database.address,
                "table": str(settings.table),
                "last_loaded_at": loaded_at.isoformat(timespec="seconds") if loaded_at else None,
                "oldest_pending_seconds": None if age is None else round(age),
                "quarantined": [
                    {"batch_id": it.batch_id, "messages": it.messages, "reason": it.reason, "since": it.quarantined_at}
                    for it in seen.quarantined
                ],
                "automation": automation,
                "runs_at_work": seen.runs_at_work,
                "runs_without_worker": seen.runs_without_worker,
                "sizes": {name: asdict(size) for name, size in seen.sizes.items()},
                "conditions": seen.conditions(**settings.thresholds) | seen.not_begun() | conditions,
            }
        )
    return {name: known.get(name) for name in _NAMES}


def _automation(settings: Settings) -> tuple[str, dict[str, str]]:
    """Returns whether runs start by themselves, in words, and what is wrong about it.

    Dagster is asked, and imported, only where DAGSTER_HOME names an instance.
    """
    default = f"sensors and schedules are {'on' if settings.is_automatic else 'off'} unless switched in the Dagster UI"
    if not os.environ.get("DAGSTER_HOME"):
        return f"{default}; set DAGSTER_HOME, and this line says whether a daemon runs", {}
    import dagster as dg

    from loginetl_assets.dagster_instance import read_automation

    try:
        with dg.DagsterInstance.get() as instance:
            state = read_automation(instance, settings)
    except Exception as error:  # noqa: BLE001 - whatever storage it has; nothing else of the report depends on it
        return f"{default}; the instance of DAGSTER_HOME cannot be read ({type(error).__name__})", {}
    return (str(state), state.conditions(settings)) if state else (default, {})


def print_status(found: dict[str, Any]) -> None:
    """Prints it for people: what is zero or not known is left out."""
    if not found["running"]:
        note(f"the embedded services of {escape(str(found['home']))} are down: `loginetl up` starts them")
        return
    shown = {
        name.removesuffix("_seconds"): _shown(name, value)
        for name, value in found.items()
        if value and name not in _FOR_PROGRAMS
    }
    print_record({**shown, "conditions": shown.get("conditions", "healthy")})


def _shown(name: str, value: Any) -> str:
    """Returns a value of the report as people read it: rounded, and a line for each of several."""
    match name:
        case "last_loaded_at":
            return f"{value} ({_duration((datetime.now(UTC) - datetime.fromisoformat(value)).total_seconds())} ago)"
        case "oldest_pending_seconds":
            return _duration(value)
        case "rejection_rate":
            return f"{100 * value:.3g} % within a day"
        case "quarantined":
            return "\n".join(f"batch {one['batch_id']}: {one['reason']}" for one in value)
        case "sizes":
            sizes = [(table, size) for table, size in value.items() if size["rows"]]
            return "\n".join(f"{table}: {_rows(size['rows'])}, {decimal(size['bytes'])}" for table, size in sizes)
        case "conditions":
            return "\n".join(f"{condition}: {text}" for condition, text in value.items())
    if isinstance(value, list):
        return "\n".join(value)
    return f"{value:,}" if isinstance(value, int) else value


def _rows(count: int) -> str:
    """Above 100 000 it is the planner's estimate, so three figures of it."""
    return counted(count, "row") if count < 100_000 else f"about {round(count, 3 - len(str(count))):,} rows"


def _duration(seconds: float) -> str:
    units = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
    unit, length = next((one for one in units if seconds >= one[1]), units[-1])
    return counted(round(seconds / length), unit)
