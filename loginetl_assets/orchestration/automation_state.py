"""Whether runs start by themselves: the sensors' switches, and the daemon that evaluates them.

Both are read from a Dagster instance; nothing here imports Dagster before there is one.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loginetl_assets.settings import Automation, Settings

if TYPE_CHECKING:
    import dagster as dg

SENSORS = ("queue_depth", "failed_run", "health")

_MAX_HEARTBEAT_AGE_SECONDS = 300  # one every half a minute; a long tick may delay it


@dataclass(frozen=True)
class AutomationState:
    """The sensors and the daemon of an instance."""

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
        found = {}
        if self.sensors_off and (is_wanted or self.daemon_beats):
            found["automation_off"] = (
                f"sensors are off ({', '.join(self.sensors_off)}): switch them on in the Dagster UI, or, where"
                " they never were switched there, by LOGINETL_AUTOMATION=on; LOGINETL_AUTOMATION=off accepts it"
            )
        is_missed = is_wanted or (self.daemon_beats is False and not settings.is_local)
        if len(self.sensors_off) < len(SENSORS) and not self.daemon_beats and is_missed:
            found["daemon_down"] = (
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
    instance: "dg.DagsterInstance", settings: Settings, code_location: str | None = None
) -> AutomationState | None:
    """Returns switches and heartbeat; None for an ephemeral instance, which has neither.

    Args:
        instance: where the daemon runs.
        settings: they decide about sensors that were never switched.
        code_location: whose sensors, by its label; None for any that has such sensors.
    """
    if instance.is_ephemeral:
        return None
    from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType

    on = {
        state.name: state.status is InstigatorStatus.RUNNING
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.status is not InstigatorStatus.DECLARED_IN_CODE
        and code_location in {None, state.origin.repository_origin.get_label()}
    }
    off = tuple(name for name in SENSORS if not on.get(name, settings.is_automatic))
    heartbeat = instance.get_daemon_heartbeats().get("SENSOR")
    return AutomationState(off, heartbeat and time.time() - heartbeat.timestamp < _MAX_HEARTBEAT_AGE_SECONDS)
