"""Health: problems are found by the check and by `status`, and the sensor alerts once."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType
from dagster._daemon.types import DaemonHeartbeat

from loginetl_assets.automation import observations
from loginetl_assets.automation.notifiers import Alert
from loginetl_assets.checks.health import HEALTH, QUEUE_HEALTH
from loginetl_assets.dagster_instance import SENSORS, read_automation
from loginetl_assets.errors import TransientError
from loginetl_assets.settings import Automation, Environment, Settings
from loginetl_assets.steps.health import Health, read_health
from loginetl_assets.storage import batches, live_runs
from loginetl_assets_tests.support.pipeline import SAMPLE, Pipeline, checks, login, sqs_client

RULES = {"max_rejection_rate": 0.05, "freshness_hours": 24.0}


class _Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []
        self.broken = False

    def notify(self, alert: Alert) -> None:
        if self.broken:
            raise TransientError("not delivered")
        self.told.append((alert.condition, alert.active))


class _Sensor:
    """The health sensor, ticked by hand: its cursor lives from one tick to the next, as in the daemon."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.cursor: str | None = None

    def tick(self) -> str:
        resources = self.pipeline.definitions.resources or {}
        with dg.build_sensor_context(
            instance=self.pipeline.instance,
            cursor=self.cursor,
            resources={name: resources[name] for name in ("queue", "database", "rules")},
        ) as context:
            answer = self.pipeline.definitions.resolve_sensor_def("health")(context)
            self.cursor = context.cursor
        assert isinstance(answer, dg.SkipReason)
        return str(answer.skip_message)


@pytest.fixture
def recorder() -> _Recorder:
    return _Recorder()


@pytest.fixture
def lasting(settings: Settings, tmp_path: Path, recorder: _Recorder) -> Iterator[Pipeline]:
    """On an instance that remembers switches and heartbeats."""
    (tmp_path / "lasting").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "lasting")) as instance:
        yield Pipeline(settings, instance, notifier=recorder)


@pytest.fixture
def watched(settings: Settings, tmp_path: Path, recorder: _Recorder) -> Iterator[Pipeline]:
    with Pipeline.on(settings, tmp_path / "watched", notifier=recorder) as pipeline:
        yield pipeline


def _look(pipeline: Pipeline) -> Health:
    return read_health(pipeline.services.database(), pipeline.services.queue())


def _damage_a_batch(pipeline: Pipeline) -> Path:
    pipeline.send([login()])
    pipeline.drain(visibility_seconds=30)
    (key,) = pipeline.query("SELECT object_path FROM loginetl.batches WHERE state = 'landed'")[0]
    path: Path = pipeline.settings.home / "landing" / key
    path.rename(path.with_suffix(".kept"))
    return path


