"""A batch of messages becomes masked logins, rejected logins and vault entries: rules over whole frames, no I/O."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from uuid import UUID

import polars as pl

from loginetl_assets.logins.canonical import canonical_device_id, canonical_ip
from loginetl_assets.logins.message import FIELDS, Login, QueuedMessage, read_login
from loginetl_assets.logins.rejection import Reason, Rejection
from loginetl_assets.logins.tokens import MASKED_FIELDS, Tokenizer, is_token
from loginetl_assets.logins.versions import MAX_PACKED, major_version, pack_version

# The columns of `user_logins`, with the widths that its users' databases have.
MAX_LENGTHS = {"user_id": 128, "device_type": 32, "locale": 32, "device_id": 256}

MASKED_SCHEMA = pl.Schema(
    {
        "message_uuid": pl.String,  # UUID
        "event_uuid": pl.String,  # UUID; null where events are not known by an id of their own
        "user_id": pl.String,
        "device_type": pl.String,
        "masked_ip": pl.String,
        "masked_device_id": pl.String,
        "locale": pl.String,
        "app_version": pl.Int32,
        "create_date": pl.Date,  # UTC date of the message's SentTimestamp
    }
)
TABLE_COLUMNS = tuple(name for name in MASKED_SCHEMA if name not in {"message_uuid", "event_uuid"})

_READ_SCHEMA = pl.Schema(
    {"position": pl.Int64, "sent_at_ms": pl.Int64, **{field: pl.String for field in FIELDS}, "event_uuid": pl.String}
)


@dataclass(frozen=True)
class RejectedMessage:
    """A message and why it was rejected."""

    message: QueuedMessage
    rejection: Rejection


@dataclass(frozen=True)
class MaskedBatch:
    """What one batch of messages came to; `len(logins) + len(rejected) + repeated` is what went in."""

    logins: pl.DataFrame = dataclass_field(repr=False)  # MASKED_SCHEMA, in the order of the messages
    rejected: list[RejectedMessage]
    vault: pl.DataFrame = dataclass_field(
        repr=False
    )  # distinct: token, field, value (String); the only frame that holds values in the clear
    repeated: int  # messages whose id stood in the batch already
    unknown_fields: int  # fields beside the six that were ignored, over all messages

    def without_events(self, event_uuids: Collection[str]) -> tuple["MaskedBatch", list[UUID]]:
        """The batch without the logins of some events, and without values that only those have; and their messages."""
        known = pl.col("event_uuid").is_in(list(event_uuids)).fill_null(False)
        logins = self.logins.filter(~known)
        kept = pl.concat([logins["masked_ip"], logins["masked_device_id"]]).unique()
        vault = self.vault.filter(pl.col("token").is_in(kept.implode()))
        dropped = [UUID(key) for key in self.logins.filter(known)["message_uuid"]]
        return replace(self, logins=logins, vault=vault), dropped


def mask_batch(
    messages: Sequence[QueuedMessage],
    tokenizer: Tokenizer,
    *,
    reject_unknown_fields: bool = False,
    major_only: bool = False,
    by_event_id: bool = False,
) -> MaskedBatch:
    """Reads, checks and masks a batch.

    Args:
        messages: as they were landed; an id that comes again is passed over.
        tokenizer: makes the tokens.
        reject_unknown_fields: whether a field outside the six rejects its message.
        major_only: whether `app_version` holds the major version alone instead of the packed one.
        by_event_id: whether the bodies' own `event_id` is read.
    """
    distinct: dict[UUID, QueuedMessage] = {}
    for message in messages:
        distinct.setdefault(message.key, message)
    kept = list(distinct.items())

    rows: list[tuple[object, ...]] = []
    rejected: list[RejectedMessage] = []
    unknown_fields = 0
    for position, (_, message) in enumerate(kept):
        reading = read_login(message.body, reject_unknown_fields=reject_unknown_fields, by_event_id=by_event_id)
        if isinstance(reading, Login):
            unknown_fields += reading.unknown_fields
            event = str(reading.event_uuid) if reading.event_id else None
            rows.append((position, message.sent_at_ms, *reading[: len(FIELDS)], event))
        else:
            rejected.append(RejectedMessage(message, reading))

    checked = _check_values(pl.DataFrame(rows, schema=_READ_SCHEMA, orient="row"))
    for position, reason, field in (
        checked.filter(pl.col("reason").is_not_null()).select("position", "reason", "field").iter_rows()
    ):
        rejected.append(RejectedMessage(kept[position][1], Rejection(Reason(reason), field)))
    good = checked.filter(pl.col("reason").is_null())

    known = {field: tokenizer.tokens(field, good[field]) for field in MASKED_FIELDS}
    version = major_version(pl.col("packed")) if major_only else pl.col("packed")
    logins = (
        good.with_columns(
            pl.Series("message_uuid", [str(kept[position][0]) for position in good["position"]], pl.String),
            *(_masked(field, known[field]) for field in MASKED_FIELDS),
            app_version=version,
            create_date=pl.from_epoch("sent_at_ms", time_unit="ms").dt.date(),
        )
        .select(MASKED_SCHEMA.names())
        .match_to_schema(MASKED_SCHEMA)
    )
    vault = pl.concat(known[field].select("token", pl.lit(field).alias("field"), "value") for field in MASKED_FIELDS)
    return MaskedBatch(logins, rejected, vault, len(messages) - len(kept), unknown_fields)


def violations(logins: pl.DataFrame) -> dict[str, int]:
    """Counts the rows of a masked frame that must never reach the table, by rule; all zero when it is sound."""
    counts = logins.select(
        version_out_of_range=(~pl.col("app_version").is_between(0, MAX_PACKED)).fill_null(True).sum(),
        ip_not_masked=(~is_token(pl.col("masked_ip"))).fill_null(True).sum(),
        device_id_not_masked=(~is_token(pl.col("masked_device_id"))).fill_null(True).sum(),
    )
    return {name: int(count) for name, count in counts.row(0, named=True).items()}


def _check_values(read: pl.DataFrame) -> pl.DataFrame:
    """Adds canonical values, the packed version, and the first thing wrong as `reason` and `field`."""
    addresses = {text: canonical_ip(text) for text in read["ip"].unique()}
    frame = read.with_columns(
        pl.Series("canonical_ip", [addresses[text] for text in read["ip"]], pl.String),
        device_id=canonical_device_id(pl.col("device_id")),
        locale=pl.when(pl.col("locale") != "").then("locale"),
        packed=pack_version(pl.col("app_version")),
    )
    faults = [
        *(_fault(pl.col(field).str.strip_chars() == "", Reason.EMPTY, field) for field in FIELDS if field != "locale"),
        *(_fault(pl.col(field).str.len_chars() > most, Reason.TOO_LONG, field) for field, most in MAX_LENGTHS.items()),
        _fault(pl.col("canonical_ip").is_null(), Reason.BAD_IP, "ip"),
        _fault(pl.col("packed").is_null(), Reason.BAD_VERSION, "app_version"),
    ]  # fmt: skip
    return (
        frame.with_columns(fault=pl.coalesce(faults))
        .unnest("fault")
        .with_columns(ip="canonical_ip")
        .drop("canonical_ip")
    )


def _fault(wrong: pl.Expr, reason: Reason, field: str) -> pl.Expr:
    return pl.when(wrong).then(pl.struct(reason=pl.lit(reason.value), field=pl.lit(field)))


def _masked(field: str, known: pl.DataFrame) -> pl.Expr:
    return pl.col(field).replace_strict(known["value"], known["token"], return_dtype=pl.String).alias(f"masked_{field}")
