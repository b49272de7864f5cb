"""Promise 6: a process killed at any point of the way, or a call that fails there, and the next run finishes the work.

The points are named along the data flow. At each of them the process that runs the job is killed; at most of
them calls fail in the ways they can fail there. Then a run without faults follows, and every message is accounted for.
"""

import json
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal

import dagster as dg
import pytest

from loginetl_assets.automation.jobs import LOGIN_ETL, REPLAY_REJECTED, RETENTION
from loginetl_assets_tests.support import http_proxy, postgres_proxy
from loginetl_assets_tests.support.http_proxy import Response, alter, answer, sqs_error
from loginetl_assets_tests.support.postgres_proxy import CONNECT, refuse, statement
from loginetl_assets_tests.support.proxy import DroppedError, Rule
from loginetl_assets_tests.support.scene import DRAIN, Scene, assert_no_value, failures


@dataclass(frozen=True)
class Call:
    """A call to SQS or S3: the `nth` of an operation."""

    pattern: str
    nth: int = 1

    def add_fault(self, scene: Scene, action: http_proxy.Action) -> Rule[Any, Any]:
        operation = re.compile(self.pattern)
        return scene.sqs.add(Rule(lambda request: bool(operation.match(request.operation)), action, nth=self.nth))


@dataclass(frozen=True)
class Query:
    """A statement to Postgres, by its name; for a COMMIT by the name of one before it."""

    name: str
    after: str = ""

    def add_fault(self, scene: Scene, action: postgres_proxy.Action) -> Rule[Any, Any]:
        return scene.postgres.add(Rule(statement(self.name, after=self.after), action))


PUT_BATCH = Call("PUT .*/batches/", nth=2)  # the first is the probe whether the landing can be written to
PUT_MASKED = Call("PUT .*/masked/")
REGISTER = Query("register_batch")
LOOK_UP_VAULT = Query("known_tokens")
WRITE_VAULT = Query("add_values")
MARK_MASKED = Query("mark_masked")
COPY_ROWS = Query("copy_logins")
LOAD = Query("mark_loaded")
HAND_OVER = Query("hand_over_rejections")
MARK_PURGED = Query("mark_purged")


def commit_of(query: Query) -> Query:
    """The COMMIT of the transaction with that statement."""
    return Query("COMMIT", after=query.name)


# What comes before the moment, and what is run then


def nothing_yet(scene: Scene) -> None:
    """All messages are on the queue."""


def all_is_loaded(scene: Scene) -> None:
    """The work is done, and two messages are rejected."""
    scene.settle()


def all_is_loaded_and_old(scene: Scene) -> None:
    """The work is done, and was done long ago; beside it lies an object that no batch names."""
    scene.settle()
    (scene.settings.home / "landing" / "batches" / "probe-of-a-dead-run").write_bytes(b"")
    scene.age(loaded_days_ago=40)


@dataclass(frozen=True)
class Stage:
    """One kind of run, and what there is before it."""

    job: str
    config: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Scene], None] = nothing_yet
    purges: bool = False


LOADING = Stage(LOGIN_ETL, DRAIN)
REPLAYING = Stage(REPLAY_REJECTED, prepare=all_is_loaded)
RETAINING = Stage(RETENTION, prepare=all_is_loaded_and_old, purges=True)


@dataclass(frozen=True)
class Point:
    """A moment on the way: just before a call, in the midst of it, or after it and before the answer is heard."""

    when: Literal["before", "during", "after"]
    call: Call | Query
    stage: Stage = LOADING
    on_s3: bool = False

    def kill(self, scene: Scene) -> Rule[Any, Any]:
        """Kills the child at this moment."""
        if isinstance(self.call, Call):
            acts = {"before": http_proxy.call_before, "after": http_proxy.call_after}
            return self.call.add_fault(scene, acts[self.when](scene.kill))
        actions = {
            "before": postgres_proxy.call_before,
            "during": postgres_proxy.call_during_copy,
            "after": postgres_proxy.call_after,
        }
        return self.call.add_fault(scene, actions[self.when](scene.kill))


POINTS = {
    "after receive": Point("after", Call("ReceiveMessage", nth=2)),
    "after put on file": Point("before", REGISTER),
    "after put on s3": Point("after", PUT_BATCH, on_s3=True),
    "before register commits": Point("before", commit_of(REGISTER)),
    "after register": Point("after", commit_of(REGISTER)),
    "between two deletes": Point("before", Call("DeleteMessageBatch", nth=2)),
    "after a delete nobody heard of": Point("after", Call("DeleteMessageBatch", nth=2)),
    "after parse": Point("before", PUT_MASKED, on_s3=True),
    "after the masked file": Point("before", LOOK_UP_VAULT),
    "after vault write": Point("after", WRITE_VAULT),
    "before mark masked": Point("before", MARK_MASKED),
    "after masked commits": Point("after", commit_of(MARK_MASKED)),
    "during copy": Point("during", COPY_ROWS),
    "after copy": Point("after", COPY_ROWS),
    "before load commits": Point("before", commit_of(LOAD)),
    "after load commits": Point("after", commit_of(LOAD)),
    "after objects are deleted": Point("before", MARK_PURGED, RETAINING),
    "after purge commits": Point("after", commit_of(MARK_PURGED), RETAINING),
}

