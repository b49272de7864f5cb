"""The vault: token -> sealed value, the tokens a value had before, which were erased; in the caller's transaction."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from sqlalchemy import Connection, text

from loginetl_assets.storage.adoption import login_table
from loginetl_assets.storage.database import copy_rows
from loginetl_assets.storage.statements import named

# Held shared by whoever puts an object into the landing, until a batch names it, and by whoever masks; exclusively by
# an erasure or a sweep while it decides which values nobody else needs, and what in the landing nobody is to name. It
# is taken after the lock on a batch, never before it.
_LOCK = {"lock": 0x6C6F67696E76}


def lock_shared(connection: Connection) -> None:
    """Keeps erasures from deciding about vault and landing until the transaction ends; others may share it."""
    connection.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), _LOCK)


def lock_exclusive(connection: Connection) -> None:
    """Waits until nobody lands or masks, and keeps it so until the transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), _LOCK)


def map_tokens(connection: Connection, pairs: Iterable[tuple[str, str]]) -> None:
    """Records, for tokens under old keys, the token of the same value under the new one."""
    pairs = sorted(set(pairs))
    if not pairs:
        return
    connection.execute(
        text(
            "INSERT INTO loginetl.token_map (old_token, new_token)"
            " SELECT * FROM unnest(CAST(:old AS text[]), CAST(:new AS text[]))"
            " ON CONFLICT (old_token) DO UPDATE SET new_token = excluded.new_token"
            " WHERE token_map.new_token <> excluded.new_token"
        ),
        {"old": [old for old, _ in pairs], "new": [new for _, new in pairs]},
    )
    # Where an earlier keyset was put back, its tokens are current again and lead nowhere.
    connection.execute(
        text("DELETE FROM loginetl.token_map WHERE old_token = ANY(:new)"), {"new": [new for _, new in pairs]}
    )


def shorten_token_map(connection: Connection) -> None:
    """Where a token points at one that points on, lets it point there itself."""
    connection.execute(
        text(
            "UPDATE loginetl.token_map m SET new_token = n.new_token FROM loginetl.token_map n"
            " WHERE n.old_token = m.new_token AND n.new_token <> m.old_token"
        )
    )


def known_tokens(connection: Connection, tokens: Sequence[str]) -> set[str]:
    """Which tokens the vault has already."""
    return set(
        connection.execute(
            named("known_tokens", "SELECT token FROM loginetl.pii_vault WHERE token = ANY(:tokens)"),
            {"tokens": list(tokens)},
        ).scalars()
    )


def add(
    connection: Connection, wrapped_key: bytes, officer_key_id: int, entries: Iterable[tuple[str, str, bytes]]
) -> int:
    """Adds entries (token, field, sealed value) under a data key; one that is there already stays as it is.

    Gives back how many were new.
    """
    data_key_id: int = connection.execute(
        text(
            "INSERT INTO loginetl.vault_data_keys (wrapped_key, officer_key_id) VALUES (:wrapped, :officer)"
            " RETURNING data_key_id"
        ),
        {"wrapped": wrapped_key, "officer": officer_key_id},
    ).scalar_one()
    connection.execute(
        text("CREATE TEMP TABLE new_vault (token text, field text, encrypted_value bytea) ON COMMIT DROP")
    )
    copy_rows(connection, "pg_temp.new_vault", ("token", "field", "encrypted_value"), entries)
    added: int = connection.execute(
        named(
            "add_values",
            "INSERT INTO loginetl.pii_vault (token, field, encrypted_value, data_key_id)"
            " SELECT token, field, encrypted_value, :data_key_id FROM pg_temp.new_vault ORDER BY token"
            " ON CONFLICT DO NOTHING",
        ),
        {"data_key_id": data_key_id},
    ).rowcount
    connection.execute(text("DELETE FROM loginetl.erased_tokens WHERE token IN (SELECT token FROM pg_temp.new_vault)"))
    connection.execute(text("DROP TABLE pg_temp.new_vault"))
    return added


def tokens_of_nobody_else(
    connection: Connection, tokens: Sequence[str], condition: str, values: dict[str, object]
) -> list[str]:
    """Which tokens stand in no row of the table of logins but those the condition holds for; by index."""
    table = login_table(connection)
    return list(
        connection.execute(
            text(
                "SELECT token FROM unnest(CAST(:candidates AS text[])) token"
                # Not NOT: a row of an older table whose user_id is null is somebody else's too.
                f" WHERE NOT EXISTS (SELECT FROM {table} WHERE masked_ip = token AND ({condition}) IS NOT TRUE)"
                " AND NOT EXISTS"
                f" (SELECT FROM {table} WHERE masked_device_id = token AND ({condition}) IS NOT TRUE)"
            ),
            {"candidates": list(tokens), **values},
        ).scalars()
    )


def unneeded(
    connection: Connection,
    tokens: Collection[str],
    pairs: Sequence[tuple[str, str]],
    condition: str = "false",
    values: Mapping[str, object] = MappingProxyType({}),
) -> set[str]:
    """Which tokens neither stand in a row that the condition does not hold for, nor are another name of one that does.

    Args:
        connection: in a transaction that sees every row.
        tokens: those that nothing else needs.
        pairs: as `token_pairs` gives them; a token that is part of one and not among the tokens is needed.
        condition: on a row of the table; by default no row is passed over.
        values: bound in it.
    """
    alone = set(tokens_of_nobody_else(connection, sorted(tokens), condition, dict(values)))
    for pair in (*pairs, *pairs):  # twice, since a new token may have several old ones
        if not alone.issuperset(pair):
            alone.difference_update(pair)
    return alone


