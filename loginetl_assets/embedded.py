"""What the pipeline knows of the embedded stack: this interface, and no module of `local`.

`embedded_stack` is the only place that imports `local`, and does so when it is called: a production image is installed
without the packages that `local` runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Addresses:
    """Where the running stack is reached."""

    database_url: str  # SQLAlchemy's, with psycopg 3; of the database `loginetl`
    dagster_database_url: str  # libpq's, of the database `dagster`
    sqs_endpoint: str  # of S3, too; on 127.0.0.1
    queue_url: str  # in region us-east-1 (`local.sqs.REGION`): a client of another region does not see the queue


class Stack(Protocol):
    """The embedded PostgreSQL and SQS of one LOGINETL_HOME; what they raise names the setting or the log that helps."""

    home: Path

    def find(self) -> Addresses | None:
        """Returns the addresses of the running stack; starts nothing."""

    def start(self) -> Addresses:
        """Starts what is not running."""

    def stop(self) -> None:
        """Stops both servers; their data stay."""

    def dagster_home(self) -> Path:
        """Returns a DAGSTER_HOME whose storage is the embedded PostgreSQL; starts the stack."""

    def psql(self) -> Path:
        """Returns the psql that comes with the embedded PostgreSQL."""


def embedded_stack(home: Path) -> Stack:
    """Returns the stack of a home, whichever process started it; starts nothing."""
    from loginetl_assets.local.stack import EmbeddedStack

    return EmbeddedStack(home)
