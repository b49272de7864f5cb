"""The vault keeps a value for as long as something has its token: a row of the table, or masked logins on their way.

Others are left behind by a message that is settled as the duplicate of an event, by a row that the table refuses, by
rows that the table's owner deletes. What is landed and not masked, and rejected bodies, need no entry: masking enters
their values again. Where LOGINETL_VAULT_DAYS is recorded, rows that are older count no more: their tokens stay.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from loginetl_assets.landing.object_store import Landing
from loginetl_assets.logins.tokens import tokens_in
from loginetl_assets.steps.batch_objects import pending_logins
from loginetl_assets.steps.totals import StepTotals
from loginetl_assets.storage import vault
from loginetl_assets.storage.database import LoginDatabase
from loginetl_assets.storage.login_rows import EXPIRED_ROWS, tokens_without_rows, unneeded_tokens
from loginetl_assets.storage.login_table import every_row
from loginetl_assets.storage.token_map import forget_pairs, token_pairs

VALUES_PER_PAGE = 10_000


@dataclass(frozen=True)
class SweepTotals(StepTotals):
    """What one sweep removed."""

    unneeded_vault_entries: int = 0
    expired_vault_entries: int = 0  # only rows older than LOGINETL_VAULT_DAYS have their tokens
    unreadable_batches: int = 0  # masked and not loaded: while there are any, nothing is removed


def sweep_vault(database: LoginDatabase, landing: Landing, *, keep: Collection[str] = ()) -> SweepTotals:
    """Removes the values that nothing needs, but for `keep`; a look-up by index for each, in pages that commit.

    Raises:
        OperatorError: row-level security hides rows.
    """
    totals = SweepTotals()
    after: str | None = ""
    found: set[str] = set()
    while after is not None:
        with every_row(database) as connection:
            after, unused = tokens_without_rows(connection, after=after, limit=VALUES_PER_PAGE)
        found |= unused.difference(keep)
        if found and (after is None or len(found) >= VALUES_PER_PAGE):
            with every_row(database) as connection:
                totals = replace(totals, unreadable_batches=0) + _remove(connection, landing, found)
            found = set()
    return totals


def _remove(connection: Connection, landing: Landing, found: set[str]) -> SweepTotals:
    """Removes those of the tokens' values that nothing needs; none while a masked file cannot be read."""
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
        return SweepTotals(unreadable_batches=unreadable)
    unneeded = unneeded_tokens(connection, tokens, pairs, EXPIRED_ROWS)
    without_rows = unneeded_tokens(connection, unneeded, pairs)
    forget_pairs(connection, without_rows)  # those of the others still say which rows have equal values
    return SweepTotals(
        unneeded_vault_entries=vault.remove(connection, without_rows),
        expired_vault_entries=vault.remove(connection, unneeded - without_rows),
    )
