"""What the pipeline knows of the embedded stack: this interface, and no module of `local`.

`embedded_stack` is the only place that imports `local`, and does so when it is called: a production image is installed
without the packages that `local` runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Addresses:
    """Where the running stack is reached.

    Attributes:
        database_url: SQLAlchemy URL (psycopg 3) of the database `loginetl`.
        dagster_database_url: libpq URL of the database `dagster`.
        sqs_endpoint: endpoint of SQS, and of S3, on 127.0.0.1.
        queue_url: URL of the queue `login-queue` there. It lives in region us-east-1 (`local.sqs.REGION`): a client of
            another region does not see it.
    """

    database_url: str
    dagster_database_url: str
    sqs_endpoint: str
    queue_url: str


class Stack(Protocol):
    """The embedded PostgreSQL and SQS of one LOGINETL_HOME. Each method raises EmbeddedStackError."""

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
