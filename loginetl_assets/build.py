"""The whole system on one page: `build_definitions` composes it from settings; `definitions.py` is what Dagster loads.

    login_queue ──> raw_login_messages ──┬─> masked_logins ──> user_logins
      (external)                         ├─> rejected_logins
                                         └─> pii_vault          user_logins ──> login_activity

Loading needs no service, key or network: only the settings are read.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import dagster as dg

from loginetl_assets.assets.catalog import in_catalog
from loginetl_assets.assets.login_activity import login_activity
from loginetl_assets.assets.masked_logins import masked_logins
from loginetl_assets.assets.raw_login_messages import login_queue, raw_login_messages
from loginetl_assets.assets.user_logins import user_logins
from loginetl_assets.automation.jobs import login_etl, process_landed, replay_job, retention, retention_schedule
from loginetl_assets.automation.notifiers import Alerts, Notifier, configured_notifier
from loginetl_assets.automation.sensors import (
    failed_run_sensor,
    health_sensor,
    queue_depth_sensor,
    recovered_run_sensor,
)
from loginetl_assets.checks.health import pipeline_health
from loginetl_assets.checks.masked_logins import masked_logins_are_sound, rejection_rate
from loginetl_assets.checks.user_logins import user_logins_are_sound
from loginetl_assets.resources import (
    KeyringResource,
    LandingResource,
    LoginDatabaseResource,
    LoginQueueResource,
    PayloadsResource,
    RulesResource,
    fixed,
)
from loginetl_assets.services import Services
from loginetl_assets.settings import OFFICER_SETTING, Settings


def build_definitions(
    settings: Settings,
    *,
    resource_overrides: Mapping[str, Any] | None = None,
    notifier: Notifier | None = None,
) -> dg.Definitions:
    """Composes assets, checks, automation and resources.

    Args:
        settings: what the environment decides.
        resource_overrides: resources to put in the place of `queue`, `database`, `landing`, `payloads`,
            `keyring` or `rules`.
        notifier: takes the alerts of failed runs and degraded health; by default a webhook where
            LOGINETL_ALERT_WEBHOOK_URL is set, else the log.
    """
    # What builds this runs the pipeline, which has no use for the officer's key; nor has what it starts.
    os.environ.pop(OFFICER_SETTING, None)
    alerts = Alerts(settings, notifier or configured_notifier(settings))
    services = Services(settings)
    ours = {
        "queue": LoginQueueResource(services=services),
        "database": LoginDatabaseResource(services=services),
        "landing": LandingResource(services=services),
        "payloads": PayloadsResource(services=services),
        "keyring": KeyringResource(services=services),
        "rules": RulesResource.of(settings),
    }
    automatic = settings.is_automatic
    sensors = dg.DefaultSensorStatus.RUNNING if automatic else dg.DefaultSensorStatus.STOPPED
    schedules = dg.DefaultScheduleStatus.RUNNING if automatic else dg.DefaultScheduleStatus.STOPPED
    freshness = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=settings.freshness_hours))
    of_table = user_logins.map_asset_specs(
        lambda spec: spec.replace_attributes(freshness_policy=freshness).merge_attributes(
            metadata={"dagster/table_name": str(settings.table)}
        )
    )
    return dg.Definitions(
        assets=in_catalog([login_queue, raw_login_messages, masked_logins, of_table, login_activity], settings),
        asset_checks=[masked_logins_are_sound, rejection_rate, user_logins_are_sound, pipeline_health],
        jobs=[login_etl, process_landed, replay_job, retention],
        sensors=[
            queue_depth_sensor(
                messages_per_run=settings.messages_per_run,
                max_runs_in_flight=settings.max_runs_in_flight,
                default_status=sensors,
            ),
            failed_run_sensor(alerts, default_status=sensors),
            recovered_run_sensor(alerts, default_status=sensors),
            health_sensor(alerts, default_status=sensors),
        ],
        schedules=[retention_schedule(days=settings.retention_days, default_status=schedules)],
        executor=dg.in_process_executor,  # `dagster asset materialize` and the Dagster UI use it
        resources={name: fixed(resource) for name, resource in {**ours, **(resource_overrides or {})}.items()},
    )