def test_a_pipeline_that_does_its_work_is_well(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    result = pipeline.run()
    assert checks(result)["health"]
    seen = _look(pipeline)
    assert seen.conditions(**RULES) == {}
    assert (seen.oldest_pending_seconds, seen.rejection_rate, seen.quarantined) == (None, 0.01, [])
    assert seen.depth is not None
    assert seen.depth.queued == 0
    assert seen.sizes["loginetl.pii_vault"].bytes > 0
    (evaluation,) = (one for one in result.get_asset_check_evaluations() if one.check_name == "health")
    assert {name: value.value for name, value in evaluation.metadata.items()}["pending"] == 0


def test_each_condition_is_named_with_what_fixes_it(pipeline: Pipeline) -> None:
    path = _damage_a_batch(pipeline)
    result = pipeline.run()
    assert not checks(result)["health"]
    assert result.success, "a warning, not an error"
    said = _look(pipeline).conditions(**RULES)["quarantined_batches"]
    assert said.startswith("1 batch cannot be read")
    assert "loginetl reprocess" in said
    assert "raw batch" in str(_look(pipeline).quarantined[0].reason)
    pipeline.execute("UPDATE loginetl.batches SET landed_at = now() - interval '25 hours'")
    assert list(_look(pipeline).conditions(**RULES)) == ["quarantined_batches"], "no run brings it in"
    path.with_suffix(".kept").rename(path)
    pipeline.process_landed(reprocess=True)
    assert _look(pipeline).conditions(**RULES) == {}

    pipeline.send([login(user_id="late")])
    pipeline.drain(visibility_seconds=30)
    pipeline.execute("UPDATE loginetl.batches SET oldest_sent_at = now() - interval '25 hours' WHERE state = 'landed'")
    assert _look(pipeline).conditions(**RULES) == {}, "an old message that landed just now does not wait here"
    pipeline.execute("UPDATE loginetl.batches SET landed_at = now() - interval '25 hours' WHERE state = 'landed'")
    assert list(_look(pipeline).conditions(**RULES)) == ["messages_pending_too_long"]
    assert 25 * 3600 <= (_look(pipeline).oldest_pending_seconds or 0) < 25 * 3600 + 60
    pipeline.process()

    pipeline.send(["{}"])
    pipeline.execute("UPDATE loginetl.batches SET loaded_at = now() - interval '25 hours'")
    assert list(_look(pipeline).conditions(**RULES)) == ["queue_not_drained"]
    pipeline.process()
    assert "loginetl rejected summary" in _look(pipeline).conditions(**RULES)["too_many_rejected"]

    pipeline.execute("UPDATE loginetl.batches SET masked_at = now() - interval '25 hours'")
    assert _look(pipeline).conditions(**RULES) == {}
    pipeline.execute("UPDATE loginetl.batches SET state = 'masked', loaded = messages + 1 WHERE batch_id = 1")
    assert list(_look(pipeline).conditions(**RULES)) == ["count_mismatch"]


def test_messages_that_nobody_ever_drained_are_a_condition(pipeline: Pipeline) -> None:
    assert _look(pipeline).not_begun() == {}
    pipeline.send([login()])
    assert "LOGINETL_AUTOMATION=on" in _look(pipeline).not_begun()["never_drained"]
    assert _look(pipeline).conditions(**RULES) == {}, "no alert, as a sensor may be about to start the first run"
    with pipeline.services.database().transaction() as connection:
        live_runs.beat(connection, "at work")
    assert _look(pipeline).not_begun() == {}
    pipeline.execute("UPDATE loginetl.installation SET installed_at = now() - interval '25 hours'")
    assert list(_look(pipeline).conditions(**RULES)) == ["queue_not_drained"]
    pipeline.process()
    pipeline.send([login()])
    assert _look(pipeline).not_begun() == _look(pipeline).conditions(**RULES) == {}


def _switch(instance: dg.DagsterInstance, status: InstigatorStatus, *names: str, location: str = "loginetl") -> None:
    """Has someone switch sensors on the page."""
    for name in names:
        repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
        origin = repository.get_instigator_origin(name)
        instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, status))


def _beat(instance: dg.DagsterInstance, *, seconds_ago: float) -> None:
    """Has the daemon give a sign of life."""
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - seconds_ago, "SENSOR", "a-daemon"))


def _conditions(instance: dg.DagsterInstance, settings: Settings, location: str | None = None) -> list[str]:
    state = read_automation(instance, settings, location)
    assert state is not None
    return sorted(state.conditions(settings))


def _health(instance: dg.DagsterInstance, asset: str, check: str) -> dg.AssetCheckEvaluation:
    record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(dg.AssetKey(asset), check))
    assert record is not None
    assert record.evaluation is not None
    return record.evaluation


def _written(instance: dg.DagsterInstance) -> int:
    """How many results of checks there are that no run wrote."""
    return len(instance.all_logs("", of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION))


def test_a_deleted_queue_turns_the_graph_red_until_it_is_there_again(lasting: Pipeline, recorder: _Recorder) -> None:
    sensor, queue_url, instance = _Sensor(lasting), lasting.settings.queue_url or "", lasting.instance
    sqs, name = sqs_client(queue_url), queue_url.rsplit("/", 1)[-1]
    lasting.run()
    sensor.tick()
    assert _written(instance) == 0, "the run has just said so"

    sqs.delete_queue(QueueUrl=queue_url)
    recorder.broken = True  # an alert that is not delivered keeps the graph from nothing
    for _ in range(2):
        with pytest.raises(TransientError):
            sensor.tick()
    of_queue, of_table = _health(instance, "login_queue", "queue_health"), _health(instance, "user_logins", "health")
    for found in (of_queue, of_table):
        assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert (found.description or "").startswith("queue_unreachable: there is no queue")
    assert _written(instance) == 2, "once, however long it lasts"

    sqs.create_queue(QueueName=name)
    recorder.broken = False
    sensor.tick()
    assert _health(instance, "login_queue", "queue_health").passed
    assert _health(instance, "user_logins", "health").passed
    assert _written(instance) == 4
    of_sensor = _health(instance, "user_logins", "health")
    lasting.run()
    of_run = _health(instance, "user_logins", "health")
    assert of_run.target_materialization_data
    assert (of_run.description, of_run.metadata.keys()) == (of_sensor.description, of_sensor.metadata.keys())


