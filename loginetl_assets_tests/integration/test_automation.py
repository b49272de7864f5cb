"""Sensors and retention, on real Dagster instances."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import dagster as dg
import polars as pl
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG
from sqlalchemy import Connection

from loginetl_assets import dagster_instance
from loginetl_assets.automation import observations
from loginetl_assets.automation.jobs import LOGIN_ETL
from loginetl_assets.automation.notifiers import Alert
from loginetl_assets.aws.sqs import QueueDepth
from loginetl_assets.build import build_definitions
from loginetl_assets.cli.running import run_landed
from loginetl_assets.dagster_instance import IN_PROCESS_TAG, INSTALLATION_TAG, SENSORS, OurRuns, label_of
from loginetl_assets.errors import TransientError
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.settings import Automation, Environment, Identity, KeysetRole, Settings
from loginetl_assets.steps import load
from loginetl_assets.storage import batches, rejections
from loginetl_assets.storage.installation import installation_id
from loginetl_assets.storage.login_table import Loaded, load_logins
from loginetl_assets_tests.support.pipeline import SAMPLE, Pipeline, login, metadata, sqs_client


def _start_run(pipeline: Pipeline, status: dg.DagsterRunStatus, job: str = LOGIN_ETL) -> str:
    """Has the instance hold a run of this installation; gives its id."""
    with pipeline.services.database().transaction() as connection:
        tags = {INSTALLATION_TAG: str(installation_id(connection))}
    return _create_run(pipeline.instance, pipeline.definitions.resolve_job_def(job), status, tags=tags)


def _create_run(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    status: dg.DagsterRunStatus,
    *,
    location: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Has the instance hold a run, launched from a code location or not at all; gives its id."""
    origin = location and RemoteJobOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__"), job.name
    )
    return instance.create_run_for_job(job, status=status, tags=tags, remote_job_origin=origin or None).run_id


@dg.op
def _nothing() -> None:
    pass


@dg.job
def billing() -> None:
    """Another project's."""
    _nothing()


def _start_runs_of_others(pipeline: Pipeline, status: dg.DagsterRunStatus) -> set[str]:
    """Has the instance hold runs that are not this installation's, with our jobs' names and others; gives their ids."""
    ours = pipeline.definitions.resolve_job_def(LOGIN_ETL)
    others = {INSTALLATION_TAG: str(uuid4())}
    return {
        _create_run(pipeline.instance, billing, status, location="billing"),
        _create_run(pipeline.instance, billing, status),
        _create_run(pipeline.instance, ours, status, location="another-loginetl", tags=others),
        _create_run(pipeline.instance, ours, status, location="another-loginetl"),
        _create_run(pipeline.instance, ours, status, tags=others),
    }


