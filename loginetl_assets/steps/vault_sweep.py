"""The vault keeps a value for as long as something has its token: a row of the table, or masked logins on their way.

Others are left behind by a message that is settled as the duplicate of an event, by a row that the table refuses, by
rows that the table's owner deletes. What is landed and not masked, and rejected bodies, need no entry: masking enters
their values again.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection

from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.tokens import tokens_in
from loginetl_assets.steps.batch_objects import pending_logins
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.storage import vault
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_rows import tokens_without_rows, unneeded_tokens
from loginetl_assets.storage.login_table import every_row
from loginetl_assets.storage.token_map import token_pairs

VALUES_PER_PAGE = 10_000


@dataclass(frozen=True)
class SweepTotals(StepTotals):
    """What one sweep removed."""

    unneeded_vault_entries: int = 0
    unreadable_batches: int = 0  # masked and not loaded: while there are any, nothing is removed


def sweep_vault(database: LoginDatabase, landing: Landing, *, keep: Collection[str] = ()) -> SweepTotals:
    """Removes the values whose token is nowhere, but for `keep`; a look-up by index for each, in pages that commit.

    Raises:
        OperatorError: row-level security hides rows.
    """
    removed = unreadable = 0
    after: str | None = ""
    found: set[str] = set()
    while after is not None:
        with every_row(database) as connection:
            after, unused = tokens_without_rows(connection, after=after, limit=VALUES_PER_PAGE)
        found |= unused.difference(keep)
        if found and (after is None or len(found) >= VALUES_PER_PAGE):
            with every_row(database) as connection:
                page, unreadable = _remove(connection, landing, found)
                removed += page
            found = set()
    return SweepTotals(removed, unreadable)


def _remove(connection: Connection, landing: Landing, found: set[str]) -> tuple[int, int]:
    """Returns how many entries were removed, and how many masked files cannot be read: with any, none is removed."""
    vault.lock_exclusive(connection)  # masking enters no value that the vault has, so it must not rely on one that goes
    pairs = token_pairs(connection, found)
    tokens = found.union(*pairs)
    # The files before the rows: a batch that is loaded meanwhile is met in one of the two.
    unreadable = 0
    for logins in pending_logins(connection, landing):
        if logins is None:
            unreadable += 1
        else:
            tokens -= tokens_in(logins)
    if unreadable:
        return 0, unreadable
    return vault.remove(connection, unneeded_tokens(connection, tokens, pairs)), 0
