"""The health of the whole pipeline, as checks on `user_logins` and `login_queue`: what `loginetl status` shows.

Runs evaluate them, and the health sensor in between; never blocking.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from loginetl_assets.assets.metadata import LOADED, QUEUE
from loginetl_assets.conditions import Condition, Severity
from loginetl_assets.dagster_instance import label_of, read_automation
from loginetl_assets.failures import failures_without_values
from loginetl_assets.resources import LoginDatabaseResource, LoginQueueResource
from loginetl_assets.settings import Settings
from loginetl_assets.steps.health import Health, read_health

HEALTH, QUEUE_HEALTH = dg.AssetCheckKey(LOADED, "health"), dg.AssetCheckKey(QUEUE, "queue_health")

_OF_QUEUE = (Condition.QUEUE_UNREACHABLE, Condition.QUEUE_NOT_DRAINED)


def evaluations(
    found: Health | None, conditions: Mapping[str, str], settings: Settings
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yields the results of both checks, that of the queue only where the database says how long it was not drained.

    Args:
        found: what was read; None where the database does not answer.
        conditions: what is wrong, by name; a text is empty where it is unknown whether the condition still holds.
        settings: the limits.
    """
    counts = found.as_metadata() if found else {}
    if counts.get("last_loaded_at"):
        counts["last_loaded_at"] = dg.MetadataValue.timestamp(counts["last_loaded_at"])
    summary = found.summary(**settings.thresholds) if found else ""
    yield _evaluation(HEALTH, conditions, summary, counts)
    if found:
        depth = {name: counts[name] for name in ("queued", "in_flight", "delayed")}
        of_queue = {name: text for name, text in conditions.items() if name in _OF_QUEUE}
        said = f"The queue answers; its messages: {', '.join(f'{count} {name}' for name, count in depth.items())}."
        yield _evaluation(QUEUE_HEALTH, of_queue, said.replace("_", " "), depth)


def _evaluation(
    key: dg.AssetCheckKey, conditions: Mapping[str, str], healthy: str, counts: Mapping[str, Any]
) -> dg.AssetCheckEvaluation:
    said = [f"{name}: {text or 'unknown at the moment'}" for name, text in conditions.items()]
    urgent = any(Condition(name).severity in {Severity.CRITICAL, Severity.ERROR} for name in conditions)
    return dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=not conditions,
        severity=dg.AssetCheckSeverity.ERROR if urgent else dg.AssetCheckSeverity.WARN,
        description="; ".join(said) or healthy,
        metadata={"conditions": ", ".join(conditions) or "none", **counts},
    )


@dg.multi_asset_check(
    name="pipeline_health",
    can_subset=True,
    specs=[
        dg.AssetCheckSpec(
            HEALTH.name,
            asset=HEALTH.asset_key,
            description="No batch is quarantined, no message waits too long, counts match, queue and database answer,"
            " runs have workers, sensors and daemon are on where they are needed, and of the messages of 24 h no more"
            " were rejected than LOGINETL_MAX_REJECTION_RATE allows.",
        ),
        dg.AssetCheckSpec(
            "queue_health",
            asset=QUEUE,
            description="The queue answers, and where messages wait something was loaded within"
            " LOGINETL_FRESHNESS_HOURS.",
        ),
    ],
)
def pipeline_health(
    context: dg.AssetCheckExecutionContext, database: LoginDatabaseResource, queue: LoginQueueResource
) -> Iterator[dg.AssetCheckResult]:
    """Reads queue and ledger at this moment, whatever this run did."""
    with failures_without_values():
        found = read_health(database.get_client(), queue.get_client())
        settings = database.services.settings
        conditions = found.conditions(**settings.thresholds)
        if automation := read_automation(context.instance, settings, label_of(context.run)):
            conditions |= automation.conditions(settings)
        for one in evaluations(found, conditions, settings):
            if one.asset_check_key in context.selected_asset_check_keys:
                parts = ("asset_key", "check_name", "passed", "severity", "description", "metadata")
                yield dg.AssetCheckResult(**{part: getattr(one, part) for part in parts})
