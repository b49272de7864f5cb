"""What alerts and `loginetl status` call what is wrong: a closed list. docs/runbook.md has a section for each."""

from enum import StrEnum
from typing import Self


class Severity(StrEnum):
    """How soon a person is needed, in the words that paging services take."""

    CRITICAL = "critical"  # no login reaches the table until it is resolved
    ERROR = "error"  # something failed, and the rest continues
    WARNING = "warning"
    INFO = "info"  # nothing is wrong


class Condition(StrEnum):
    """The conditions, each with its severity. Scripts and paging services know the names."""

    severity: Severity

    def __new__(cls, name: str, severity: Severity = Severity.INFO) -> Self:
        """Makes a member of a name and how soon a person is needed."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.severity = severity
        return member

    QUEUE_UNREACHABLE = "queue_unreachable", Severity.CRITICAL
    DATABASE_UNREACHABLE = "database_unreachable", Severity.CRITICAL
    QUEUE_NOT_DRAINED = "queue_not_drained", Severity.CRITICAL
    NEVER_DRAINED = "never_drained", Severity.WARNING  # for people who look: `Health.not_begun`
    DAEMON_DOWN = "daemon_down", Severity.CRITICAL
    RUN_FAILED = "run_failed", Severity.ERROR
    QUARANTINED_BATCHES = "quarantined_batches", Severity.ERROR
    COUNT_MISMATCH = "count_mismatch", Severity.ERROR
    MESSAGES_PENDING_TOO_LONG = "messages_pending_too_long", Severity.WARNING
    RUNS_WITHOUT_WORKER = "runs_without_worker", Severity.WARNING
    TOO_MANY_REJECTED = "too_many_rejected", Severity.WARNING
    AUTOMATION_OFF = "automation_off", Severity.WARNING
    TEST = "test", Severity.INFO  # `loginetl alerts test`
