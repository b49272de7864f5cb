"""Promise 6: a process killed at any point of the way, or a call that fails there, and the next run finishes the work.

The points are named along the way of the data. At each of them the process that runs the job is killed; at most of
them calls fail in the ways they can fail there. Then a run without faults follows, and every message is accounted for.
"""

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from loginetl_assets.automation.jobs import LOGIN_ETL, RETENTION
from loginetl_assets_tests.faults import http_proxy, postgres_proxy
from loginetl_assets_tests.faults.http_proxy import Rule
from loginetl_assets_tests.faults.postgres_proxy import statement
from loginetl_assets_tests.faults.scene import DRAIN, Scene


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
    """A statement to Postgres, by its beginning; for a COMMIT by the beginning of one before it."""

    pattern: str
    after: str = ""

    def add_fault(self, scene: Scene, action: postgres_proxy.Action) -> Rule[Any, Any]:
        return scene.postgres.add(Rule(statement(self.pattern, after=self.after), action))


PUT_BATCH = Call("PUT .*/batches/")
PUT_MASKED = Call("PUT .*/masked/")
REGISTER = Query("INSERT INTO loginetl.batches")
LOOK_UP_VAULT = Query(r"SELECT token FROM loginetl\.pii_vault")
WRITE_VAULT = Query(r"INSERT INTO loginetl\.pii_vault")
MARK_MASKED = Query(r"UPDATE loginetl\.batches SET state = 'masked'")
COPY_ROWS = Query("COPY new_logins")
LOAD = Query(r"UPDATE loginetl\.batches SET state = 'loaded'")
MARK_PURGED = Query(r"UPDATE loginetl\.batches SET object_purged_at")


def commit_of(query: Query) -> Query:
    """The COMMIT of the transaction with that statement."""
    return Query("COMMIT", after=query.pattern)


# What leads to the moment, and what is run then


def nothing_yet(scene: Scene) -> None:
    """All messages are on the queue."""


def all_is_loaded_and_old(scene: Scene) -> None:
    """The work is done, and was done long ago; beside it lies an object that no batch names."""
    scene.settle()
    (scene.settings.home / "landing" / "batches" / "of-a-dead-run").write_bytes(b"sealed")
    scene.age(loaded_days_ago=40)


@dataclass(frozen=True)
class Stage:
    """One kind of run, and what there is before it."""

    job: str
    config: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Scene], None] = nothing_yet
    purges: bool = False


LOADING = Stage(LOGIN_ETL, DRAIN)
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

# The points of a replay of rejected messages belong here, with a `Stage` of their own.
REPLAY_POINTS: dict[str, Point] = {}


def named(table: Mapping[str, Any]) -> list[Any]:
    return [pytest.param(value, id=name.replace(" ", "-")) for name, value in table.items()]


def the_scene(point: Point, request: pytest.FixtureRequest) -> Scene:
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
    scene.deliver_one_twice()

    assert scene.run_in_child(point.stage.job, point.stage.config) == -signal.SIGKILL
    assert fault.acted == 1

    assert_the_next_run_finishes(scene, point.stage)
