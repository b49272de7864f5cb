"""What the tests of the whole pipeline share: send, run, look."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import dagster as dg
from sqlalchemy import text

from loginetl_assets.build import build_definitions
from loginetl_assets.logins.contract import COLUMN_NAMES
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.resources import RulesResource
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings
from loginetl_assets.steps.batch_objects import BatchLanding, land
from loginetl_assets.steps.drain.engine import Drain, DrainTotals
from loginetl_assets.steps.drain.policy import DrainLimits
from loginetl_assets.steps.load import LoadTotals, load_pending
from loginetl_assets.steps.mask import MaskTotals, mask_pending
from loginetl_assets.storage import batches
from loginetl_assets_tests.support.corpus import FLAT
from loginetl_assets_tests.support.waiting import LOCK_SECONDS, eventually

SAMPLE = (files("loginetl_assets") / "sample" / "login_messages.jsonl").read_text().splitlines()

# The columns that the users of the login table know, and those of later fields.
ADOPTED = ["user_id", "device_type", "masked_ip", "masked_device_id", "locale", "app_version", "create_date"]
COLUMNS = [*ADOPTED, *COLUMN_NAMES[len(ADOPTED) :]]


def sqs_client(endpoint: str) -> Any:
    """A bare boto3 client of the session's emulator."""
    return boto3.client(
        "sqs",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


def s3_client(endpoint: str) -> Any:
    """A bare boto3 client of the emulator's S3."""
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")


def new_bucket(endpoint: str, prefix: str = "landing") -> str:
    """Makes a bucket on the emulator; returns its name."""
    name = f"{prefix}-{uuid4().hex[:12]}"
    s3_client(endpoint).create_bucket(Bucket=name)
    return name


def login(**changes: object) -> str:
    """A good message body, with changes; a field set to `...` is left out."""
    return json.dumps({name: value for name, value in (FLAT | changes).items() if value is not ...})


def marked_logins(count: int) -> dict[str, str]:
    """Good bodies by their users, whose values can be searched for: see `MARKS`."""
    return {
        f"user-5ee4{number:03}": login(
            user_id=f"user-5ee4{number:03}", ip=f"203.0.113.{number}", device_id=f"device-9f1c-{number:03}"
        )
        for number in range(1, count + 1)
    }


MARKED_BAD = [json.dumps({"foo": "oops-88d1", "bar": "123"}), login(user_id="user-5ee4-bad", ip="not-an-ip-41c7")]
# One of them is in every value of a marked body. Each holds a letter beyond f, or dots: the ids of runs in the output
# hold any few hex digits by chance.
MARKS = ("user-5ee4", "203.0.113.", "device-9f1c", "oops-88d1", "not-an-ip-41c7")


class Pipeline:
    """The pipeline under test: its steps as they are, or as Dagster runs them.

    Dagster costs more CPU than a small batch, so a test that is about the steps calls `process`, `mask` and `load`;
    definitions and instance are made when they are first asked for.
    """

    def __init__(self, settings: Settings, dagster: Path | dg.DagsterInstance, **overrides: Any) -> None:
        """Takes an instance, or where an ephemeral one is to keep its files; overrides are `build_definitions`'s."""
        self.settings = settings
        self.services = Services(settings)
        self._dagster, self._overrides = dagster, overrides
        self._exits = ExitStack()

    @classmethod
    @contextmanager
    def on(cls, settings: Settings, dagster: Path | dg.DagsterInstance, **overrides: Any) -> Iterator["Pipeline"]:
        """As the constructor; an ephemeral instance ends with the context."""
        pipeline = cls(settings, dagster, **overrides)
        with pipeline._exits:
            yield pipeline

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        """The Dagster instance."""
        if isinstance(self._dagster, dg.DagsterInstance):
            return self._dagster
        self._dagster.mkdir(parents=True, exist_ok=True)
        return self._exits.enter_context(dg.DagsterInstance.ephemeral(tempdir=str(self._dagster)))

    @cached_property
    def definitions(self) -> dg.Definitions:
        """What Dagster loads."""
        return build_definitions(self.settings, **self._overrides)

    def send(self, bodies: Iterable[str]) -> None:
        """Puts bodies on the queue."""
        self.services.queue().send(bodies)

    def land(self, messages: list[QueuedMessage]) -> int:
        """Puts messages into the landing as a batch, past the queue; gives the batch's id."""
        with self.services.database().transaction() as connection:
            return land(connection, self.services.landing(), self.services.keyring, messages)[0]

    def drain(self, *, visibility_seconds: int = 2) -> DrainTotals:
        """One drain without Dagster's retries, which wait half a minute, and with fewer of boto3's."""
        one = self.services
        limits = DrainLimits(max_messages=1_000, max_seconds=20, visibility_seconds=visibility_seconds)
        into = BatchLanding(database := one.database(), one.bound_landing(database), one.keyring)
        return Drain(one.queue(max_attempts=2), one.payloads(), into, limits).run()

    def run_until_empty(self, *, seconds: float = 20) -> None:
        """Drains again and again until the queue holds nothing, in flight or not, and loads."""
        queue, deadline = self.services.queue(), time.monotonic() + seconds
        while (depth := queue.depth()).queued + depth.in_flight:
            assert time.monotonic() < deadline, "the queue is not drained"
            self.drain(visibility_seconds=30)  # nothing fails here, so nothing need come again
        self.run()

    def mask(self, *, reprocess: bool = False, batch_ids: Sequence[int] = ()) -> MaskTotals:
        """Masks what is pending, without Dagster."""
        one = self.services
        database = one.database()
        totals, failed = mask_pending(
            database,
            one.bound_landing(database),
            one.keyring,
            RulesResource.of(self.settings).masking,
            reprocess=reprocess,
            batch_ids=batch_ids,
            run_id=str(uuid4()),
        )
        if failed:
            raise failed
        return totals

    def load(self) -> LoadTotals:
        """Loads what is masked, without Dagster."""
        one = self.services
        database = one.database()
        totals, failed = load_pending(database, one.bound_landing(database), one.keyring, run_id=str(uuid4()))
        if failed:
            raise failed
        return totals

    def process_landed(self, *, reprocess: bool = False) -> LoadTotals:
        """Masks and loads, without Dagster."""
        self.mask(reprocess=reprocess)
        return self.load()

    def process(self) -> LoadTotals:
        """Drains, masks and loads, without Dagster."""
        self.drain(visibility_seconds=30)
        return self.process_landed()

    def run(
        self, config: Mapping[str, Any] | None = None, job: str = "login_etl", *, expect_success: bool = True
    ) -> dg.ExecuteInProcessResult:
        """Runs a job in this process."""
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config={"ops": {name: {"config": dict(value)} for name, value in (config or {}).items()}},
            raise_on_error=False,
        )
        if expect_success:
            assert result.success, [event.message for event in result.all_events if event.is_failure]
        return result

    def materialize(
        self, *keys: str, config: Mapping[str, Any] | None = None, expect_success: bool = True
    ) -> dg.ExecuteInProcessResult:
        """Materializes assets, with those that the same step writes, and without checks that are not theirs."""
        selection = dg.AssetSelection.assets(*keys).required_multi_asset_neighbors()
        selected = selection.resolve(self.definitions.resolve_asset_graph())
        job = self.definitions.resolve_implicit_job_def_def_for_assets(list(selected))
        assert job is not None
        result = job.execute_in_process(
            instance=self.instance,
            asset_selection=list(selected),
            run_config={"ops": {name: {"config": dict(value)} for name, value in (config or {}).items()}},
            raise_on_error=False,
        )
        if expect_success:
            assert result.success
        return result

    def query(self, statement: str, **values: object) -> list[Any]:
        """Rows of a query."""
        with self.services.database().transaction() as connection:
            return list(connection.execute(text(statement), values).all())

    def execute(self, statement: str, **values: object) -> None:
        """Runs a statement."""
        with self.services.database().transaction() as connection:
            connection.execute(text(statement), values)

    def await_lock(self, kind: str, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Waits until a session of this database waits for a lock of a kind (`relation`, `advisory`), or `unless`."""
        waiting = (
            "SELECT FROM pg_locks WHERE NOT granted AND locktype = :kind"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        eventually("a session waits", lambda: unless() or self.query(waiting, kind=kind), seconds=LOCK_SECONDS)

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        """Evaluates the queue-depth sensor once."""
        resources = self.definitions.resources or {}
        with dg.build_sensor_context(
            instance=self.instance,
            repository_def=self.definitions.get_repository_def(),
            resources={name: resources[name] for name in ("queue", "database")},
        ) as context:
            answer = self.definitions.resolve_sensor_def("queue_depth")(context)
        assert isinstance(answer, (dg.SensorResult, dg.SkipReason))
        return answer

    def requested_runs(self) -> int:
        """Evaluates the queue-depth sensor once; returns the number of runs that it requests."""
        answer = self.tick()
        return len(answer.run_requests or []) if isinstance(answer, dg.SensorResult) else 0

    def totals(self) -> batches.Totals:
        """The ledger in numbers."""
        with self.services.database().transaction() as connection:
            return batches.totals(connection)

    def rows(self) -> list[tuple[Any, ...]]:
        """`user_logins` by the columns that all installations have, sorted."""
        table = ", ".join(ADOPTED)
        return sorted((tuple(row) for row in self.query(f"SELECT {table} FROM user_logins")), key=str)  # noqa: S608 - names above


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """The metadata of an asset's materialization in a run."""
    for event in result.get_asset_materialization_events():
        if event.asset_key == dg.AssetKey(asset):
            found = event.step_materialization_data.materialization.metadata
            return {name: value.value for name, value in found.items()}
    raise AssertionError(f"{asset} was not materialized")


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Which checks of a run passed."""
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}
