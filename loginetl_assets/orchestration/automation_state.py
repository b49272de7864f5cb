"""Whether anything happens by itself: the sensors' switches, and the daemon that evaluates them.

Both are read from a Dagster instance; nothing here imports Dagster before there is one.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loginetl_assets.settings import Automation, Settings

if TYPE_CHECKING:
    import dagster as dg

SENSORS = ("queue_depth", "failed_run", "health")

_DAEMON_SILENCE_SECONDS = 300  # it beats every half a minute; a long tick may hold it up


@dataclass(frozen=True)
class AutomationState:
    """What starts runs and tells of them on an instance."""

    sensors_off: tuple[str, ...]
    daemon_beats: bool | None  # None: none ever did here

    def conditions(self, settings: Settings) -> dict[str, str]:
        """What is wrong, by name; each text says what mends it.

        Nothing where automation is off in words, and nothing where no daemon ever was and none was asked for: who calls
        `loginetl run` from cron has none, and nothing is amiss. In the local environment a daemon comes and goes.
        """
        if settings.automation is Automation.OFF:
            return {}
        is_meant = settings.automation is Automation.ON
        found = {}
        if self.sensors_off and (is_meant or self.daemon_beats):
            found["automation_off"] = (
                f"sensors are off ({', '.join(self.sensors_off)}): switch them on on the page, or, where nobody did"
                " either there, by LOGINETL_AUTOMATION=on; LOGINETL_AUTOMATION=off says that it is meant"
            )
        is_missed = is_meant or (self.daemon_beats is False and not settings.is_local)
        if len(self.sensors_off) < len(SENSORS) and not self.daemon_beats and is_missed:
            found["daemon_down"] = (
                "sensors are on, and no Dagster daemon evaluates them: start `dagster-daemon run` on this DAGSTER_HOME;"
                " LOGINETL_AUTOMATION=off says that runs are started otherwise"
            )
        return found

    def __str__(self) -> str:
        """For people."""
        sensors = f"off: {', '.join(self.sensors_off)}" if self.sensors_off else "on"
        daemon = {True: "the daemon beats", False: "the daemon does not beat", None: "there is no daemon"}
        return f"sensors {sensors}; {daemon[self.daemon_beats]}"


def read_automation(
    instance: "dg.DagsterInstance", settings: Settings, code_location: str | None = None
) -> AutomationState | None:
    """Reads switches and heartbeat; None of an instance that is this process's alone, where there are neither.

    Args:
        instance: where the daemon is to run.
        settings: they decide about sensors that nobody has switched.
        code_location: the label of the one that is meant; None for any that has such sensors.
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
    return AutomationState(off, heartbeat and time.time() - heartbeat.timestamp < _DAEMON_SILENCE_SECONDS)
