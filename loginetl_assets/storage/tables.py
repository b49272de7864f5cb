"""Every table of schema `loginetl`. The login table itself is its users' own: see `login_table_record`.

After a change here a command writes the migration for it (CONTRIBUTING.md, "A migration"), and `make check`
holds the two together. Functions, triggers and views are SQL in the migrations: Alembic does not
compare them, nor CHECK constraints, for which a test does.
"""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, INET, JSONB, REGCLASS, TIMESTAMP, UUID

from loginetl_assets.logins.contract import MASKED_FIELDS

# The newest migration, after which the database has these tables.
REVISION = max(file.name.split("_")[0] for file in (Path(__file__).parent / "migrations" / "versions").glob("v*.py"))


class BatchState(StrEnum):
    """How far a batch has come."""

    LANDED = "landed"
    MASKED = "masked"
    LOADED = "loaded"
    QUARANTINED = "quarantined"
    LOST = "lost"


# How many of a batch's messages ended in which way; those in none of the counts are pending.
COUNTS = ("loaded", "duplicates", "rejected", "erased", "lost")


class Outcome(StrEnum):
    """How a message ended."""

    LOADED = "loaded"
    REJECTED = "rejected"
    ERASED = "erased"
    DUPLICATE = "duplicate"


def _one_of(column: str, values: Iterable[str]) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"


_TIME = TIMESTAMP(timezone=True)
_EMPTY_JSON = text("'{}'::jsonb")

metadata = MetaData(schema="loginetl")

installation = Table(
    "installation",
    metadata,
    Column("single", Boolean, primary_key=True, server_default=true()),
    Column("installation_id", UUID, nullable=False, server_default=func.gen_random_uuid()),
    Column("installed_at", _TIME, nullable=False, server_default=func.now()),
    Column(
        "login_table",
        REGCLASS,
        comment="The login table: named by LOGINETL_TABLE when adopted or created, and followed when it is renamed.",
    ),
    Column(
        "vault_days",
        Integer,
        comment="LOGINETL_VAULT_DAYS: a value leaves the vault so many days after the last login that has it.",
    ),
    CheckConstraint("single", name="installation_single_check"),
    comment="One row: which installation this database is. A restored copy keeps it.",
)

keys = Table(
    "keys",
    metadata,
    Column("role", Text, primary_key=True),
    Column("key_id", BigInteger, primary_key=True, autoincrement=False),
    Column("first_used_at", _TIME, nullable=False, server_default=func.now()),
    Column(
        "check_value",
        LargeBinary,
        nullable=False,
        comment="Distinguishes the key from another one with its id, and reveals nothing else about it.",
    ),
    Column("retired_at", _TIME, comment="Since when no keyset with it as its primary key is accepted."),
    comment="Ids of the keys this database was written with; never the keys.",
)

