"""What is asked of a Dagster instance: which of its runs are this installation's, and whether runs start by themselves.

An instance may be shared: by other projects, and by other installations of loginetl. Only our
runs count as in flight or failed, and only they are deleted by retention.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG

from loginetl_assets.conditions import Condition
from loginetl_assets.settings import Automation, Settings
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.installation import installation_id

CODE_LOCATION = "loginetl"  # as pyproject.toml and the workspace files name it
INSTALLATION_TAG = "loginetl/installation"  # of a run: the id of the database that it works on
IN_PROCESS_TAG = "loginetl/in_process"  # of a run that no code location launched, see `adopt_run`
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
RUNS_PER_PAGE = 1_000
SENSORS = ("queue_depth", "failed_run", "recovered_run", "health")

_MAX_HEARTBEAT_AGE_SECONDS = 300  # one every half a minute; a long tick may delay it


def label_of(run: dg.DagsterRun) -> str | None:
    """Returns the label (repository@location) of the code location that a run names as its origin, if it names one."""
    origin = run.remote_job_origin
    return origin.repository_origin.get_label() if origin else None


def adopt_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Has a run that no code location launched name ours as its origin, before its first step.

    `loginetl run` and `dagster asset materialize` create runs without an origin, and these are missing from the Dagster
    UI's timeline, from the job's history and from run status sensors.
    """
    if run.remote_job_origin:
        return
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(CODE_LOCATION), SINGLETON_REPOSITORY_NAME)
    instance.add_run_tags(run.run_id, {IN_PROCESS_TAG: "true", REPOSITORY_LABEL_TAG: repository.get_label()})
    if stored := instance.get_run_by_id(run.run_id):
        instance.run_storage.replace_job_origin(stored, repository.get_job_origin(run.job_name))


@dataclass(frozen=True)
class OurRuns:
    """The runs of one installation on an instance.

    A run that was launched names its code location, and one whose worker has begun names the installation, by the
    tag of the database resource. `loginetl run` and `dagster asset materialize` launch nothing: theirs name a code
    location, too, but this deployment's may have another name, so only the tag tells whose they are.
    """

    instance: dg.DagsterInstance
    installation: str | None  # the id of the database they work on, if it is known
    code_location: str | None  # the label of the one that this process belongs to, if to any; see `label_of`

    @classmethod
    def on(cls, database: LoginDatabase, instance: dg.DagsterInstance, code_location: str | None) -> Self:
        """Returns the runs that work on a database."""
        with database.transaction() as connection:
            return cls(instance, str(installation_id(connection)), code_location)

    def is_ours(self, run: dg.DagsterRun) -> bool:
        """Returns whether a run is of this code location and not of another installation."""
        origin, installation = label_of(run), run.tags.get(INSTALLATION_TAG)
        launched_from = None if IN_PROCESS_TAG in run.tags else origin
        if launched_from and self.code_location and launched_from != self.code_location:
            return False
        if installation and self.installation:
            return installation == self.installation
        return origin is not None and origin == self.code_location

    def records(self, *, limit: int | None = None, **filters: Any) -> list[dg.RunRecord]:
        """Returns the newest of our runs, newest first; the filters are those of `RunsFilter`."""
        found = {
            record.storage_id: record
            for tags in self._tags()
            for record in self.instance.get_run_records(dg.RunsFilter(tags=tags, **filters), limit=limit)
            if self.is_ours(record.dagster_run)
        }
        return [found[storage_id] for storage_id in sorted(found, reverse=True)][:limit]

    def ids(self, **filters: Any) -> set[str]:
        """Returns the ids of all of our runs, however many there are; the filters are those of `RunsFilter`."""
        found = set[str]()
        for tags in self._tags():
            cursor, chosen = None, dg.RunsFilter(tags=tags, **filters)
            while page := self.instance.get_runs(chosen, cursor=cursor, limit=RUNS_PER_PAGE):
                found |= {run.run_id for run in page if self.is_ours(run)}
                cursor = page[-1].run_id
        return found

    def delete_ended(self, *, before: datetime) -> int:
        """Deletes our runs that ended before a time, with their events and compute logs; returns how many."""
        run_ids = self.ids(statuses=ENDED, updated_before=before)
        for run_id in run_ids:
            self.instance.compute_log_manager.delete_logs(prefix=[run_id])  # first: without the run nobody finds them
            self.instance.delete_run(run_id)
        return len(run_ids)

    def _tags(self) -> Iterator[dict[str, str]]:
        if self.installation:
            yield {INSTALLATION_TAG: self.installation}
        if self.code_location:
            yield {REPOSITORY_LABEL_TAG: self.code_location}


@dataclass(frozen=True)
class AutomationState:
    """The sensors' switches, and the daemon that evaluates them."""

    sensors_off: tuple[str, ...]
    daemon_beats: bool | None  # None: there never was one

    def conditions(self, settings: Settings) -> dict[str, str]:
        """Returns what is wrong, by name; each text says what fixes it.

        Nothing where LOGINETL_AUTOMATION=off, and nothing where there never was a daemon and none was asked for: with
        `loginetl run` in cron none is needed. In the local environment a daemon comes and goes.
        """
        if settings.automation is Automation.OFF:
            return {}
        is_wanted = settings.automation is Automation.ON
        found: dict[str, str] = {}
        if self.sensors_off and (is_wanted or self.daemon_beats):
            found[Condition.AUTOMATION_OFF] = (
                f"sensors are off ({', '.join(self.sensors_off)}): switch them on in the Dagster UI, or, where"
                " they never were switched there, by LOGINETL_AUTOMATION=on; LOGINETL_AUTOMATION=off accepts it"
            )
        is_missed = is_wanted or (self.daemon_beats is False and not settings.is_local)
        if len(self.sensors_off) < len(SENSORS) and not self.daemon_beats and is_missed:
            found[Condition.DAEMON_DOWN] = (
                "sensors are on, and no Dagster daemon evaluates them: start `dagster-daemon run` on this DAGSTER_HOME;"
                " LOGINETL_AUTOMATION=off says that runs are started by other means"
            )
        return found

    def __str__(self) -> str:
        """For people."""
        sensors = f"off: {', '.join(self.sensors_off)}" if self.sensors_off else "on"
        daemon = {True: "the daemon is up", False: "the daemon is down", None: "there is no daemon"}
        return f"sensors {sensors}; {daemon[self.daemon_beats]}"


def read_automation(
    instance: dg.DagsterInstance, settings: Settings, code_location: str | None = None
) -> AutomationState | None:
    """Returns switches and heartbeat; None for an ephemeral instance, which has neither.

    The settings decide about sensors that were never switched; without the label of a code location the sensors may be
    of any.
    """
    if instance.is_ephemeral:
        return None
    on = {
        state.name: state.status is InstigatorStatus.RUNNING
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.status is not InstigatorStatus.DECLARED_IN_CODE
        and code_location in {None, state.origin.repository_origin.get_label()}
    }
    off = tuple(name for name in SENSORS if not on.get(name, settings.is_automatic))
    heartbeat = instance.get_daemon_heartbeats().get("SENSOR")
    return AutomationState(off, heartbeat and time.time() - heartbeat.timestamp < _MAX_HEARTBEAT_AGE_SECONDS)