def without_rows(connection: Connection, *, after: str, limit: int) -> tuple[str | None, set[str]]:
    """Looks for the next tokens of the vault in the table; which are in no row, and the last of them all.

    Args:
        connection: in a transaction that sees every row.
        after: only tokens that sort after this one.
        limit: as many at most.

    Returns:
        the last token that was looked for, None where there were no more; and those that no row has.
    """
    table = login_table(connection)
    row = connection.execute(
        text(
            "SELECT max(token) AS last, coalesce(array_agg(token) FILTER (WHERE NOT is_there), '{}') AS unused FROM ("
            "  SELECT token, CASE field"
            f"   WHEN 'ip' THEN EXISTS (SELECT FROM {table} WHERE masked_ip = token)"
            f"   ELSE EXISTS (SELECT FROM {table} WHERE masked_device_id = token) END AS is_there"
            "  FROM (SELECT token, field FROM loginetl.pii_vault WHERE token > :after ORDER BY token LIMIT :limit)"
            "    page) looked_for"
        ),
        {"after": after, "limit": limit},
    ).one()
    return row.last, set(row.unused)


def remove(connection: Connection, tokens: Collection[str]) -> int:
    """Removes values that no row has, and data keys that hold none any more; gives back how many values.

    Only while the vault is claimed.
    """
    removed: int = connection.execute(
        text("SELECT loginetl.remove_values_without_rows(CAST(:tokens AS text[]))"), {"tokens": list(tokens)}
    ).scalar_one()
    forget_pairs(connection, tokens)
    return removed


def forget_pairs(connection: Connection, tokens: Collection[str]) -> None:
    """Forgets which tokens became which in a rotation, where one of them is among these."""
    connection.execute(
        text("DELETE FROM loginetl.token_map WHERE old_token = ANY(:tokens) OR new_token = ANY(:tokens)"),
        {"tokens": list(tokens)},
    )


def count(connection: Connection, tokens: Sequence[str]) -> int:
    """How many of the tokens the vault has."""
    return len(known_tokens(connection, tokens))


def mark_tokens(connection: Connection, tokens: Iterable[str]) -> None:
    """Lists tokens as erased ahead of their values, in the transaction that removes what else names them.

    So an erasure that is killed before it comes to the vault leaves them to be found.
    """
    connection.execute(
        text(
            "INSERT INTO loginetl.erased_tokens (token)"
            " SELECT token FROM loginetl.pii_vault WHERE token = ANY(:tokens) ORDER BY token ON CONFLICT DO NOTHING"
        ),
        {"tokens": list(tokens)},
    )


def marked_tokens(connection: Connection) -> set[str]:
    """Tokens that are listed as erased and whose value is still there."""
    return set(
        connection.execute(
            text("SELECT token FROM loginetl.erased_tokens JOIN loginetl.pii_vault USING (token)")
        ).scalars()
    )


def unmark_tokens(connection: Connection, tokens: Iterable[str]) -> None:
    """Takes tokens whose value stays off the list."""
    connection.execute(text("DELETE FROM loginetl.erased_tokens WHERE token = ANY(:tokens)"), {"tokens": list(tokens)})


def erase(connection: Connection, tokens: Sequence[str]) -> None:
    """Removes values, data keys that hold none any more, and remembers which tokens were erased, old names included."""
    connection.execute(
        text(
            "WITH gone AS (DELETE FROM loginetl.pii_vault WHERE token = ANY(:tokens) RETURNING token)"
            " INSERT INTO loginetl.erased_tokens (token) SELECT token FROM gone UNION"
            " SELECT old_token FROM loginetl.token_map JOIN gone ON new_token = token ON CONFLICT DO NOTHING"
        ),
        {"tokens": list(tokens)},
    )
    forget_pairs(connection, tokens)
    drop_empty_data_keys(connection)


def drop_empty_data_keys(connection: Connection) -> None:
    """Removes data keys that hold no value any more; only while the vault is claimed."""
    connection.execute(
        text(
            "DELETE FROM loginetl.vault_data_keys k WHERE NOT EXISTS"
            " (SELECT FROM loginetl.pii_vault v WHERE v.data_key_id = k.data_key_id)"
        )
    )


def mapped_tokens(connection: Connection, tokens: Sequence[str]) -> dict[str, str]:
    """The new token of each of the tokens that has one."""
    rows = connection.execute(
        text("SELECT old_token, new_token FROM loginetl.token_map WHERE old_token = ANY(:tokens)"),
        {"tokens": list(set(tokens))},
    )
    return {row.old_token: row.new_token for row in rows}


def token_pairs(connection: Connection, tokens: Collection[str]) -> list[tuple[str, str]]:
    """The pairs (old, new) of the token map that lead to or from the tokens: all tokens of the same values."""
    pairs: list[tuple[str, str]] = []
    reached = set(tokens)
    while True:
        rows = connection.execute(
            text(
                "SELECT old_token, new_token FROM loginetl.token_map"
                " WHERE old_token = ANY(:tokens) OR new_token = ANY(:tokens)"
            ),
            {"tokens": list(reached)},
        ).all()
        if len(rows) == len(pairs):
            return pairs
        pairs = [(row.old_token, row.new_token) for row in rows]
        reached.update(*pairs)
