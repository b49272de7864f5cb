"""Reading masked files back, for the load and for the checks."""

import io

import polars as pl
from polars.exceptions import PolarsError

from loginetl_assets.logins.masking import MASKED_SCHEMA
from loginetl_assets.resources.landing import Landing
from loginetl_assets.resources.ledger import Batch


class MaskedFileDamaged(Exception):  # noqa: N818 - says what happened
    """A masked file is cut short, altered, or of another shape."""


def read_masked(landing: Landing, batch: Batch) -> pl.DataFrame:
    """Reads a batch's masked rows, of `MASKED_SCHEMA`.

    Raises:
        ObjectMissing: the file is gone.
        MaskedFileDamaged: it cannot be read.
    """
    if batch.masked_key is None:
        raise MaskedFileDamaged("no masked file is recorded")
    content = landing.get(batch.masked_key)
    try:
        return pl.read_parquet(io.BytesIO(content)).match_to_schema(MASKED_SCHEMA)
    except PolarsError:  # its text quotes what it could not read
        raise MaskedFileDamaged("the file cannot be read as masked logins") from None
