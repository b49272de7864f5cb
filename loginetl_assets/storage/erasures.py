"""The list of erasures in Postgres: when, and whom, encrypted. Works in the caller's transaction."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert

from loginetl_assets.storage.statements import named
from loginetl_assets.storage.tables import erasures as table


def add(connection: Connection, erasure_id: UUID, erased_at: datetime, encrypted_subject: bytes) -> None:
    """Adds an erasure, unless it is on the list."""
    row = insert(table).values(erasure_id=erasure_id, erased_at=erased_at, encrypted_subject=encrypted_subject)
    connection.execute(named("add_erasure", row.on_conflict_do_nothing()))


def encrypted_subjects(connection: Connection) -> Mapping[UUID, bytes]:
    """Returns whom each erasure was about, by its id."""
    rows = connection.execute(named("read_erasures", select(table.c.erasure_id, table.c.encrypted_subject)))
    return dict(rows.tuples().all())


def remove(connection: Connection, erasure_id: UUID) -> None:
    """Removes an erasure."""
    connection.execute(named("remove_erasure", delete(table).where(table.c.erasure_id == erasure_id)))