REPLAY_POINTS = {
    "replay: after put": Point("before", REGISTER, REPLAYING),
    "replay: after register": Point("before", HAND_OVER, REPLAYING),
    "replay: before it commits": Point("before", commit_of(HAND_OVER), REPLAYING),
    "replay: after it commits": Point("after", commit_of(HAND_OVER), REPLAYING),
}


def named(table: Mapping[str, Any]) -> list[Any]:
    return [pytest.param(value, id=name.replace(" ", "-")) for name, value in table.items()]


def the_scene(point: "Point | Fault", request: pytest.FixtureRequest) -> Scene:
    scene: Scene = request.getfixturevalue("scene_on_s3" if point.on_s3 else "scene")
    point.stage.prepare(scene)
    return scene


def assert_the_next_run_finishes(scene: Scene, stage: Stage) -> None:
    scene.settle()
    scene.assert_settled(purged=stage.purges)


@pytest.mark.parametrize("point", named({**POINTS, **REPLAY_POINTS}))
def test_the_next_run_finishes_what_a_killed_one_began(point: Point, request: pytest.FixtureRequest) -> None:
    scene = the_scene(point, request)
    fault = point.kill(scene)
    scene.deliver_one_again()

    assert scene.run_in_child(point.stage.job, point.stage.config) == -signal.SIGKILL
    assert fault.acted == 1

    assert_the_next_run_finishes(scene, point.stage)


# The same way, with calls that fail


class Outcome(Enum):
    """What becomes of the run."""

    UNNOTICED = "it succeeds at once: the call itself is tried again"
    RETRIED = "it succeeds, by Dagster's retry of the step"
    FAILED = "it fails, and is not tried again"


@dataclass(frozen=True)
class Fault:
    """A call that fails in one way, what becomes of the run, and what it says of it."""

    call: Call | Query
    action: Any
    outcome: Outcome
    says: str = ""
    stage: Stage = LOADING
    on_s3: bool = False


def failed_entries(response: Response) -> Response:
    """What SQS answers to a batch of deletes of which it did none."""
    ids = [one["Id"] for one in json.loads(response.body).get("Successful", [])]
    failed = [{"Id": one, "SenderFault": False, "Code": "InternalError"} for one in ids]
    return replace(response, body=json.dumps({"Failed": failed}).encode())


RECEIVE, DELETE = Call("ReceiveMessage", nth=2), Call("DeleteMessageBatch", nth=2)
S3_REFUSES = answer(403, b"<Error><Code>AccessDenied</Code><Message>injected</Message></Error>")
UNREACHABLE, TEMPORARY = "cannot be reached", "failed temporarily"


def refuse_midway(sqlstate: str) -> postgres_proxy.Action:
    def callback() -> None:
        raise postgres_proxy.RefusedError(sqlstate)

    return postgres_proxy.call_during_copy(callback)


def drop_midway() -> postgres_proxy.Action:
    def callback() -> None:
        raise DroppedError

    return postgres_proxy.call_during_copy(callback)


