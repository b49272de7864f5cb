"""The schedules."""

import dagster as dg

from loginetl_assets.automation.jobs import retention


def retention_schedule(*, days: int, default_status: dg.DefaultScheduleStatus) -> dg.ScheduleDefinition:
    """Builds the daily schedule that purges what is older than `days`."""
    return dg.ScheduleDefinition(
        name="daily_retention",
        job=retention,
        cron_schedule="17 3 * * *",  # off the full hour, when everything else starts
        run_config={"ops": {"purge": {"config": {"days": days}}}},
        default_status=default_status,
        description=f"Every day at 03:17 UTC: removes what is older than {days} days.",
    )