def test_a_dead_database_turns_the_graph_red_until_it_answers(lasting: Pipeline) -> None:
    dead = replace(lasting.settings, database_url="postgresql://nobody@127.0.0.1:9/none")
    _Sensor(Pipeline(dead, lasting.instance, notifier=_Recorder())).tick()
    found = _health(lasting.instance, "user_logins", "health")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "database_unreachable: Postgres cannot be reached" in (found.description or "")
    _Sensor(lasting).tick()
    assert _health(lasting.instance, "user_logins", "health").passed


def test_a_result_that_does_not_change_is_written_once_in_a_while(
    lasting: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = _Sensor(lasting)
    for _ in range(2):
        sensor.tick()
    assert _written(lasting.instance) == 2, "one for each check"
    monkeypatch.setattr(observations, "MAX_INTERVAL", timedelta())
    sensor.tick()
    assert _written(lasting.instance) == 4


def test_a_result_that_an_overlapping_run_hides_is_written_again_once(lasting: Pipeline) -> None:
    sensor, instance = _Sensor(lasting), lasting.instance
    lasting.run()
    instance.report_runless_asset_event(dg.AssetMaterialization("user_logins"))  # as of a run that ends later

    for _ in range(2):
        sensor.tick()

    assert _written(instance) == 1
    assert _health(instance, "user_logins", "health").target_materialization_data is None, "the sensor's own"


def test_a_run_that_is_about_to_report_is_not_anticipated_unless_it_ends_without(lasting: Pipeline) -> None:
    instance, job = lasting.instance, lasting.definitions.resolve_job_def("login_etl")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    for key in (HEALTH, QUEUE_HEALTH):
        planned = AssetCheckEvaluationPlanned(asset_key=key.asset_key, check_name=key.name)
        instance.report_dagster_event(
            dg.DagsterEvent(
                dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value, job.name, event_specific_data=planned
            ),
            run.run_id,
        )
    sensor = _Sensor(lasting)
    sensor.tick()
    assert _written(instance) == 0
    instance.report_run_failed(run)
    sensor.tick()
    assert _written(instance) == 2


def test_automation_that_is_off_and_a_daemon_that_is_down_are_said(lasting: Pipeline) -> None:
    instance, local = lasting.instance, lasting.settings
    unset = replace(local, environment=Environment.PRODUCTION)
    on, off = replace(unset, automation=Automation.ON), replace(unset, automation=Automation.OFF)
    assert _conditions(instance, unset) == [], "no daemon ever was, and none was asked for: cron"
    assert _conditions(instance, local) == []
    assert _conditions(instance, on) == ["daemon_down"]
    _beat(instance, seconds_ago=10)
    assert _conditions(instance, unset) == ["automation_off"], "it runs, and does nothing"
    assert _conditions(instance, local) == _conditions(instance, on) == _conditions(instance, off) == []
    assert str(read_automation(instance, on)) == "sensors on; the daemon is up"

    _switch(instance, InstigatorStatus.RUNNING, *SENSORS)
    assert _conditions(instance, unset) == []
    assert _conditions(instance, unset, "__repository__@loginetl") == []
    assert _conditions(instance, unset, "__repository__@another") == ["automation_off"]
    _beat(instance, seconds_ago=3_600)
    assert _conditions(instance, unset) == _conditions(instance, on) == ["daemon_down"]
    assert _conditions(instance, local) == _conditions(instance, off) == []


def test_a_sensor_that_a_person_switched_off_is_said_though_automation_is_on(lasting: Pipeline) -> None:
    settings = replace(lasting.settings, automation=Automation.ON)
    _beat(lasting.instance, seconds_ago=10)
    _switch(lasting.instance, InstigatorStatus.STOPPED, "failed_run")
    _switch(lasting.instance, InstigatorStatus.DECLARED_IN_CODE, "health")
    state = read_automation(lasting.instance, settings)
    assert state is not None
    assert list(state.conditions(settings)) == ["automation_off"]
    assert "(failed_run)" in state.conditions(settings)["automation_off"]


def test_the_health_sensor_and_the_check_tell_of_a_drain_that_is_switched_off(
    lasting: Pipeline, recorder: _Recorder
) -> None:
    sensor = _Sensor(lasting)
    _beat(lasting.instance, seconds_ago=10)
    assert sensor.tick() == "healthy"
    assert checks(lasting.run())["health"]
    _switch(lasting.instance, InstigatorStatus.STOPPED, "queue_depth")
    assert "queue_depth" in sensor.tick()
    assert recorder.told == [("automation_off", True)]
    assert not checks(lasting.run())["health"]


def test_a_condition_alerts_once_and_is_resolved_once(watched: Pipeline, recorder: _Recorder) -> None:
    sensor = _Sensor(watched)
    assert sensor.tick() == "healthy"
    path = _damage_a_batch(watched)
    watched.process()
    for _ in range(3):
        assert "loginetl reprocess" in sensor.tick()
        watched.process()
    assert recorder.told == [("quarantined_batches", True)]
    path.with_suffix(".kept").rename(path)
    watched.process_landed(reprocess=True)
    sensor.tick()
    sensor.tick()
    assert recorder.told == [("quarantined_batches", True), ("quarantined_batches", False)]


def test_a_second_quarantined_batch_alerts_though_the_first_still_is(watched: Pipeline, recorder: _Recorder) -> None:
    sensor = _Sensor(watched)
    _damage_a_batch(watched)
    watched.process()
    sensor.tick()
    _damage_a_batch(watched)
    watched.process()
    for _ in range(2):
        sensor.tick()
    assert recorder.told == [("quarantined_batches", True)] * 2
    with watched.services.database().transaction() as connection:
        batches.give_up(connection, 1, "gone for good")
    sensor.tick()
    assert recorder.told == [("quarantined_batches", True)] * 2, "the second still is, and was told"
    with watched.services.database().transaction() as connection:
        batches.give_up(connection, 2, "gone for good")
    sensor.tick()
    assert recorder.told == [*[("quarantined_batches", True)] * 2, ("quarantined_batches", False)]


def test_an_alert_that_was_not_delivered_is_tried_again(watched: Pipeline, recorder: _Recorder) -> None:
    _damage_a_batch(watched)
    watched.process()
    sensor = _Sensor(watched)
    recorder.broken = True
    with pytest.raises(TransientError):
        sensor.tick()
    recorder.broken = False
    sensor.tick()
    assert recorder.told == [("quarantined_batches", True)]


def test_while_the_queue_does_not_answer_it_is_not_told_as_drained(
    watched: Pipeline, recorder: _Recorder, tmp_path: Path
) -> None:
    nowhere = replace(watched.settings, queue_url="http://127.0.0.1:9/000000000000/login-queue")
    with Pipeline.on(nowhere, tmp_path / "broken", notifier=recorder) as unreachable:
        sensor = _Sensor(unreachable)
        sensor.cursor = json.dumps(["queue_not_drained"])
        sensor.tick()
    assert recorder.told == [("queue_unreachable", True)]


@pytest.mark.parametrize("broken", ["queue", "database"])
def test_what_cannot_be_reached_is_a_condition_and_others_are_not_forgotten(
    watched: Pipeline, recorder: _Recorder, tmp_path: Path, broken: str
) -> None:
    elsewhere: dict[str, Any] = (
        {"queue_url": "http://127.0.0.1:9/000000000000/login-queue"}
        if broken == "queue"
        else {"database_url": "postgresql://nobody@127.0.0.1:9/none"}
    )
    with Pipeline.on(replace(watched.settings, **elsewhere), tmp_path / "broken", notifier=recorder) as unreachable:
        sensor = _Sensor(unreachable)
        sensor.cursor = json.dumps(["quarantined_batches"] if broken == "database" else [])
        assert "cannot be reached" in sensor.tick()
    assert recorder.told == [(f"{broken}_unreachable", True)]
