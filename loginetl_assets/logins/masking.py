"""Masks a batch of messages into logins, rejected messages and vault entries: rules over whole frames, no I/O."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import NamedTuple
from uuid import UUID

import polars as pl

from loginetl_assets.logins.canonical import canonical_ips, canonical_text
from loginetl_assets.logins.contract import (
    COLUMNS,
    CREATE_DATE,
    FIELD_NAMES,
    FIELDS,
    MAX_LENGTHS,
    TOKEN_COLUMNS,
    Field,
    Kind,
)
from loginetl_assets.logins.message import Login, QueuedMessage, read_login
from loginetl_assets.logins.rejection import Reason, Rejection
from loginetl_assets.logins.tokens import Tokenizer, is_token
from loginetl_assets.logins.versions import MAX_PACKED, major_version, pack_version

_DTYPES = {"character varying": pl.String, "integer": pl.Int32, "date": pl.Date}
_IDS = dict.fromkeys(("message_uuid", "event_uuid"), pl.String)  # the second null where events have no id of their own
MASKED_SCHEMA = pl.Schema({**_IDS, **{column.name: _DTYPES[column.base_type] for column in COLUMNS}})
_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"  # as Postgres and `str` write it
_READ_SCHEMA = pl.Schema({**_IDS, "sent_at_ms": pl.Int64, **dict.fromkeys(FIELD_NAMES, pl.String)})


@dataclass(frozen=True)
class MaskingRules:
    """The settings that decide the outcome of a message."""

    reject_unknown_fields: bool = False  # else fields outside the contract are counted
    major_only: bool = False  # a version's column holds the major version alone, not the packed one
    by_event_id: bool = False  # the bodies' own `event_id` is read


class RejectedMessage(NamedTuple):
    """A message and why it was rejected."""

    message: QueuedMessage
    rejection: Rejection


@dataclass(frozen=True)
class MaskedBatch:
    """The results of masking a batch; `len(logins) + len(rejected) + repeated` messages went in."""

    logins: pl.DataFrame = dataclass_field(repr=False)  # MASKED_SCHEMA, in the order of the messages
    rejected: list[RejectedMessage]
    # Distinct rows of token, field, value (String): the only frame that holds values in plaintext.
    vault: pl.DataFrame = dataclass_field(repr=False)
    repeated: int  # messages whose id was in the batch already
    unknown_fields: int  # fields outside the contract that were ignored, over all messages

    def without_events(self, event_uuids: Collection[str]) -> tuple["MaskedBatch", list[UUID]]:
        """Returns the batch without some events' logins and what only they need of the vault, and their message ids."""
        known = pl.col("event_uuid").is_in(list(event_uuids)).fill_null(False)
        logins = self.logins.filter(~known)
        kept = pl.concat(logins[column] for column in TOKEN_COLUMNS.values()).unique()
        vault = self.vault.filter(pl.col("token").is_in(kept.implode()))
        dropped = [UUID(message) for message in self.logins.filter(known)["message_uuid"]]
        return replace(self, logins=logins, vault=vault), dropped


def message_uuids(messages: Sequence[QueuedMessage]) -> list[str]:
    """Returns each message's identity, as text: what SQS sends is that text already."""
    ids = [message.message_id for message in messages]
    if pl.Series(ids, dtype=pl.String).str.contains(_UUID).all():
        return ids
    return [str(message.uuid) for message in messages]


