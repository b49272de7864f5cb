"""The smallest comparable Dagster project: three consecutive assets that do nothing, run in one process."""

import dagster as dg


@dg.asset
def first() -> None:
    """Does nothing."""


@dg.asset(deps=[first])
def second() -> None:
    """Does nothing."""


@dg.asset(deps=[second])
def third() -> None:
    """Does nothing."""


defs = dg.Definitions(assets=[first, second, third], executor=dg.in_process_executor)
