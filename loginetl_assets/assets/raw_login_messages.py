"""raw_login_messages: the queue's messages, encrypted in the landing and registered in the ledger, then deleted."""

import os
import time
from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from loginetl_assets.assets.metadata import OWNERS, column_schema, data_version, rate
from loginetl_assets.aws.sqs import QueueDepth
from loginetl_assets.errors import counted
from loginetl_assets.failures import failures_without_values
from loginetl_assets.logins.contract import FIELDS
from loginetl_assets.resources import (
    KeyringResource,
    LandingResource,
    LoginDatabaseResource,
    LoginQueueResource,
    PayloadsResource,
    RulesResource,
)
from loginetl_assets.steps.batch_objects import BatchLanding
from loginetl_assets.steps.drain.engine import Drain
from loginetl_assets.steps.drain.policy import MAX_RECEIVERS, DrainLimits
from loginetl_assets.steps.drain.workers import drain_in_processes
from loginetl_assets.steps.progress import Progress

# A process takes 0.7 s to start and drains some thousand messages a second: below this it would not pay.
MESSAGES_WORTH_PROCESSES = 5_000
MAX_PROCESSES = 4

login_queue = dg.AssetSpec(
    "login_queue",
    description=(
        "The SQS queue to which the app sends a message for each login. The sensor queue_depth observes how many"
        " messages are `queued`, `in_flight` and `delayed`, and, where it may read them, `dead_letters` and"
        " `oldest_message_seconds`."
    ),
    group_name="logins",
    kinds={"sqs"},
    owners=OWNERS,
    metadata={
        "dagster/column_schema": column_schema(*((field.name, "string", field.message_description) for field in FIELDS))
    },
)


class DrainConfig(dg.Config):
    """The bounds of one drain of the queue."""

    max_messages: int = Field(
        default=100_000, gt=0, description="Stop after this many messages; the others wait for the next run."
    )
    max_seconds: float = Field(
        default=600.0, gt=0, le=43_200, description="Stop receiving after this many seconds, even if messages wait."
    )
    receivers: int = Field(
        default=0,
        ge=0,
        le=MAX_RECEIVERS,
        description="Concurrent receives in each process; 0 begins with few and takes more where the calls'"
        f" latency leaves CPU unused, up to {MAX_RECEIVERS}.",
    )
    processes: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Processes that drain in parallel; 0: one for a short queue, and from"
        f" {MESSAGES_WORTH_PROCESSES:,} waiting messages on one per core, at most {MAX_PROCESSES}.",
    )
    batch_messages: int = Field(
        default=5_000, gt=0, le=100_000, description="A batch is landed once it has this many messages."
    )
    batch_seconds: float = Field(
        default=10.0,
        gt=0,
        le=60,
        description="How long messages are collected into a batch; must be well below LOGINETL_VISIBILITY_SECONDS.",
    )

    def limits(self, depth: QueueDepth, rules: RulesResource) -> DrainLimits:
        """Returns the bounds of a drain of a queue of this depth."""
        fixed = {"receivers": self.receivers, "max_receivers": self.receivers} if self.receivers else {}
        return DrainLimits(
            **self.model_dump(exclude={"processes", "receivers"}),
            **fixed,
            visibility_seconds=rules.visibility_seconds,
            expected=min(depth.queued, self.max_messages),
        )


@dg.asset(
    deps=[login_queue],
    group_name="logins",
    kinds={"sqs"},
    owners=OWNERS,
    description=(
        "Batches of raw messages, encrypted (AES-256-GCM) in the landing and registered in `loginetl.batches`; a"
        " message is deleted from the queue only after that. Every batch is a new object, and nothing is overwritten: a"
        " run that fails leaves work pending and loses nothing."
    ),
    metadata={"dagster/column_schema": column_schema(
        ("message_id", "string", "SQS's message id."),
        ("sent_at", "integer", "SQS's SentTimestamp, epoch milliseconds."),
        ("body", "binary", "The body as sent."),
    )},
)  # fmt: skip
def raw_login_messages(
    context: dg.AssetExecutionContext,
    config: DrainConfig,
    queue: LoginQueueResource,
    landing: LandingResource,
    payloads: PayloadsResource,
    database: LoginDatabaseResource,
    keyring: KeyringResource,
    rules: RulesResource,
) -> Iterator[dg.MaterializeResult[None]]:
    """Drains the queue, within the config's bounds."""
    with failures_without_values(retried=context):
        started = time.monotonic()
        opened, login_queue = database.get_client(), queue.get_client(connections=2 * MAX_RECEIVERS)
        land = BatchLanding(opened, landing.get_client(opened), keyring.get_client(), context.run.run_id)
        bucket = payloads.get_client()
        # Before anything is received: a redrive policy counts receives, and would move messages because of our fault.
        land.check_ready()
        bucket.check_reachable()
        before = login_queue.depth()
        limits = config.limits(before, rules)
        processes = config.processes or _processes_for(limits.expected)
        landed = Progress(context.log.info, "landed")
        if processes > 1:
            run_id = context.run.run_id
            totals = drain_in_processes(queue.as_environment(), limits, processes, run_id=run_id, landed=landed)
        else:
            totals = Drain(login_queue, bucket, land, limits, landed=landed).run()
        if totals.postponed:
            context.log.warning(
                f"payload not readable for now: {counted(totals.postponed, 'message')}, which SQS delivers again"  # noqa: G004 - a count
                " after LOGINETL_VISIBILITY_SECONDS"
            )
        after = login_queue.depth()
        yield dg.MaterializeResult(
            data_version=data_version(context),
            metadata={
                "dagster/row_count": totals.messages,
                **totals.as_metadata(),
                "processes": processes,
                "queue_depth_before": before.queued,
                "queue_depth_after": after.queued,
                "queue_in_flight_after": after.in_flight,
                **rate(totals.messages, time.monotonic() - started),
            },
        )


def _processes_for(messages: int) -> int:
    if messages < MESSAGES_WORTH_PROCESSES:
        return 1
    return max(1, min(MAX_PROCESSES, os.cpu_count() or 1))