FAULTS = {
    "receive answers 500": Fault(RECEIVE, sqs_error(500, "InternalFailure"), Outcome.RETRIED, "InternalFailure"),
    "receive answers 503": Fault(RECEIVE, answer(503), Outcome.RETRIED, "503"),
    "receive is throttled": Fault(RECEIVE, sqs_error(400, "ThrottlingException"), Outcome.RETRIED, "Throttling"),
    "receive is reset": Fault(RECEIVE, http_proxy.drop(reset=True), Outcome.RETRIED, UNREACHABLE),
    "receive is not heard of": Fault(RECEIVE, http_proxy.forward_then_drop(), Outcome.RETRIED, UNREACHABLE),
    "receive is forbidden": Fault(RECEIVE, sqs_error(403, "AccessDenied"), Outcome.FAILED, "sqs:ReceiveMessage"),
    "put answers 503": Fault(PUT_BATCH, answer(503), Outcome.UNNOTICED, on_s3=True),
    "put is not heard of": Fault(PUT_BATCH, http_proxy.forward_then_drop(), Outcome.UNNOTICED, on_s3=True),
    "put is forbidden": Fault(PUT_BATCH, S3_REFUSES, Outcome.FAILED, "LOGINETL_LANDING_URL", on_s3=True),
    "connect is dropped": Fault(Query(CONNECT), postgres_proxy.drop(), Outcome.RETRIED, UNREACHABLE),
    "connect finds no slot": Fault(
        Query(CONNECT), refuse("53300", "sorry, too many clients already"), Outcome.RETRIED, "no connection free"
    ),
    "register is dropped": Fault(REGISTER, postgres_proxy.drop(), Outcome.RETRIED, UNREACHABLE),
    "register meets a shutdown": Fault(REGISTER, refuse("57P01"), Outcome.RETRIED, TEMPORARY),
    "register meets a full disk": Fault(REGISTER, refuse("53100"), Outcome.FAILED, "disk .* full"),
    "register commits unheard": Fault(commit_of(REGISTER), postgres_proxy.forward_then_drop(), Outcome.RETRIED),
    "delete answers 500": Fault(DELETE, sqs_error(500, "InternalFailure"), Outcome.RETRIED, "InternalFailure"),
    "delete is not heard of": Fault(DELETE, http_proxy.forward_then_drop(), Outcome.RETRIED, UNREACHABLE),
    "delete does nothing": Fault(DELETE, alter(failed_entries), Outcome.UNNOTICED),
    "vault look-up deadlocks": Fault(LOOK_UP_VAULT, refuse("40P01"), Outcome.RETRIED, TEMPORARY),
    "vault write finds a lock": Fault(WRITE_VAULT, refuse("55P03"), Outcome.RETRIED, TEMPORARY),
    "mark masked is dropped": Fault(MARK_MASKED, postgres_proxy.drop(), Outcome.RETRIED, UNREACHABLE),
    "masked commits unheard": Fault(commit_of(MARK_MASKED), postgres_proxy.forward_then_drop(), Outcome.RETRIED),
    "copy is dropped midway": Fault(COPY_ROWS, drop_midway(), Outcome.RETRIED, UNREACHABLE),
    "copy fills the disk midway": Fault(COPY_ROWS, refuse_midway("53100"), Outcome.FAILED, "disk .* full"),
    "copy takes too long": Fault(COPY_ROWS, refuse_midway("57014"), Outcome.RETRIED, TEMPORARY),
    "load is refused": Fault(LOAD, refuse("23514"), Outcome.FAILED, "SQLSTATE 23514"),
    "load commit conflicts": Fault(commit_of(LOAD), refuse("40001"), Outcome.RETRIED, TEMPORARY),
    "load commit is dropped": Fault(commit_of(LOAD), postgres_proxy.drop(), Outcome.RETRIED, UNREACHABLE),
    "load commits unheard": Fault(commit_of(LOAD), postgres_proxy.forward_then_drop(), Outcome.RETRIED, UNREACHABLE),
    "replay is dropped": Fault(HAND_OVER, postgres_proxy.drop(), Outcome.FAILED, UNREACHABLE, REPLAYING),
    "replay commits unheard": Fault(
        commit_of(HAND_OVER), postgres_proxy.forward_then_drop(), Outcome.FAILED, UNREACHABLE, REPLAYING
    ),
    "purge is dropped": Fault(MARK_PURGED, postgres_proxy.drop(), Outcome.FAILED, UNREACHABLE, RETAINING),
}


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Dagster's waits between attempts cut short, which ones it asks for on a list; what it tries again is its own."""
    attempts: list[int] = []

    def short(policy: dg.RetryPolicy, attempt_num: int) -> float:
        attempts.append(attempt_num)
        return 0.05

    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", short)
    return attempts


@pytest.mark.parametrize("fault", named(FAULTS))
def test_a_call_that_fails_loses_and_shows_nothing(
    fault: Fault,
    request: pytest.FixtureRequest,
    short_waits: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    scene = the_scene(fault, request)
    rule = fault.call.add_fault(scene, fault.action)
    scene.deliver_one_again()

    with scene.pipeline() as pipeline, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", scene.sqs.url)
        result = pipeline.run(fault.stage.config, fault.stage.job, expect_success=False)

    assert rule.acted == 1
    assert result.success is (fault.outcome is not Outcome.FAILED)
    assert len(short_waits) == (fault.outcome is Outcome.RETRIED)
    said = failures(result)
    assert len(said) == (fault.outcome is not Outcome.UNNOTICED)
    assert all(re.search(fault.says, one) for one in said), said
    assert_no_value("".join([*said, *capfd.readouterr(), *map(str, result.all_events)]))

    assert_the_next_run_finishes(scene, fault.stage)


def test_a_failed_step_is_tried_again_when_its_service_had_time_to_come_back(scene: Scene) -> None:
    scene.postgres.add(Rule(statement(COPY_ROWS.name), postgres_proxy.drop()))
    started = time.monotonic()

    assert scene.run_in_child(LOGIN_ETL, DRAIN) == 0

    assert time.monotonic() - started >= 5
    scene.assert_settled()
