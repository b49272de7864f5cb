"""The token map: during a rotation, the token under the new key for each one under an old key."""

from collections.abc import Collection, Iterable

from sqlalchemy import ColumnElement, Connection, delete, or_, select, update

from loginetl_assets.storage.statements import among, array_of, named
from loginetl_assets.storage.tables import token_map

_MAP_TOKENS = named(
    "map_tokens",
    "INSERT INTO loginetl.token_map (old_token, new_token)"
    " SELECT * FROM unnest(CAST(:old AS text[]), CAST(:new AS text[]))"
    " ON CONFLICT (old_token) DO UPDATE SET new_token = excluded.new_token"
    " WHERE token_map.new_token <> excluded.new_token",
)


def map_tokens(connection: Connection, pairs: Iterable[tuple[str, str]]) -> None:
    """Records pairs of a token under an old key and the token of the same value under the new one."""
    pairs = sorted(set(pairs))
    if not pairs:
        return
    new = [new for _, new in pairs]
    connection.execute(_MAP_TOKENS, {"old": array_of(old for old, _ in pairs), "new": array_of(new)})
    # Where an earlier keyset was restored, its tokens are current again and have no new one.
    connection.execute(named("unmap_current_tokens", delete(token_map).where(among(token_map.c.old_token, new))))


def shorten_chains(connection: Connection) -> None:
    """Where a new token has itself a newer one, points the old one to that."""
    newer = token_map.alias()
    has_newer = (newer.c.old_token == token_map.c.new_token, newer.c.new_token != token_map.c.old_token)
    shortened = update(token_map).values(new_token=newer.c.new_token).where(*has_newer)
    connection.execute(named("shorten_token_map", shortened))


def new_tokens(connection: Connection, tokens: Iterable[str]) -> dict[str, str]:
    """Returns the new token of each of the tokens that has one."""
    rows = connection.execute(named("new_tokens", select(token_map).where(among(token_map.c.old_token, set(tokens)))))
    return dict(rows.tuples().all())


def token_pairs(connection: Connection, tokens: Collection[str]) -> list[tuple[str, str]]:
    """Returns the pairs (old, new) to or from the tokens in any number of steps: all of the same values."""
    pairs: list[tuple[str, str]] = []
    reached = set(tokens)
    while True:
        rows = connection.execute(named("token_pairs", select(token_map).where(_has_one_of(reached)))).tuples().all()
        if len(rows) == len(pairs):
            return pairs
        pairs = list(rows)
        reached.update(*pairs)


def forget_pairs(connection: Connection, tokens: Collection[str]) -> None:
    """Removes the pairs that have one of the tokens."""
    connection.execute(named("forget_token_pairs", delete(token_map).where(_has_one_of(tokens))))


def _has_one_of(tokens: Collection[str]) -> ColumnElement[bool]:
    return or_(among(token_map.c.old_token, tokens), among(token_map.c.new_token, tokens))
