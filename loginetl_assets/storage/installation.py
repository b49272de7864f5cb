"""Which database this is, and which keys it was written with."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from loginetl_assets.errors import OperatorError
from loginetl_assets.settings import KeysetRole
from loginetl_assets.storage.statements import among, named
from loginetl_assets.storage.tables import installation, keys


def installation_id(connection: Connection) -> UUID:
    """Returns the identity of this database."""
    found: UUID = connection.scalars(named("read_installation_id", select(installation.c.installation_id))).one()
    return found


def installed_at(connection: Connection) -> datetime:
    """Returns when the schema was created."""
    found: datetime = connection.scalars(named("read_installed_at", select(installation.c.installed_at))).one()
    return found


def check_vault_days(connection: Connection, days: int | None) -> None:
    """Raises OperatorError where LOGINETL_VAULT_DAYS is set and this database has another record of it."""
    recorded = connection.execute(named("read_vault_days", select(installation.c.vault_days))).scalar_one()
    if days not in {None, recorded}:
        raise OperatorError(
            f"LOGINETL_VAULT_DAYS is {days}, and this database has {recorded or 'no limit'} on record: run"
            " `loginetl migrate` as the owner of the tables, or correct it"
        )


def check_keys(connection: Connection, role: KeysetRole, check_values: Mapping[int, bytes]) -> None:
    """Makes sure that a keyset belongs to this database, and remembers its primary key.

    A new key of the vault's is not remembered: a public keyset can be put together by anybody, and what is encrypted
    for a key that nobody holds is lost. `remember_key` is for an officer who has shown that his keyset decrypts it.
    The check values are by key id, that of the primary key first.

    Raises:
        OperatorError: as `check_belonging`, or the primary key was retired, or is one of the vault's that no officer
            has taken over.
    """
    known = check_belonging(connection, role, check_values)
    primary = next(iter(check_values))
    if primary in known:
        if (retired_at := used_keys(connection)[role][primary].retired_at) is not None:
            raise OperatorError(
                f"the primary key {primary} of {role.setting} was retired on {retired_at:%Y-%m-%d}: set the keyset that"
                " `loginetl keys retire` wrote, and restart what holds this one"
            )
        return
    if known and role is KeysetRole.VAULT:
        raise OperatorError(
            f"the primary key {primary} of LOGINETL_KEYSET_VAULT is not known to this database: let the privacy officer"
            " run `loginetl keys reencrypt` with this keyset, or set the one before"
        )
    remember_key(connection, role, primary, check_values[primary])


def check_belonging(connection: Connection, role: KeysetRole, check_values: Mapping[int, bytes]) -> set[int]:
    """Makes sure that a keyset has keys of this database, and no other ones under their ids; returns all known ids.

    Raises:
        OperatorError: the database was written with other keys of this role, and the keyset has none of them, or
            another key under the id of one. Loading with such a key would give equal values other tokens.
    """
    known = {key_id: used.check_value for key_id, used in used_keys(connection)[role].items()}
    setting = f"LOGINETL_KEYSET_{role.upper()}"
    if known and known.keys().isdisjoint(check_values):
        raise OperatorError(
            f"{setting} has none of the {role} keys that this database was written with"
            f" ({', '.join(map(str, sorted(known)))}): set the keyset that has them"
        )
    for key_id in known.keys() & check_values.keys():
        if known[key_id] != check_values[key_id]:
            raise OperatorError(
                f"{setting} has another key under the id {key_id} than the one that this database was written with:"
                " set the keyset that has the right key"
            )
    return set(known)


def remember_key(connection: Connection, role: KeysetRole, key_id: int, check_value: bytes) -> None:
    """Adds a key to those that this database is written with."""
    row = insert(keys).values(role=role.value, key_id=key_id, check_value=check_value)
    connection.execute(named("remember_key", row.on_conflict_do_nothing()))


def retire_keys(connection: Connection, role: KeysetRole, key_ids: Collection[int]) -> None:
    """Records that no keyset may have these keys as its primary one any more."""
    retired = update(keys).where(keys.c.role == role.value, among(keys.c.key_id, key_ids))
    connection.execute(named("retire_keys", retired.values(retired_at=func.now())))


def used_keys(connection: Connection) -> dict[KeysetRole, dict[int, Row[Any]]]:
    """Returns the keys that this database was written with, by keyset and key id, oldest first."""
    used: dict[KeysetRole, dict[int, Row[Any]]] = {role: {} for role in KeysetRole}
    for row in connection.execute(named("used_keys", select(keys).order_by(keys.c.first_used_at, keys.c.key_id))):
        used[KeysetRole(row.role)][row.key_id] = row
    return used
