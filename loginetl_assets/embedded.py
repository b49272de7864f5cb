"""What the pipeline knows of the embedded stack: this interface, and no module of `local`.

`embedded_stack` is the only place that imports `local`, and does so when it is called: a production image is installed
without the packages that `local` runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loginetl_assets.local.stack import EmbeddedStack as EmbeddedStack


@dataclass(frozen=True)
class Addresses:
    """Where the running stack is reached."""

    database_url: str  # SQLAlchemy's, with psycopg 3; of the database `loginetl`
    dagster_database_url: str  # libpq's, of the database `dagster`
    sqs_endpoint: str  # of S3, too; on 127.0.0.1
    queue_url: str  # in region us-east-1 (`local.sqs.REGION`): a client of another region does not see the queue


def embedded_stack(home: Path) -> "EmbeddedStack":
    """Returns the stack of a home, whichever process started it; starts nothing."""
    from loginetl_assets.local import stack

    return stack.EmbeddedStack(home)
