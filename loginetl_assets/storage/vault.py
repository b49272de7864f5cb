"""The vault: token to encrypted value, the data keys these are encrypted with, and which tokens were erased.

Works in the caller's transaction.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from loginetl_assets.storage.statements import among, array_of, named
from loginetl_assets.storage.tables import erased_tokens, pii_vault, token_map, vault_data_keys
from loginetl_assets.storage.token_map import forget_pairs

# Held shared by whoever puts an object into the landing, until a batch names it, and by whoever masks; exclusively by
# an erasure or a sweep while it decides which values nobody else needs, and what in the landing nobody is to name. It
# is taken after the lock on a batch, never before it.
_LOCK = 0x6C6F67696E76

_ADD_VALUES = named(
    "add_values",
    "INSERT INTO loginetl.pii_vault (token, field, encrypted_value, data_key_id)"
    " SELECT token, field, decode(encrypted, 'hex'), :data_key_id FROM unnest(CAST(:tokens AS text[]),"
    " CAST(:fields AS text[]), CAST(:encrypted AS text[])) new (token, field, encrypted)"
    " ORDER BY token ON CONFLICT DO NOTHING",
)
_MARK_TOKENS = named(
    "mark_tokens",
    "INSERT INTO loginetl.erased_tokens (token)"
    " SELECT token FROM loginetl.pii_vault WHERE token = ANY(:tokens) ORDER BY token ON CONFLICT DO NOTHING",
)
_ERASE_VALUES = named(
    "erase_values",
    "WITH gone AS (DELETE FROM loginetl.pii_vault WHERE token = ANY(:tokens) RETURNING token)"
    " INSERT INTO loginetl.erased_tokens (token) SELECT token FROM gone UNION"
    " SELECT old_token FROM loginetl.token_map JOIN gone ON new_token = token ON CONFLICT DO NOTHING",
)


def lock_shared(connection: Connection) -> None:
    """Keeps erasures from deciding about vault and landing until the transaction ends."""
    connection.execute(named("lock_vault_shared", select(func.pg_advisory_xact_lock_shared(_LOCK))))


def lock_exclusive(connection: Connection) -> None:
    """Waits until nobody lands or masks, and keeps it so until the transaction ends."""
    connection.execute(named("lock_vault_exclusive", select(func.pg_advisory_xact_lock(_LOCK))))


def known_tokens(connection: Connection, tokens: Collection[str]) -> set[str]:
    """Returns which of the tokens have a value."""
    known = select(pii_vault.c.token).where(among(pii_vault.c.token, tokens))
    return set(connection.scalars(named("known_tokens", known)))


def add(
    connection: Connection, wrapped_key: bytes, officer_key_id: int, entries: Iterable[tuple[str, str, bytes]]
) -> int:
    """Adds entries (token, field, encrypted value), one at least, under a data key; returns how many were new.

    One that is there already stays as it is. A token that was listed as erased no longer is.
    """
    tokens, fields, encrypted = map(list, zip(*entries, strict=True))
    data_key = vault_data_keys.insert().values(wrapped_key=wrapped_key, officer_key_id=officer_key_id)
    data_key_id = connection.scalars(named("add_data_key", data_key.returning(vault_data_keys.c.data_key_id))).one()
    arrays = {"tokens": tokens, "fields": fields, "encrypted": map(bytes.hex, encrypted)}
    values = {name: array_of(texts) for name, texts in arrays.items()}
    added = connection.execute(_ADD_VALUES, {"data_key_id": data_key_id, **values}).rowcount
    unmark_tokens(connection, tokens)
    return added


def entries_of(connection: Connection, tokens: Collection[str]) -> Sequence[Row[Any]]:
    """Returns the entries of those of the tokens that have one: rows as of `_entries`."""
    return _entries(connection, "entries_of", select(pii_vault).where(among(pii_vault.c.token, tokens)))


def unmoved_entries(connection: Connection, prefix: str, *, after: str, limit: int) -> Sequence[Row[Any]]:
    """Returns entries that were not moved to the masking key whose tokens start with `prefix`, in order of token."""
    unmoved = select(pii_vault).where(*_unmoved(prefix), pii_vault.c.token > after)
    return _entries(connection, "unmoved_entries", unmoved.order_by(pii_vault.c.token).limit(limit))


def _entries(connection: Connection, name: str, values: Select[Any]) -> Sequence[Row[Any]]:
    """Returns rows of the vault with their data key: wrapped_key, and the id of the officer's key that it is for."""
    page, key = values.subquery(), vault_data_keys.c
    columns = (page.c.token, page.c.field, page.c.encrypted_value, key.data_key_id, key.wrapped_key, key.officer_key_id)
    entries = select(*columns).join(vault_data_keys, key.data_key_id == page.c.data_key_id).order_by(page.c.token)
    return connection.execute(named(name, entries)).all()


def count_unmoved(connection: Connection, prefix: str) -> int:
    """Returns how many entries were not moved to that masking key."""
    count = select(func.count()).select_from(pii_vault).where(*_unmoved(prefix))
    return connection.scalars(named("count_unmoved_entries", count)).one()


def _unmoved(prefix: str) -> Sequence[Any]:
    moved = exists().where(token_map.c.old_token == pii_vault.c.token, func.starts_with(token_map.c.new_token, prefix))
    return not_(func.starts_with(pii_vault.c.token, prefix)), not_(moved)