def mask_batch(
    messages: Sequence[QueuedMessage], tokenizer: Tokenizer, rules: MaskingRules = MaskingRules()
) -> MaskedBatch:
    """Reads, checks and masks messages as they were landed; of messages with one id the first counts."""
    distinct: dict[str, QueuedMessage] = {}
    for uuid, message in zip(message_uuids(messages), messages, strict=True):
        distinct.setdefault(uuid, message)

    logins: dict[str, Login] = {}
    rejected: list[RejectedMessage] = []
    for uuid, message in distinct.items():
        reading = read_login(
            message.body, reject_unknown_fields=rules.reject_unknown_fields, by_event_id=rules.by_event_id
        )
        if isinstance(reading, Login):
            logins[uuid] = reading
        else:
            rejected.append(RejectedMessage(message, reading))

    read = {
        "message_uuid": list(logins),
        "event_uuid": [str(one.event_uuid) if one.event_id else None for one in logins.values()],
        "sent_at_ms": [distinct[uuid].sent_at_ms for uuid in logins],
        **{name: [getattr(one, name) for one in logins.values()] for name in FIELD_NAMES},
    }
    unknown_fields = sum(one.unknown_fields for one in logins.values())
    checked = _check_values(pl.DataFrame(read, schema=_READ_SCHEMA))
    faulty = checked.filter(pl.col("reason").is_not_null())
    for message_uuid, reason, field in faulty.select("message_uuid", "reason", "field").iter_rows():
        rejected.append(RejectedMessage(distinct[message_uuid], Rejection(Reason(reason), field)))

    valid = checked.filter(pl.col("reason").is_null())
    tokens = {field: tokenizer.tokens(field, valid[_value_of(field)].drop_nulls()) for field in TOKEN_COLUMNS}
    masked = valid.select(
        *_IDS,
        *(_column(field, tokens, rules.major_only).alias(field.column.name) for field in FIELDS),
        pl.from_epoch("sent_at_ms", time_unit="ms").dt.date().alias(CREATE_DATE.name),
    )
    vault = pl.concat(pairs.select("token", pl.lit(field).alias("field"), "value") for field, pairs in tokens.items())
    masked = masked.select(MASKED_SCHEMA.names()).match_to_schema(MASKED_SCHEMA)
    return MaskedBatch(masked, rejected, vault, len(messages) - len(distinct), unknown_fields)


def as_masked(frame: pl.DataFrame) -> pl.DataFrame:
    """Returns a masked frame of this or an earlier version in `MASKED_SCHEMA`; an optional column it lacks is null.

    Raises SchemaError, whose text carries no value, where it has other columns.
    """
    return frame.match_to_schema(
        MASKED_SCHEMA, missing_columns={column.name: "insert" for column in COLUMNS if column.optional}
    )


def violations(logins: pl.DataFrame) -> dict[str, int]:
    """Counts the rows of a masked frame that must never reach the table, by rule; all zero when it is sound."""
    wrong = {"version_out_of_range": pl.lit(False)}
    for field in FIELDS:
        column = pl.col(field.column.name)
        if field.masked:
            wrong[f"{field.name}_not_masked"] = (~is_token(column)).fill_null(not field.optional)
        elif field.kind is Kind.VERSION:
            in_range = column.is_between(0, MAX_PACKED).fill_null(field.optional)
            wrong["version_out_of_range"] |= ~in_range
    counts = logins.select(**{rule: is_wrong.sum() for rule, is_wrong in wrong.items()})
    return {rule: int(count) for rule, count in counts.row(0, named=True).items()}


def _value_of(field: str) -> str:
    return f"{field} as value"


def _check_values(read: pl.DataFrame) -> pl.DataFrame:
    """Adds each field's value, in `_value_of` it, and the first fault as `reason` and `field`: null in valid logins."""
    frame = read.with_columns(_value(field, read[field.name]).alias(_value_of(field.name)) for field in FIELDS)
    required = [field.name for field in FIELDS if not field.optional]
    faults = [_fault(pl.col(name).str.strip_chars() == "", Reason.EMPTY, name) for name in required]
    for name, most in MAX_LENGTHS.items():
        faults.append(_fault(pl.col(_value_of(name)).str.len_chars() > most, Reason.TOO_LONG, name))
    for kind, reason in ((Kind.IP, Reason.BAD_IP), (Kind.VERSION, Reason.BAD_VERSION)):
        for name in (field.name for field in FIELDS if field.kind is kind):
            faults.append(_fault(pl.col(_value_of(name)).is_null() & (pl.col(name) != ""), reason, name))
    return frame.with_columns(fault=pl.coalesce(faults)).unnest("fault")


def _fault(wrong: pl.Expr, reason: Reason, field: str) -> pl.Expr:
    return pl.when(wrong).then(pl.struct(reason=pl.lit(reason.value), field=pl.lit(field)))


def _value(field: Field, texts: pl.Series) -> pl.Expr:
    """The value of a field's texts: null where it is invalid, or optional and empty."""
    text = pl.col(field.name)
    if field.kind is Kind.IP:
        return pl.lit(canonical_ips(texts))
    if field.kind is Kind.VERSION:
        return pack_version(text)
    if field.masked:
        text = canonical_text(text)
    return pl.when(text != "").then(text) if field.optional else text


def _column(field: Field, tokens: dict[str, pl.DataFrame], major_only: bool) -> pl.Expr:
    value = pl.col(_value_of(field.name))
    if field.masked:
        pairs = tokens[field.name]
        return value.replace_strict(pairs["value"], pairs["token"], return_dtype=pl.String)
    return major_version(value) if major_only and field.kind is Kind.VERSION else value
