"""Reports runs failed whose worker has died, whatever launched them: docs/decisions/0026-heartbeat-in-postgres.md."""

import dagster as dg

from loginetl_assets.automation.jobs import LOGIN_ETL, PROCESS_LANDED, REPLAY_REJECTED, RETENTION
from loginetl_assets.dagster_instance import INSTALLATION_TAG, OurRuns
from loginetl_assets.storage import live_runs
from loginetl_assets.storage.database import LoginDatabase

_JOBS = {LOGIN_ETL, PROCESS_LANDED, REPLAY_REJECTED, RETENTION}


def fail_runs_without_worker(ours: OurRuns, database: LoginDatabase) -> list[str]:
    """Reports our runs failed that are STARTED and whose worker has no heartbeat; returns their ids.

    A worker that was only frozen or cut off does no harm when it continues: it still holds what it claimed, or lost it
    with its session, and the ledger knows what is loaded.

    Raises:
        OperatorError, TransientError: the database cannot be read.
    """
    started = [record.dagster_run for record in ours.records(statuses=[dg.DagsterRunStatus.STARTED])]
    with database.transaction() as connection:
        live_runs.expect(connection, [run.run_id for run in started if _has_heartbeat(run)])
        silent = live_runs.without_worker(connection)
    known = [run for run_id in silent if (run := ours.instance.get_run_by_id(run_id))]  # again: they may have ended
    dead = [run for run in known if run.status is dg.DagsterRunStatus.STARTED]
    for run in dead:
        ours.instance.report_run_failed(
            run, "The run's worker sent no heartbeat for more than a minute: it was killed, or its machine was lost."
        )
    with database.transaction() as connection:
        live_runs.forget(connection, [run.run_id for run in known])
    return [run.run_id for run in dead]


def _has_heartbeat(run: dg.DagsterRun) -> bool:
    """Whether its worker has one, or will: that of a job that others added to the code location may never have."""
    return INSTALLATION_TAG in run.tags or run.job_name in _JOBS
