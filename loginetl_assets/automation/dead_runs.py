"""Runs whose worker is gone are reported failed, whatever launched them.

A crash, a rollout or an out-of-memory kill may take the worker and what launched it, and then Dagster knows of nobody
to ask: the run would stay STARTED and count as in flight until its longest runtime is over.
"""

import dagster as dg

from loginetl_assets.automation.jobs import LOGIN_ETL, PROCESS_LANDED, REPLAY_REJECTED, RETENTION
from loginetl_assets.orchestration.our_runs import INSTALLATION_TAG, OurRuns
from loginetl_assets.storage import live_runs
from loginetl_assets.storage.database import LoginDatabase

_JOBS = {LOGIN_ETL, PROCESS_LANDED, REPLAY_REJECTED, RETENTION}


def fail_runs_without_worker(instance: dg.DagsterInstance, ours: OurRuns, database: LoginDatabase) -> list[str]:
    """Reports our runs failed that are STARTED and whose worker gives no sign of life; returns their ids.

    Should the worker be frozen or cut off, and come back, it does no harm: what it claimed is its own still, or lost
    with its session, and the ledger knows what is loaded.

    Raises:
        OperatorError, TransientError: the database cannot be asked.
    """
    started = [record.dagster_run for record in ours.records(statuses=[dg.DagsterRunStatus.STARTED])]
    with database.transaction() as connection:
        live_runs.expect(connection, [run.run_id for run in started if _gives_signs(run)])
        silent = live_runs.without_worker(connection)
    known = [run for run_id in silent if (run := instance.get_run_by_id(run_id))]  # as they are now
    dead = [run for run in known if run.status is dg.DagsterRunStatus.STARTED]
    for run in dead:
        instance.report_run_failed(
            run, "The run's worker gave no sign of life for more than a minute: it was killed, or its machine was lost."
        )
    with database.transaction() as connection:
        live_runs.forget(connection, [run.run_id for run in known])
    return [run.run_id for run in dead]


def _gives_signs(run: dg.DagsterRun) -> bool:
    """Whether its worker does, or is about to: one of a job that others added to the code location may never."""
    return INSTALLATION_TAG in run.tags or run.job_name in _JOBS
