"""Which runs have a living worker, and what becomes of those that have none."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pytest
from sqlalchemy import text

from loginetl_assets.automation.jobs import LOGIN_ETL, RETENTION
from loginetl_assets.cli.running import run_landed
from loginetl_assets.dagster_instance import INSTALLATION_TAG
from loginetl_assets.settings import Settings
from loginetl_assets.steps.health import read_health
from loginetl_assets.storage import live_runs
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.installation import installation_id
from loginetl_assets.storage.live_runs import Heartbeat
from loginetl_assets_tests.support.pipeline import Pipeline, login
from loginetl_assets_tests.support.postgres_proxy import PostgresProxy, call_after, nothing, refuse, statement
from loginetl_assets_tests.support.proxy import Rule
from loginetl_assets_tests.support.waiting import eventually

STARTED, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE


def _create(pipeline: Pipeline, status: dg.DagsterRunStatus = STARTED, job: str = LOGIN_ETL) -> str:
    with pipeline.services.database().transaction() as connection:
        tags = {INSTALLATION_TAG: str(installation_id(connection))}
    definition = pipeline.definitions.resolve_job_def(job)
    return pipeline.instance.create_run_for_job(definition, status=status, tags=tags).run_id


def _status(pipeline: Pipeline, run_id: str) -> dg.DagsterRunStatus:
    run = pipeline.instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def _pass(pipeline: Pipeline, seconds: float) -> None:
    """Lets time pass for what is on record."""
    pipeline.execute(
        "UPDATE loginetl.live_runs SET beat_at = beat_at - make_interval(secs => :seconds),"
        " missed_at = missed_at - make_interval(secs => :seconds)",
        seconds=seconds,
    )


def _live(pipeline: Pipeline) -> set[str]:
    return {row.run_id for row in pipeline.query("SELECT run_id FROM loginetl.live_runs")}


@contextmanager
def _under_way(pipeline: Pipeline) -> Iterator[str]:
    """A run in a thread that is in the middle of its load while the block lasts; gives its id."""
    results: list[dg.ExecuteInProcessResult] = []
    runs = threading.Thread(target=lambda: results.append(pipeline.run()))
    with pipeline.services.database().transaction() as connection:
        connection.execute(text("LOCK TABLE user_logins IN EXCLUSIVE MODE"))
        runs.start()
        blocked = "SELECT FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
        eventually("the load waits for the lock", lambda: pipeline.query(blocked), seconds=60)
        (run_id,) = _live(pipeline)
        yield run_id
    runs.join()
    assert results[0].success


def test_a_run_gives_signs_of_life_until_its_end_though_a_statement_takes_its_time(pipeline: Pipeline) -> None:
    pipeline.send([login()])
    with _under_way(pipeline) as run_id:
        _pass(pipeline, 600)
        silent = "SELECT FROM loginetl.live_runs WHERE beat_at < now() - interval '300 s'"
        eventually("the run beats", lambda: not pipeline.query(silent), seconds=60)
        assert pipeline.requested_runs() == 0
        assert _status(pipeline, run_id) is STARTED
    assert _live(pipeline) == set()


@pytest.mark.parametrize("had_begun", [True, False])
def test_a_run_without_a_living_worker_is_failed_and_the_queue_drained_again(
    pipeline: Pipeline, had_begun: bool
) -> None:
    pipeline.send([login()])
    drain, retention = _create(pipeline), _create(pipeline, job=RETENTION)
    if had_begun:
        with pipeline.services.database().transaction() as connection:
            live_runs.beat(connection, drain)
    assert pipeline.requested_runs() == 0, "a drain is in flight"
    for seconds in (45, 30):  # with a sensor's interval of 30 s this is less than two minutes
        assert (_status(pipeline, drain), _status(pipeline, retention)) == (STARTED, STARTED)
        _pass(pipeline, seconds)
        asked_for = pipeline.requested_runs()
    assert (_status(pipeline, drain), _status(pipeline, retention)) == (FAILURE, FAILURE)
    assert asked_for == 1, "at once: one failure is no reason to hold back"
    (failure,) = pipeline.instance.all_logs(drain, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "no heartbeat" in failure.message
    assert _live(pipeline) == set()


def test_a_run_that_beats_again_once_its_server_is_back_is_left_alone(pipeline: Pipeline) -> None:
    run_id = _create(pipeline)
    pipeline.requested_runs()
    _pass(pipeline, 600)  # Postgres was away, so nobody could beat
    pipeline.requested_runs()
    with pipeline.services.database().transaction() as connection:
        live_runs.beat(connection, run_id)
    _pass(pipeline, 30)
    pipeline.requested_runs()
    assert _status(pipeline, run_id) is STARTED


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING])
def test_a_run_that_has_no_worker_yet_has_not_lost_it(pipeline: Pipeline, status: dg.DagsterRunStatus) -> None:
    run_id = _create(pipeline, status)
    for _ in range(3):
        pipeline.requested_runs()
        _pass(pipeline, 600)
    assert _status(pipeline, run_id) is status


def test_runs_of_others_and_of_jobs_that_others_added_are_not_ours_to_report(pipeline: Pipeline) -> None:
    @dg.job
    def added() -> None:
        pass

    status, ours = STARTED, pipeline.definitions.resolve_job_def(LOGIN_ETL)
    run_ids = [
        pipeline.instance.create_run_for_job(added, status=status).run_id,
        pipeline.instance.create_run_for_job(ours, status=status, tags={INSTALLATION_TAG: "another"}).run_id,
    ]
    with pipeline.services.database().transaction() as connection:
        live_runs.beat(connection, "of an instance that is gone")
    for _ in range(3):
        pipeline.requested_runs()
        _pass(pipeline, 60)
    assert [_status(pipeline, run_id) for run_id in run_ids] == [STARTED, STARTED]
    assert _live(pipeline) == {"of an instance that is gone"}
    _pass(pipeline, 3_600)
    pipeline.run()
    assert _live(pipeline) == set(), "whoever begins next forgets it"


def test_beats_go_on_once_a_server_is_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_runs, "BEAT_SECONDS", 0.1)
    assert settings.database_url is not None
    with PostgresProxy(settings.database_url) as proxy:
        heartbeat = Heartbeat(LoginDatabase(proxy.through(settings.database_url)), "a-run")
        heartbeat.start()
        away = proxy.add(Rule(statement("beat"), refuse("57P01"), times=3))
        beats = proxy.add(Rule(statement("beat"), call_after(nothing)))
        eventually("a beat arrives", lambda: beats.acted, seconds=60)
        assert away.acted == 3
        heartbeat.stop()
    with LoginDatabase(settings.database_url).transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM loginetl.live_runs")).scalar_one() == 0


def test_the_command_line_reports_its_killed_predecessors(pipeline: Pipeline) -> None:
    killed = _create(pipeline)
    run_landed(pipeline.definitions, pipeline.services, pipeline.instance, {})
    _pass(pipeline, 45)
    run_landed(pipeline.definitions, pipeline.services, pipeline.instance, {})
    assert _status(pipeline, killed) is STARTED
    _pass(pipeline, 30)
    run_landed(pipeline.definitions, pipeline.services, pipeline.instance, {})
    assert _status(pipeline, killed) is FAILURE


def test_runs_that_nobody_reports_are_a_condition(pipeline: Pipeline) -> None:
    with pipeline.services.database().transaction() as connection:
        live_runs.beat(connection, "killed")
    _pass(pipeline, 100)
    seen = read_health(pipeline.services.database(), pipeline.services.queue())
    assert seen.conditions(max_rejection_rate=0.05, freshness_hours=24) == {}, "within the time of a report"
    _pass(pipeline, 100)
    seen = read_health(pipeline.services.database(), pipeline.services.queue())
    assert seen.runs_without_worker == ["killed"]
    assert "queue_depth" in seen.conditions(max_rejection_rate=0.05, freshness_hours=24)["runs_without_worker"]