batches = Table(
    "batches",
    metadata,
    Column("batch_id", BigInteger, Identity(always=True), primary_key=True),
    Column("object_path", Text, nullable=False, unique=True),
    Column("landing_key_id", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("oldest_sent_at", _TIME, nullable=False),
    Column("unknown_fields", Integer, nullable=False, server_default="0"),
    Column("state", Text, nullable=False, server_default=BatchState.LANDED),
    Column("messages", Integer, nullable=False),
    *(Column(count, Integer, nullable=False, server_default="0") for count in COUNTS),
    Column("landed_at", _TIME, nullable=False, server_default=func.now()),
    Column("landed_run_id", Text),
    Column(
        "registered_again_at",
        _TIME,
        comment="When an object that no batch pointed to became this one; it landed when it was written.",
    ),
    Column("masked_path", Text),
    Column("masked_at", _TIME),
    Column("masked_run_id", Text),
    Column("loaded_at", _TIME),
    Column("loaded_run_id", Text),
    Column("quarantined_at", _TIME),
    Column("quarantine_reason", Text),
    Column("lost_at", _TIME),
    Column("lost_reason", Text),
    Column("lost_by", Text),
    Column("object_purged_at", _TIME),
    CheckConstraint(_one_of("state", BatchState), name="batches_state_check"),
    CheckConstraint("messages > 0", name="batches_messages_check"),
    CheckConstraint(f"state NOT IN ('loaded', 'lost') OR messages = {' + '.join(COUNTS)}", name="counts_add_up"),
    comment="One row per object in the landing.",
)
Index("batches_pending", batches.c.state, batches.c.batch_id, postgresql_where=text("state <> 'loaded'"))
Index("batches_by_masked_path", batches.c.masked_path, postgresql_where=text("masked_path IS NOT NULL"))
Index("batches_by_masking_run", batches.c.masked_run_id)
Index("batches_by_loading_run", batches.c.loaded_run_id)
Index("batches_by_masking", batches.c.masked_at, batches.c.batch_id, postgresql_where=text("masked_at IS NOT NULL"))
Index("batches_by_loading", batches.c.loaded_at, batches.c.batch_id, postgresql_where=text("loaded_at IS NOT NULL"))

processed_messages = Table(
    "processed_messages",
    metadata,
    Column("message_uuid", UUID, primary_key=True),
    Column("batch_id", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column(
        "event_uuid",
        UUID,
        comment="Name-based UUID of the body's event_id, where LOGINETL_IDENTITY says so: one event is loaded once.",
    ),
    CheckConstraint(_one_of("outcome", Outcome), name="processed_messages_outcome_check"),
    comment="How each SQS message id ended; pruned once SQS can no longer deliver the message again.",
)
Index("processed_messages_by_batch", processed_messages.c.batch_id, processed_messages.c.outcome)
Index(
    "processed_messages_by_event",
    processed_messages.c.event_uuid,
    unique=True,
    postgresql_where=text("event_uuid IS NOT NULL"),
)

rejected_logins = Table(
    "rejected_logins",
    metadata,
    Column("message_uuid", UUID, primary_key=True),
    Column("batch_id", BigInteger, ForeignKey(batches.c.batch_id), nullable=False),
    Column("sent_at", _TIME, nullable=False),
    Column("rejected_at", _TIME, nullable=False, server_default=func.now()),
    Column("reason", Text, nullable=False),
    Column("field", Text),
    Column("encrypted_body", LargeBinary, nullable=False),
    Column("sqlstate", Text, comment="Of a row that the table refused: the code of Postgres's error."),
    Column(
        "constraint_name", Text, comment="Of a row that the table refused: the constraint or unique index, if one did."
    ),
    comment="Messages that no validation rule accepts: reason in plaintext, body encrypted.",
)
Index("rejected_logins_by_batch", rejected_logins.c.batch_id)

pending_deletions = Table(
    "pending_deletions",
    metadata,
    Column("object_path", Text, primary_key=True),
    comment="Objects that were replaced and are still to be deleted.",
)

vault_data_keys = Table(
    "vault_data_keys",
    metadata,
    Column("data_key_id", BigInteger, Identity(always=True), primary_key=True),
    Column("officer_key_id", BigInteger, nullable=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    comment="Data keys, each encrypted for the privacy officer's public key (HPKE).",
)

pii_vault = Table(
    "pii_vault",
    metadata,
    Column("token", Text, primary_key=True),
    Column("field", Text, nullable=False),
    Column("encrypted_value", LargeBinary, nullable=False),
    Column("data_key_id", BigInteger, ForeignKey(vault_data_keys.c.data_key_id), nullable=False),
    Column("first_seen_at", _TIME, nullable=False, server_default=func.now()),
    CheckConstraint(_one_of("field", MASKED_FIELDS), name="pii_vault_field_check"),
    comment="Token to encrypted value; only the privacy officer's key decrypts it.",
)
Index("vault_by_data_key", pii_vault.c.data_key_id)

erased_tokens = Table(
    "erased_tokens",
    metadata,
    Column("token", Text, primary_key=True),
    Column("erased_at", _TIME, nullable=False, server_default=func.now()),
    comment="Tokens whose value was erased, or is about to be; one that comes again leaves this list.",
)

erasures = Table(
    "erasures",
    metadata,
    Column("erasure_id", UUID, primary_key=True),
    Column("erased_at", _TIME, nullable=False),
    Column("encrypted_subject", LargeBinary, nullable=False),
    comment="What `loginetl erase --reapply` erases again: when, and whom, encrypted for the privacy officer's key.",
)

token_map = Table(
    "token_map",
    metadata,
    Column("old_token", Text, primary_key=True),
    Column("new_token", Text, nullable=False),
    comment="During a rotation: the token under the new key for each one under an old key.",
)
Index("token_map_by_new_token", token_map.c.new_token)

pii_access_log = Table(
    "pii_access_log",
    metadata,
    Column("access_id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", _TIME, nullable=False, server_default=func.now(), comment="When, set by the database."),
    Column("who", Text, nullable=False, comment="The login (session_user), set by the database."),
    Column("client_address", INET, comment="Where the login came from, set by the database; null over a unix socket."),
    Column(
        "claimed_user",
        Text,
        nullable=False,
        server_default="",
        comment="The system user, as the client says: no proof of anything.",
    ),
    Column("action", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("tokens", ARRAY(Text), nullable=False, server_default="{}"),
    Column("counts", JSONB, nullable=False, server_default=_EMPTY_JSON),
    comment="Who asked for values, when and why, written before any is shown.",
)

live_runs = Table(
    "live_runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("beat_at", _TIME, nullable=False, server_default=func.now()),
    Column("missed_at", _TIME),
    comment="Dagster runs under way: when each last beat, and since when it is known to be silent.",
)


class Dimension(StrEnum):
    """By what the report counts logins: a column of the login table, or the reason of a rejection."""

    DEVICE_TYPE = "device_type"
    LOCALE = "locale"
    APP_VERSION = "app_version"
    REJECTION = "rejection"


activity = Table(
    "activity",
    metadata,
    Column("day", Date, primary_key=True),
    Column("dimension", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("logins", BigInteger, nullable=False),
    comment="Logins by day and one value at a time, for the report; loginetl.activity_changes is to be added.",
)

activity_changes = Table(
    "activity_changes",
    metadata,
    Column("day", Date, nullable=False),
    Column("dimension", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("logins", BigInteger, nullable=False),
    comment="What loads and erasures have changed in the counts of loginetl.activity since they were last added up.",
)
