"""The error boundary of assets, checks and jobs: they raise a `Failure` or request a retry, and no text has a value."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from loginetl_assets.errors import OperatorError, TransientError, counted, withheld

# Waits 5, 15, 35 s: long enough for a restart of Postgres or a queue. Not set on the assets: where a step has a policy,
# Dagster retries after the interrupt of a cancelled run as after any failure, and the run continues.
_RETRY_TRANSIENT = dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL)


def check_batches(context: dg.AssetExecutionContext, failed: Exception | None, quarantined: int) -> None:
    """Requests a retry of a step whose batches failed transiently, while one is left; warns of quarantined batches."""
    if isinstance(failed, TransientError) and context.retry_number < _RETRY_TRANSIENT.max_retries:
        raise failed
    if quarantined:
        context.log.warning(f"quarantined: {counted(quarantined, 'batch')}; `loginetl status` says why")  # noqa: G004 - a count


@contextmanager
def failures_without_values(retried: dg.AssetExecutionContext | None = None) -> Iterator[None]:
    """Turns every exception of the block into a `dagster.Failure` that names what happened and no value.

    Args:
        retried: the context of a step that is tried again after a `TransientError`; None for what is not retried.
    """
    try:
        yield
    except (dg.Failure, dg.DagsterExecutionInterruptedError):
        raise
    except OperatorError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    except TransientError as error:
        failure = dg.Failure(str(error))
        if retried is None:
            raise failure from None
        raise dg.RetryRequested(
            max_retries=_RETRY_TRANSIENT.max_retries,
            seconds_to_wait=_RETRY_TRANSIENT.calculate_delay(retried.retry_number + 1),
        ) from failure
    except Exception as error:  # noqa: BLE001 - a bug; see `withheld`
        raise dg.Failure(withheld(error), allow_retries=False) from None