@pytest.fixture
def small_runs(pipeline: Pipeline, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline whose runs take 10 messages, three of them at once."""
    settings = replace(pipeline.settings, messages_per_run=10, max_runs_in_flight=3)
    with Pipeline.on(settings, tmp_path / "small") as small:
        yield small


def test_the_sensor_asks_for_as_many_drains_as_the_backlog_and_the_maximum_allow(small_runs: Pipeline) -> None:
    assert small_runs.requested_runs() == 0
    small_runs.send([login()])
    assert small_runs.requested_runs() == 1
    small_runs.send([login()] * 15)
    assert small_runs.requested_runs() == 2
    small_runs.send([login()] * 100)
    assert small_runs.requested_runs() == 3


def test_messages_that_no_receiver_can_have_yet_start_no_run(small_runs: Pipeline) -> None:
    assert small_runs.settings.queue_url is not None
    sqs_client(small_runs.settings.queue_url).send_message(
        QueueUrl=small_runs.settings.queue_url, MessageBody=login(), DelaySeconds=900
    )
    assert small_runs.services.queue().depth() == QueueDepth(queued=0, in_flight=0, delayed=1)
    assert small_runs.requested_runs() == 0
    small_runs.send([login()])
    assert small_runs.requested_runs() == 1


def _observed(pipeline: Pipeline) -> list[dict[str, object]]:
    """What was observed of the queue, newest first."""
    records = pipeline.instance.fetch_observations(dg.AssetKey("login_queue"), limit=100).records
    found = [record.asset_observation for record in records]
    return [{name: value.value for name, value in one.metadata.items()} for one in found if one]


def test_the_sensor_observes_the_queue(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.tick()
    pipeline.tick()
    empty = {"queued": 0, "in_flight": 0, "delayed": 0}
    assert _observed(pipeline) == [empty], "nothing has changed"
    pipeline.send([login()])
    pipeline.tick()
    assert _observed(pipeline) == [empty], "it was observed a moment ago"
    monkeypatch.setattr(observations, "MIN_INTERVAL", timedelta())
    pipeline.tick()
    pipeline.tick()
    assert _observed(pipeline) == [{**empty, "queued": 1}, empty]
    monkeypatch.setattr(observations, "MAX_INTERVAL", timedelta())
    pipeline.tick()
    assert len(_observed(pipeline)) == 3, "a plot shows that nothing happened, too"


def test_an_observation_has_the_depth_of_the_dead_letter_queue(pipeline: Pipeline) -> None:
    assert pipeline.settings.queue_url is not None
    queue_url, sqs = pipeline.settings.queue_url, sqs_client(pipeline.settings.queue_url)
    dead = sqs.create_queue(QueueName=f"{queue_url.rsplit('/', 1)[-1]}-dead")["QueueUrl"]
    sqs.send_message(QueueUrl=dead, MessageBody=login())
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 5})
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"RedrivePolicy": policy})
    pipeline.tick()
    (found,) = _observed(pipeline)
    assert found["dead_letters"] == 1
    sqs.delete_queue(QueueUrl=dead)
    assert pipeline.services.queue().dead_letters() is None


def test_runs_in_flight_count_against_the_backlog(small_runs: Pipeline) -> None:
    small_runs.send([login()] * 15)
    _start_run(small_runs, dg.DagsterRunStatus.NOT_STARTED)
    assert small_runs.requested_runs() == 1
    _start_run(small_runs, dg.DagsterRunStatus.STARTED)
    answer = small_runs.tick()
    assert isinstance(answer, dg.SkipReason)
    assert "2 drains in flight" in (answer.skip_message or "")
    _start_run(small_runs, dg.DagsterRunStatus.STARTING)
    answer = small_runs.tick()
    assert isinstance(answer, dg.SkipReason)
    assert "3 drains in flight" in (answer.skip_message or "")


def test_the_sensor_asks_again_after_a_failed_run_and_pauses_after_several(small_runs: Pipeline) -> None:
    small_runs.send([login()])
    _start_run(small_runs, dg.DagsterRunStatus.FAILURE)
    assert small_runs.requested_runs() == 1
    pauses = []
    for _ in range(7):
        _start_run(small_runs, dg.DagsterRunStatus.FAILURE)
        answer = small_runs.tick()
        assert isinstance(answer, dg.SkipReason)
        pauses.append(int(str(answer.skip_message).rsplit(" ", 2)[1]))
    # Less what has passed since the run ended.
    expected = [30, 90, 210, 450, 600, 600, 600]
    assert all(full - 15 < pause <= full for pause, full in zip(pauses, expected, strict=True)), pauses
    _start_run(small_runs, dg.DagsterRunStatus.SUCCESS)
    assert small_runs.requested_runs() == 1


def test_runs_that_leave_the_queue_alone_are_no_drains(small_runs: Pipeline) -> None:
    small_runs.send([login()] * 30)
    for name in ("process_landed", "replay_rejected", "retention"):
        _start_run(small_runs, dg.DagsterRunStatus.STARTED, name)
    assert small_runs.requested_runs() == 3
    for _ in range(2):
        _start_run(small_runs, dg.DagsterRunStatus.FAILURE)
    _start_run(small_runs, dg.DagsterRunStatus.SUCCESS, "process_landed")
    assert isinstance(small_runs.tick(), dg.SkipReason), "it says nothing of the drains that failed"


def test_runs_of_others_on_a_shared_instance_are_neither_in_flight_nor_failures_of_ours(small_runs: Pipeline) -> None:
    small_runs.send([login()])
    _start_runs_of_others(small_runs, dg.DagsterRunStatus.STARTED)
    assert small_runs.requested_runs() == 1
    _start_runs_of_others(small_runs, dg.DagsterRunStatus.FAILURE)
    assert small_runs.requested_runs() == 1
    small_runs.materialize("raw_login_messages")
    assert small_runs.requested_runs() == 1, "a batch is pending, and only others are at work"


def test_whose_a_run_is(pipeline: Pipeline) -> None:
    job, mine, status = pipeline.definitions.resolve_job_def(LOGIN_ETL), str(uuid4()), dg.DagsterRunStatus.SUCCESS
    tags = {INSTALLATION_TAG: mine}
    foreign = {INSTALLATION_TAG: str(uuid4())}
    create = partial(_create_run, pipeline.instance, job, status)
    elsewhere = create(location="unheard-of", tags=tags | {IN_PROCESS_TAG: "true"})  # where this one has another name
    waiting, begun = create(location="loginetl"), create(location="loginetl", tags=tags)
    in_process = create(tags=tags)
    create(location="loginetl", tags=foreign)  # two installations under one name
    copied = create(location="staging", tags=tags)  # its database is a copy of ours
    create(tags=foreign)
    create()
    known = OurRuns(pipeline.instance, mine, "__repository__@loginetl")
    assert [record.dagster_run.run_id for record in known.records()] == [in_process, begun, waiting, elsewhere]
    assert [record.dagster_run.run_id for record in known.records(limit=2)] == [in_process, begun]
    assert set(known.ids(statuses=[status])) == {elsewhere, in_process, begun, waiting}
    assert known.records(statuses=[dg.DagsterRunStatus.STARTED]) == []
    without_location = OurRuns(pipeline.instance, mine, None)
    assert set(without_location.ids()) == {copied, elsewhere, in_process, begun}


@pytest.mark.parametrize("by", ["job", "assets"])
def test_a_run_in_this_process_names_the_installation(pipeline: Pipeline, by: str) -> None:
    result = pipeline.run() if by == "job" else pipeline.materialize("raw_login_messages")
    run = pipeline.instance.get_run_by_id(result.run_id)
    assert run is not None
    (installation,) = pipeline.query("SELECT installation_id FROM loginetl.installation")
    assert run.tags[INSTALLATION_TAG] == str(installation.installation_id)


@pytest.mark.parametrize("by", ["job", "assets"])
def test_a_run_in_this_process_is_in_the_code_location_s_history_and_seen_by_its_sensors(
    pipeline: Pipeline, tmp_path: Path, by: str
) -> None:
    recorder = _Recorder()
    with Pipeline.on(pipeline.settings, tmp_path / "told", notifier=recorder) as told:
        start = _evaluate(told, "failed_run")
        told.execute("ALTER TABLE loginetl.batches ADD CONSTRAINT nothing_lands CHECK (messages < 0) NOT VALID")
        told.send([login()])
        materialize = partial(told.run) if by == "job" else partial(told.materialize, "raw_login_messages")
        result = materialize(expect_success=False)
        # As the job's page asks for its runs; the timeline asks for the origin.
        of_location = told.instance.get_runs(dg.RunsFilter(tags={REPOSITORY_LABEL_TAG: "__repository__@loginetl"}))
        assert [run.run_id for run in of_location] == [result.run_id]
        assert of_location[0].status is dg.DagsterRunStatus.FAILURE
        assert label_of(of_location[0]) == "__repository__@loginetl"
        _evaluate(told, "failed_run", start)
    assert [alert.run_id for alert in recorder.alerts] == [result.run_id]


def _evaluate(pipeline: Pipeline, sensor: str, cursor: str | None = None) -> str | None:
    """Evaluates a sensor once as the code location `loginetl` does; returns its new cursor."""
    with dg.SensorEvaluationContext(
        instance_ref=None,
        instance=pipeline.instance,
        cursor=cursor,
        repository_name="__repository__",
        repository_def=pipeline.definitions.get_repository_def(),
        code_location_origin=RegisteredCodeLocationOrigin("loginetl"),
    ) as context:
        return pipeline.definitions.resolve_sensor_def(sensor).evaluate_tick(context).cursor


def test_its_requests_can_be_run(small_runs: Pipeline) -> None:
    small_runs.send([login()] * 15)
    answer = small_runs.tick()
    assert isinstance(answer, dg.SensorResult)
    job = small_runs.definitions.resolve_job_def(LOGIN_ETL)
    for request in answer.run_requests or []:
        assert request.run_key is None
        result = job.execute_in_process(instance=small_runs.instance, run_config=request.run_config)
        assert metadata(result, "raw_login_messages")["messages"] <= 10
    assert small_runs.totals().messages == 15


def test_batches_that_a_failed_run_left_behind_are_worth_a_run_but_not_one_a_tick(small_runs: Pipeline) -> None:
    small_runs.send([login()])
    small_runs.materialize("raw_login_messages")
    assert small_runs.requested_runs() == 1
    for _ in range(2):
        _start_run(small_runs, dg.DagsterRunStatus.FAILURE)
    answer = small_runs.tick()
    assert isinstance(answer, dg.SkipReason)
    assert "last runs failed" in (answer.skip_message or "")


@pytest.mark.parametrize("broken", ["queue", "database"])
def test_what_cannot_be_reached_is_a_skip_with_a_reason(pipeline: Pipeline, tmp_path: Path, broken: str) -> None:
    settings = (
        replace(pipeline.settings, queue_url="http://127.0.0.1:9/000000000000/login-queue")
        if broken == "queue"
        else replace(pipeline.settings, database_url="postgresql://nobody@127.0.0.1:9/none")
    )
    with Pipeline.on(settings, tmp_path / "broken") as unreachable:
        answer = unreachable.tick()
    assert isinstance(answer, dg.SkipReason)
    assert "cannot be reached" in (answer.skip_message or "")


@pytest.mark.parametrize(
    ("environment", "automation", "on"),
    [
        (Environment.LOCAL, None, True),
        (Environment.STAGING, None, False),
        (Environment.PRODUCTION, Automation.ON, True),
        (Environment.LOCAL, Automation.OFF, False),
    ],
)
def test_sensors_and_schedule_are_on_in_local_and_elsewhere_where_asked_for(
    settings: Settings, environment: Environment, automation: Automation | None, on: bool
) -> None:
    definitions = build_definitions(replace(settings, environment=environment, automation=automation))
    for name in SENSORS:
        assert (definitions.resolve_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING) is on
    schedule = definitions.resolve_schedule_def("daily_retention")
    assert (schedule.default_status is dg.DefaultScheduleStatus.RUNNING) is on


class _Recorder:
    def __init__(self) -> None:
        self.alerts: list[Alert] = []

    def notify(self, alert: Alert) -> None:
        self.alerts.append(alert)


def test_a_failed_run_is_reported_to_the_notifier_without_values(pipeline: Pipeline, tmp_path: Path) -> None:
    recorder = _Recorder()
    with Pipeline.on(pipeline.settings, tmp_path / "told", notifier=recorder) as told:
        told.send([login()])
        told.execute("ALTER TABLE loginetl.batches ADD CONSTRAINT nothing_lands CHECK (messages < 0) NOT VALID")
        _fail(told)
        (alert,) = recorder.alerts
        assert alert.job == LOGIN_ETL
        assert alert.failed_steps == ["raw_login_messages"]
        assert "198.51.100.7" not in alert.text
        _fail(told)
        assert len(recorder.alerts) == 1, "the same failure alerts once"
        told.execute("ALTER TABLE loginetl.batches DROP CONSTRAINT nothing_lands")
        told.materialize("raw_login_messages")
        told.execute("ALTER TABLE loginetl.batches ADD CONSTRAINT nothing_masked CHECK (state <> 'masked') NOT VALID")
        _fail(told)
        assert recorder.alerts[1].failed_steps == ["user_logins"], "another failure is told"
        told.execute("ALTER TABLE loginetl.batches DROP CONSTRAINT nothing_masked")
        for _ in range(2):
            _succeed(told)
        assert [alert.active for alert in recorder.alerts] == [True, True, False], "resolved once"
        assert recorder.alerts[2].dedup_key == recorder.alerts[0].dedup_key
        told.execute("UPDATE loginetl.keys SET key_id = 7 WHERE role = 'masking'")
        _fail(told)
        assert len(recorder.alerts) == 4, "after a success the same failure is a new one"


def _fail(pipeline: Pipeline) -> None:
    """Runs into a failure, and has the sensor see it."""
    result = pipeline.run(expect_success=False)
    failure = next(event for event in result.all_events if event.is_run_failure)
    sensor = pipeline.definitions.resolve_sensor_def("failed_run")
    context = dg.build_run_status_sensor_context(
        "failed_run", failure, pipeline.instance, result.dagster_run
    ).for_run_failure()
    sensor(context)


def _succeed(pipeline: Pipeline) -> None:
    """Runs, and has the sensor see it."""
    result = pipeline.run()
    _see(pipeline, result.get_run_success_event(), result.dagster_run)


def _see(pipeline: Pipeline, success: dg.DagsterEvent, run: dg.DagsterRun) -> None:
    context = dg.build_run_status_sensor_context("recovered_run", success, pipeline.instance, run)
    pipeline.definitions.resolve_sensor_def("recovered_run")(context)


def test_of_runs_that_overlap_the_one_that_ends_last_decides(pipeline: Pipeline, tmp_path: Path) -> None:
    recorder = _Recorder()
    with Pipeline.on(pipeline.settings, tmp_path / "told", notifier=recorder) as told:
        fails, cancelled, meanwhile, later = [_start_run(told, dg.DagsterRunStatus.STARTED) for _ in range(4)]
        _see_succeeded(told, meanwhile)
        _see_failed(told, fails)
        run = told.instance.get_run_by_id(cancelled)
        assert run is not None
        told.instance.report_run_canceled(run)
        _see_succeeded(told, later)
    assert [(alert.active, alert.run_id) for alert in recorder.alerts] == [(True, fails), (False, later)]


def _see_succeeded(pipeline: Pipeline, run_id: str) -> None:
    """Has a run succeed, and the sensor see it."""
    run = pipeline.instance.get_run_by_id(run_id)
    assert run is not None
    success = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name)
    pipeline.instance.report_dagster_event(success, run_id)
    _see(pipeline, success, run)


def test_a_failure_of_others_before_it_keeps_no_alert_back(pipeline: Pipeline, tmp_path: Path) -> None:
    recorder = _Recorder()
    with Pipeline.on(pipeline.settings, tmp_path / "told", notifier=recorder) as told:
        _start_runs_of_others(told, dg.DagsterRunStatus.FAILURE)
        run_ids = [_start_run(told, dg.DagsterRunStatus.STARTED) for _ in range(2)]
        for run_id in run_ids:
            _see_failed(told, run_id)
    assert [alert.run_id for alert in recorder.alerts] == run_ids[:1]


def _see_failed(pipeline: Pipeline, run_id: str) -> None:
    """Has a run reported failed, at no step, and the sensor see it."""
    run = pipeline.instance.get_run_by_id(run_id)
    assert run is not None
    failure = pipeline.instance.report_run_failed(run)
    context = dg.build_run_status_sensor_context("failed_run", failure, pipeline.instance, run).for_run_failure()
    pipeline.definitions.resolve_sensor_def("failed_run")(context)


def test_a_summary_says_that_a_step_was_tried_again(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = list[int]()

    def load_once_in_vain(connection: Connection, batch: batches.Batch, logins: pl.DataFrame) -> Loaded:
        claimed.append(batch.batch_id)
        if claimed == [1, 2]:
            raise TransientError("Postgres failed in passing")
        return load_logins(connection, batch, logins)

    monkeypatch.setattr(load, "load_logins", load_once_in_vain)
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0)
    for number in range(2):
        pipeline.land([QueuedMessage(str(uuid4()), 1_700_000_000_000, login(user_id=f"u-{number}").encode())])

    summary = run_landed(pipeline.definitions, pipeline.services, pipeline.instance, {})

    assert len(pipeline.rows()) == 2
    assert (summary.user_logins.loaded, summary.steps_retried) == (1, 1)


def test_retention_removes_what_is_old_and_keeps_what_is_needed(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    pipeline.run()
    landing = pipeline.services.landing()
    landing.put("batches/probe-unregistered", b"left by a run that died")
    unfinished = pipeline.settings.home / "landing" / "batches" / "killed-in-a-write#1"
    unfinished.write_bytes(b"")
    old = datetime.now(UTC) - timedelta(days=40)
    pipeline.execute("UPDATE loginetl.batches SET loaded_at = :old, landed_at = :old", old=old)
    pipeline.send([login()])
    pipeline.materialize("raw_login_messages")
    two_days_ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    for key, _ in [*landing.list("batches"), *landing.list("masked")]:
        os.utime(pipeline.settings.home / "landing" / key, (two_days_ago, two_days_ago))
    os.utime(unfinished, (two_days_ago, two_days_ago))
    rows = pipeline.rows()
    pipeline.run({"purge": {"days": 30}}, job="retention")
    pending = pipeline.query("SELECT object_path FROM loginetl.batches WHERE state = 'landed'")
    assert [path for path, _ in landing.list("batches")] == [pending[0][0]], "old and unregistered objects are gone"
    assert list(landing.list("masked")) == []
    assert not unfinished.exists()
    assert pipeline.query("SELECT count(*) FROM loginetl.processed_messages WHERE outcome = 'loaded'")[0][0] == 0
    assert pipeline.rows() == rows, "the table is not retention's business"
    assert pipeline.query("SELECT count(*) FROM loginetl.rejected_logins")[0][0] == 1
    totals = pipeline.totals()
    assert (totals.messages, totals.loaded, totals.pending) == (101, 99, 1)
    pipeline.run()
    assert len(pipeline.rows()) == 100


def test_retention_forgets_no_id_while_an_old_batch_is_not_settled(pipeline: Pipeline) -> None:
    pipeline.send([login()])
    (received,) = pipeline.services.queue().receive(wait_seconds=1, visibility_seconds=0)
    pipeline.materialize("raw_login_messages")
    pipeline.land([received.message])  # again, as when the delete was lost
    (first, _) = (row[0] for row in pipeline.query("SELECT object_path FROM loginetl.batches ORDER BY batch_id"))
    path = pipeline.settings.home / "landing" / first
    path.rename(path.with_suffix(".away"))
    pipeline.run()
    assert (pipeline.totals().loaded, pipeline.totals().quarantined_batches) == (1, 1)
    pipeline.execute("UPDATE loginetl.batches SET landed_at = now() - interval '90 days', loaded_at = CASE WHEN"
                     " loaded_at IS NOT NULL THEN now() - interval '90 days' END")  # fmt: skip
    pipeline.run({"purge": {"days": 30}}, job="retention")
    path.with_suffix(".away").rename(path)
    pipeline.run({"masked_logins": {"reprocess": True}})
    assert len(pipeline.rows()) == 1, "the id was forgotten, and the message loaded again"


@pytest.mark.parametrize("state", ["loaded", "quarantined"])
def test_retention_forgets_no_id_while_a_batch_is_there_that_may_hold_its_message_again(
    pipeline: Pipeline, state: str
) -> None:
    again = QueuedMessage(str(uuid4()), 1_700_000_000_000, login().encode())
    for _ in range(2):
        pipeline.land([again])
        pipeline.run(job="process_landed")
    for batch_id, days in ((1, 41), (2, 28)):  # SQS delivers again within 14 days
        pipeline.execute(
            "UPDATE loginetl.batches SET landed_at = :old, loaded_at = :old WHERE batch_id = :batch_id",
            old=datetime.now(UTC) - timedelta(days=days),
            batch_id=batch_id,
        )
    pipeline.execute("UPDATE loginetl.batches SET state = :state WHERE batch_id = 2", state=state)

    pipeline.run({"purge": {"days": 30}}, job="retention")
    pipeline.run({"masked_logins": {"reprocess": True}}, job="process_landed")

    assert len(pipeline.rows()) == 1, "the id was forgotten, and the message loaded again"
    assert pipeline.totals().pending == 0


def test_retention_forgets_every_id_but_those_of_rejected_bodies(pipeline: Pipeline, tmp_path: Path) -> None:
    by_event = replace(pipeline.settings, identity=Identity.EVENT_ID)
    with Pipeline.on(by_event, tmp_path / "by-event") as other:
        other.send([login(user_id="anna", event_id="e-1"), login(event_id="e-2"), login(app_version="x"), "{}"])
        other.run()
        services = other.services
        subject = subject_of("anna", [], services.keyring)
        Erasure(services.database(), services.landing(), services.keyring, subject).run("she asked")
        (dropped,) = other.query("SELECT message_uuid FROM loginetl.rejected_logins WHERE reason = 'bad_version'")
        with services.database().transaction() as connection:
            rejections.erase(connection, [dropped.message_uuid])
        other.send([login(user_id="anna", event_id="e-1")])  # as after a redrive
        other.run()
        assert len(other.rows()) == 1, "an event that was erased is known for as long as SQS may bring it again"

        old = datetime.now(UTC) - timedelta(days=46)
        other.execute("UPDATE loginetl.batches SET loaded_at = :old, landed_at = :old", old=old)
        other.run({"purge": {"days": 30}}, job="retention")

        kept = other.query("SELECT message_uuid, event_uuid FROM loginetl.processed_messages")
        bodies = other.query("SELECT message_uuid FROM loginetl.rejected_logins")
        assert [tuple(row) for row in kept] == [(bodies[0].message_uuid, None)]
        other.run({"replay": {}}, job="replay_rejected")
        other.run()
        assert (other.totals().rejected, other.totals().pending) == (1, 0)


def test_retention_keeps_what_is_young(pipeline: Pipeline) -> None:
    pipeline.send(SAMPLE)
    pipeline.run()
    objects = sorted(path for path, _ in pipeline.services.landing().list("batches"))
    pipeline.run({"purge": {"days": 30}}, job="retention")
    assert sorted(path for path, _ in pipeline.services.landing().list("batches")) == objects
    assert pipeline.query("SELECT count(*) FROM loginetl.processed_messages")[0][0] == 100


def _age_runs(instance: dg.DagsterInstance) -> None:
    """Has every run of the instance ended twenty days ago."""
    runs = instance.run_storage
    assert isinstance(runs, SqlRunStorage)
    with runs.connect() as connection:
        connection.execute(RunsTable.update().values(update_timestamp=datetime.now(UTC) - timedelta(days=20)))


def test_retention_removes_every_expired_run_of_ours_however_many_there_are(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_instance, "RUNS_PER_PAGE", 2)
    statuses = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    for status in (*statuses, *statuses[:2]):
        _start_run(pipeline, status)
    left = {_start_run(pipeline, dg.DagsterRunStatus.STARTED)}
    for status in statuses:
        left |= _start_runs_of_others(pipeline, status)
    _age_runs(pipeline.instance)
    result = pipeline.run({"purge": {"days": 15}}, job="retention")
    assert {run.run_id for run in pipeline.instance.get_runs()} == {*left, result.run_id}
    (output,) = (event for event in result.all_events if event.is_successful_output)
    assert output.step_output_data.metadata["dagster_runs"].value == 5


def test_retention_removes_personal_data_though_the_storage_of_runs_fails(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.send(SAMPLE)
    pipeline.run()
    pipeline.execute(
        "UPDATE loginetl.batches SET loaded_at = :old, landed_at = :old", old=datetime(2020, 1, 1, tzinfo=UTC)
    )
    pipeline.execute("DELETE FROM user_logins")  # nothing needs the vault's values

    _age_runs(pipeline.instance)

    def unreachable(run_id: str) -> None:
        raise OSError(run_id)

    monkeypatch.setattr(pipeline.instance, "delete_run", unreachable)
    assert not pipeline.run({"purge": {"days": 15}}, job="retention", expect_success=False).success

    landing = pipeline.services.landing()
    assert [*landing.list("batches"), *landing.list("masked")] == []
    assert pipeline.query("SELECT FROM loginetl.processed_messages WHERE outcome = 'loaded'") == []
    assert pipeline.query("SELECT FROM loginetl.pii_vault") == []


def test_compute_logs_go_with_their_runs(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        logs = instance.compute_log_manager
        assert isinstance(logs, LocalComputeLogManager)
        pipeline = Pipeline(settings, instance)
        expired = Path(logs.get_captured_local_path([pipeline.run().run_id, "compute_logs", "of"], "out")).parents[1]
        foreign = expired.with_name(_create_run(instance, billing, dg.DagsterRunStatus.SUCCESS, location="billing"))
        foreign.mkdir()
        assert list(expired.rglob("*.out"))
        _age_runs(instance)
        retention = pipeline.run({"purge": {"days": 15}}, job="retention")
        assert not expired.exists()
        assert foreign.exists()
        assert list(expired.with_name(retention.run_id).rglob("*.out")), "of a run that is there"


def test_definitions_load_with_nothing_at_hand(settings: Settings) -> None:
    bare = Settings(
        environment=Environment.PRODUCTION,
        queue_url="https://sqs.eu-central-1.amazonaws.com/1/login-queue",
        database_url="postgresql://nowhere.invalid/logins",
        landing_url="s3://nowhere",
        keysets=dict.fromkeys(KeysetRole, "/nowhere"),
    )
    definitions = build_definitions(bare)
    dg.Definitions.validate_loadable(definitions)
    snapshot = str(definitions.resources)
    assert "nowhere.invalid" not in snapshot
    assert "/nowhere" not in snapshot
