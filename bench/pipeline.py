"""A contender: the `login_etl` job of the real definitions, in one process, on an ephemeral Dagster instance.

Started as `python -m bench.pipeline MAX_MESSAGES`, with the settings in the environment.
"""

import sys
import time
from typing import Any

import dagster as dg

from bench.measure import Span
from loginetl_assets.build import build_definitions
from loginetl_assets.settings import Settings


def run(max_messages: int) -> Span:
    """Runs the job once; the span ends when `user_logins` was materialized, after its last commit.

    The checks on `user_logins` follow; they are included in `job_seconds` and in the time of the process.
    """
    job = build_definitions(Settings.from_environment()).resolve_job_def("login_etl")
    with dg.DagsterInstance.ephemeral() as instance:
        started, clock = time.perf_counter(), time.time()
        result = job.execute_in_process(
            instance=instance,
            run_config={"ops": {"raw_login_messages": {"config": {"max_messages": max_messages}}}},
        )
        ended = time.perf_counter()
        records = instance.all_logs(result.run_id)
    # Events have wall clock times: relative to the start of the job they become times of the monotonic clock.
    first = next(
        record.timestamp
        for record in records
        if record.step_key == "raw_login_messages"
        and record.dagster_event
        and record.dagster_event.event_type is dg.DagsterEventType.STEP_START
    )
    steps: dict[str, dict[str, Any]] = {}
    last = first
    for record in records:
        event = record.dagster_event
        if event and event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and event.asset_key:
            name = event.asset_key.to_user_string()
            steps[name] = {key: value.value for key, value in event.materialization.metadata.items()}
            if name == "user_logins":
                last = record.timestamp
    return Span(
        first=started + (first - clock),
        last=started + (last - clock),
        messages=steps["raw_login_messages"]["messages"],
        details={
            "job_seconds": ended - started,
            "steps": steps,
            "failed_checks": [
                evaluation.check_name
                for evaluation in result.get_asset_check_evaluations()
                if not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR
            ],
        },
    )


if __name__ == "__main__":
    run(int(sys.argv[1])).write()
