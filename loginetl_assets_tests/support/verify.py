"""What must hold once the queue is empty: each message accounted for, each count adding up, each token in the vault."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from loginetl_assets.landing.object_store import BATCHES, MASKED
from loginetl_assets.services import Services
from loginetl_assets.settings import Settings
from loginetl_assets.storage.batches import totals
from loginetl_assets.storage.objects import pending_deletions
from loginetl_assets_tests.support.traffic import Sent


@dataclass(frozen=True)
class Verdict:
    """What was found at the end; `problems` are counts in words, with no value of any message."""

    problems: list[str]
    totals: dict[str, int]
    objects: dict[str, int]  # in the landing: named by a batch, replaced since, and left behind by a run that died


def verify(settings: Settings, accepted: Mapping[UUID, Sent]) -> Verdict:
    """Holds what was sent against ledger, table, vault and landing."""
    services = Services(settings)
    with services.database().transaction() as connection:

        def rows(statement: str) -> Sequence[Any]:
            return connection.execute(text(statement)).all()

        batches = rows("SELECT * FROM loginetl.batches")
        settled = {
            row.message_uuid: row
            for row in rows("SELECT message_uuid, batch_id, outcome FROM loginetl.processed_messages")
        }
        rejected = {
            row.message_uuid: row.reason for row in rows("SELECT message_uuid, reason FROM loginetl.rejected_logins")
        }
        logins = rows("SELECT user_id, masked_ip, masked_device_id FROM user_logins")
        pending_deletion = set(pending_deletions(connection))
        vault = {row.token for row in rows("SELECT token FROM loginetl.pii_vault")}
        counts = {name: value for name, value in asdict(totals(connection)).items() if isinstance(value, int)}
    landing = services.landing()
    objects = {path for prefix in (BATCHES, MASKED) for path, _ in landing.list(prefix)}
    named = {key for batch in batches for key in (batch.object_path, batch.masked_path) if key}
    good = {sent.user_id: sent for sent in accepted.values() if sent.reason is None}
    found: dict[str, int] = {
        "accepted messages are in no ledger": len(accepted.keys() - settled.keys()),
        "settled messages were never sent": len(settled.keys() - accepted.keys()),
        "messages have the wrong outcome": sum(
            settled[key].outcome != ("rejected" if sent.reason else "loaded")
            for key, sent in accepted.items()
            if key in settled
        ),
        "bad messages are not on record with their reason": sum(
            rejected.get(key) != sent.reason for key, sent in accepted.items() if sent.reason
        ),
        "rejected messages were good": sum(key not in accepted or not accepted[key].reason for key in rejected),
        "users are missing in the table": len(good.keys() - {row.user_id for row in logins}),
        "rows of the table are one too many": len(logins) - len({row.user_id for row in logins}),
        "rows of the table are of nobody who was sent": sum(row.user_id not in good for row in logins),
        "batches are not loaded": sum(batch.state != "loaded" for batch in batches),
        "batches do not add up": sum(
            batch.messages != batch.loaded + batch.duplicates + batch.rejected + batch.erased + batch.lost
            for batch in batches
        ),
        "batches disagree with the ledger": _disagreeing(batches, settled.values()),
        "loaded and rejected do not add up to what was sent": abs(
            counts["loaded"] + counts["rejected"] - len(accepted)
        ),
        "objects that batches name are gone": len(named - objects),
        "objects that batches name are to be deleted": len(named & pending_deletion),
        **_tokens("ip", logins, good, vault, lambda sent: sent.ip),
        **_tokens("device_id", logins, good, vault, lambda sent: sent.device_id),
        "vault entries are of no row": len(
            vault - {token for row in logins for token in (row.masked_ip, row.masked_device_id)}
        ),
    }
    return Verdict(
        problems=[f"{count} {what}" for what, count in found.items() if count],
        totals=counts,
        objects={
            "named": len(named),
            "replaced": len(pending_deletion),
            "unregistered_objects": len(objects - named - pending_deletion),
        },
    )


def _disagreeing(batches: Sequence[Any], settled: Any) -> int:
    counted = Counter((row.batch_id, row.outcome) for row in settled)
    return sum(
        batch.loaded != counted[batch.batch_id, "loaded"] or batch.rejected != counted[batch.batch_id, "rejected"]
        for batch in batches
    )


def _tokens(
    field: str,
    logins: Sequence[Any],
    good: Mapping[str, Sent],
    vault: Set[str],
    value_of: Callable[[Sent], str],
) -> dict[str, int]:
    """Equal values must have one token, and different ones different tokens."""
    pairs = {(value_of(good[row.user_id]), getattr(row, f"masked_{field}")) for row in logins if row.user_id in good}
    values, tokens = {value for value, _ in pairs}, {token for _, token in pairs}
    sent = {value_of(one) for one in good.values()}
    return {
        f"values of {field} have more than one token": len(pairs) - len(values),
        f"tokens of {field} stand for more than one value": len(pairs) - len(tokens),
        f"values of {field} were sent and have no token": len(sent - values),
        f"tokens of {field} are not in the vault": len(tokens - vault),
    }
