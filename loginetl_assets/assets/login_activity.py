"""login_activity: the report's numbers, for people who want charts and no SQL."""

from collections.abc import Iterator

import dagster as dg

from loginetl_assets.assets.metadata import OWNERS, column_schema, data_version
from loginetl_assets.failures import failures_without_values
from loginetl_assets.report.page import render_markdown
from loginetl_assets.resources import LoginDatabaseResource, LoginQueueResource, RulesResource
from loginetl_assets.steps.activity import as_metadata, fold_activity, queued_messages, read_activity
from loginetl_assets.storage.tables import Dimension


@dg.asset(
    deps=["user_logins"],
    group_name="logins",
    kinds={"postgres"},
    owners=OWNERS,
    description=(
        "Where all messages are and how the table grows, from the login table and the ledger. The metadata has no value"
        " of a message; `loginetl report` writes one HTML file that also has device types, versions and locales."
        "\n\nMetadata, totals and not of one run: `logins` and `logins_on_last_day` of the table; `shared_devices` and"
        " `shared_ips` (estimates in a large table); `messages`, all that ever landed, and where they are now:"
        " `loaded`, `duplicates`, `rejected`, `erased`, `lost`, `landed`, `masked`, `quarantined`; `adds_up`, whether"
        " these sum up to `messages`; `typical_seconds`, the median from SentTimestamp to load in the newest interval;"
        " `rejections` by reason."
    ),
    metadata={
        "dagster/table_name": "loginetl.activity",
        "dagster/column_schema": column_schema(
            ("day", "date", "The day of the logins; 0001-01-01 where they have none."),
            ("dimension", "text", f"What is counted by: {', '.join(Dimension)}."),
            ("value", "text", "The value of the dimension, or a reason; empty where none was sent."),
            ("logins", "bigint", "The number of logins; of rejections, of messages."),
        ),
    },
)
def login_activity(
    context: dg.AssetExecutionContext,
    queue: LoginQueueResource,
    database: LoginDatabaseResource,
    rules: RulesResource,
) -> Iterator[dg.MaterializeResult[None]]:
    """Adds the new batches' counts, reads all of them and draws the overview."""
    with failures_without_values(retried=context):
        opened = database.get_client()
        fold_activity(opened)
        read = read_activity(opened, queued_messages(queue.get_client), major_only=rules.masking.major_only)
        columns = [dg.TableColumn("reason"), dg.TableColumn("messages", "int")]
        records = [dg.TableRecord({"reason": one, "messages": count}) for one, count in read.rejections.items()]
        yield dg.MaterializeResult(
            data_version=data_version(context),
            metadata={
                "overview": dg.MetadataValue.md(render_markdown(read)),
                **as_metadata(read),
                "rejections": dg.MetadataValue.table(records, dg.TableSchema(columns)),
            },
        )