def remove(connection: Connection, tokens: Collection[str]) -> int:
    """Removes values that no row has or only `EXPIRED_ROWS` have, and data keys without a value. Requires the lock.

    Returns how many values. A function of the database looks for the rows itself, so that the loader role may remove
    nothing else.
    """
    unneeded = func.loginetl.remove_values_without_rows(literal(list(tokens), ARRAY(Text)))
    return int(connection.scalars(named("remove_unneeded_values", select(unneeded))).one())


def mark_tokens(connection: Connection, tokens: Collection[str]) -> None:
    """Lists tokens as erased ahead of their values, with the removal of what names them: if killed, they are found."""
    connection.execute(_MARK_TOKENS, {"tokens": list(tokens)})


def marked_tokens(connection: Connection) -> set[str]:
    """Returns the tokens that are listed as erased and whose value is still there."""
    marked = select(pii_vault.c.token).join(erased_tokens, erased_tokens.c.token == pii_vault.c.token)
    return set(connection.scalars(named("marked_tokens", marked)))


def unmark_tokens(connection: Connection, tokens: Collection[str]) -> None:
    """Removes tokens whose value stays from the list of erased ones."""
    connection.execute(named("unmark_tokens", delete(erased_tokens).where(among(erased_tokens.c.token, tokens))))


def erased_among(connection: Connection, tokens: Collection[str]) -> set[str]:
    """Returns which of the tokens are listed as erased."""
    erased = select(erased_tokens.c.token).where(among(erased_tokens.c.token, tokens))
    return set(connection.scalars(named("erased_among", erased)))


def erase(connection: Connection, tokens: Collection[str]) -> None:
    """Removes values and data keys without a value, and lists the tokens as erased, those of before a rotation too."""
    connection.execute(_ERASE_VALUES, {"tokens": list(tokens)})
    forget_pairs(connection, tokens)
    drop_empty_data_keys(connection)


def drop_empty_data_keys(connection: Connection) -> None:
    """Removes data keys that have no value any more. Requires the exclusive lock."""
    in_use = exists().where(pii_vault.c.data_key_id == vault_data_keys.c.data_key_id)
    connection.execute(named("drop_empty_data_keys", delete(vault_data_keys).where(not_(in_use))))


def _under(token: ColumnElement[str], masking_key_ids: Collection[int]) -> ColumnElement[bool]:
    return among(func.split_part(token, ".", 1, type_=Text), list(map(str, masking_key_ids)))


def count_values_under(connection: Connection, masking_key_ids: Collection[int]) -> int:
    """Returns how many values have a token under one of the masking keys."""
    count = select(func.count()).select_from(pii_vault).where(_under(pii_vault.c.token, masking_key_ids))
    return connection.scalars(named("count_values_under_keys", count)).one()


def forget_tokens_under(connection: Connection, masking_key_ids: Collection[int]) -> None:
    """Forgets which tokens under the masking keys were replaced by which, and which were erased."""
    pairs = delete(token_map).where(
        or_(_under(token_map.c.old_token, masking_key_ids), _under(token_map.c.new_token, masking_key_ids))
    )
    connection.execute(named("forget_pairs_under_keys", pairs))
    erased = delete(erased_tokens).where(_under(erased_tokens.c.token, masking_key_ids))
    connection.execute(named("forget_erased_under_keys", erased))


def count_data_keys_under(connection: Connection, officer_key_ids: Collection[int]) -> int:
    """Returns how many data keys are encrypted for one of these keys of the officer's."""
    under = among(vault_data_keys.c.officer_key_id, officer_key_ids)
    count = select(func.count()).select_from(vault_data_keys).where(under)
    return connection.scalars(named("count_data_keys_under_keys", count)).one()


def officer_key_ids(connection: Connection) -> set[int]:
    """Returns the ids of the officer's keys that data keys are encrypted for."""
    return set(connection.scalars(named("officer_key_ids", select(vault_data_keys.c.officer_key_id).distinct())))


def count_data_keys_of_others(connection: Connection, officer_key_id: int) -> int:
    """Returns how many data keys are encrypted for another of the officer's keys than this one."""
    count = select(func.count()).select_from(vault_data_keys).where(vault_data_keys.c.officer_key_id != officer_key_id)
    return connection.scalars(named("count_data_keys_of_others", count)).one()


def lock_data_keys_of_others(connection: Connection, officer_key_id: int, *, limit: int) -> list[tuple[int, bytes]]:
    """Locks data keys of others of the officer's keys, in the order of their ids; returns ids and wrapped keys."""
    key = vault_data_keys.c
    others = select(key.data_key_id, key.wrapped_key).where(key.officer_key_id != officer_key_id)
    locked = others.order_by(key.data_key_id).limit(limit).with_for_update()
    return list(connection.execute(named("lock_data_keys_of_others", locked)).tuples())


def replace_data_key(connection: Connection, data_key_id: int, wrapped_key: bytes, officer_key_id: int) -> None:
    """Records that a data key is encrypted for another of the officer's keys."""
    replaced = update(vault_data_keys).where(vault_data_keys.c.data_key_id == data_key_id)
    values = {"wrapped_key": wrapped_key, "officer_key_id": officer_key_id}
    connection.execute(named("replace_data_key", replaced.values(values)))
