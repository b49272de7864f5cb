"""The boundary to Dagster: whatever leaves an asset is a `Failure` whose text carries no value."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from loginetl_assets.errors import OperatorError, TransientError, withheld

# Waits 5, 10, 20 s: long enough for a Postgres or a queue to come back from a restart.
RETRY_TRANSIENT = dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL)


@contextmanager
def failures_without_values() -> Iterator[None]:
    """Turns every exception of the block into a `dagster.Failure` that names what happened and no value.

    Retries: a `TransientError` leaves it to the asset's retry policy; what only a person can mend says
    `allow_retries=False`, which the policy honours.
    """
    try:
        yield
    except (dg.Failure, dg.DagsterExecutionInterruptedError):
        raise
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except TransientError as error:
        raise dg.Failure(str(error)) from None
    except Exception as error:  # noqa: BLE001 - a bug; see `withheld`
        raise dg.Failure(withheld(error), allow_retries=False) from None
