"""The vault keeps no value that nothing has the token of: what came to nothing is gone with the next retention."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from loginetl_assets.errors import OperatorError
from loginetl_assets.logins.message import QueuedMessage
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.recover import Outcome, recover
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.settings import Identity
from loginetl_assets.steps import vault_sweep
from loginetl_assets.steps.vault_sweep import sweep_vault
from loginetl_assets.storage import rejections
from loginetl_assets_tests.support.pipeline import Pipeline, login

KEPT, GONE = "device-kept", "device-gone"


def _land(pipeline: Pipeline, *bodies: str) -> None:
    pipeline.land([QueuedMessage(str(uuid4()), 1_700_000_000_000, body.encode()) for body in bodies])


def _land_of_days_ago(pipeline: Pipeline, *logins: tuple[str, int]) -> None:
    """Lands logins, each of a device, sent so many days ago from an address of its own."""
    today = datetime.now(UTC)
    sent = [int((today - timedelta(days=days)).timestamp() * 1000) for _, days in logins]
    bodies = [login(device_id=device, ip=f"10.0.{days}.{n}") for n, (device, days) in enumerate(logins)]
    pipeline.land([QueuedMessage(str(uuid4()), at, body.encode()) for at, body in zip(sent, bodies, strict=True)])
    pipeline.run(job="process_landed")


def _token(pipeline: Pipeline, device: str) -> str:
    return pipeline.services.keyring.tokenizer.token("device_id", device)


def _recovered(pipeline: Pipeline, *devices: str) -> list[str | None]:
    tokens = [_token(pipeline, device) for device in devices]
    answers = recover(pipeline.services.database(), pipeline.services.officer(), tokens, reason="test")
    assert {answer.outcome for answer in answers} <= {Outcome.RECOVERED, Outcome.UNKNOWN}
    return [answer.value for answer in answers]


def _duplicate_of_an_event(pipeline: Pipeline) -> None:
    by_event = replace(pipeline.settings, identity=Identity.EVENT_ID)
    with Pipeline.on(by_event, by_event.home / "by-event") as other:
        for device in (KEPT, GONE):
            _land(other, login(event_id="e-1", device_id=device))
        other.mask()
        other.load()
        assert other.totals().duplicates == 1


def _refused_by_the_table_and_dropped(pipeline: Pipeline) -> None:
    pipeline.execute("ALTER TABLE user_logins ADD CHECK (user_id <> 'refused')")
    _land(pipeline, login(device_id=KEPT), login(user_id="refused", device_id=GONE))
    pipeline.process_landed()
    (rejected,) = pipeline.query("SELECT message_uuid FROM loginetl.rejected_logins")
    with pipeline.services.database().transaction() as connection:
        rejections.erase(connection, [rejected.message_uuid])


def _deleted_by_the_tables_owner(pipeline: Pipeline) -> None:
    _land(pipeline, login(device_id=KEPT), login(user_id="u-2", device_id=GONE))
    pipeline.process_landed()
    pipeline.execute("DELETE FROM user_logins WHERE user_id = 'u-2'")


@pytest.mark.parametrize(
    "leave", [_duplicate_of_an_event, _refused_by_the_table_and_dropped, _deleted_by_the_tables_owner]
)
@pytest.mark.parametrize("after", ["retention", "erasure"])
def test_a_value_that_came_to_nothing_cannot_be_recovered(
    pipeline: Pipeline, leave: Callable[[Pipeline], None], after: str
) -> None:
    leave(pipeline)
    assert _recovered(pipeline, KEPT, GONE) == [KEPT, GONE]
    if after == "retention":
        pipeline.run(job="retention")
    else:
        services = pipeline.services
        subject = subject_of("someone else", [], services.keyring)
        counts = Erasure(services.database(), services.landing(), services.keyring, subject).run("he asked")
        assert counts.unneeded_vault_entries == 1
    assert _recovered(pipeline, KEPT, GONE) == [KEPT, None]
    assert pipeline.query("SELECT FROM loginetl.erased_tokens") == [], "nobody asked for it"
    keys_without_values = (
        "SELECT FROM loginetl.vault_data_keys WHERE data_key_id NOT IN (SELECT data_key_id FROM loginetl.pii_vault)"
    )
    assert pipeline.query(keys_without_values) == []


def test_a_rejected_row_whose_values_were_removed_is_replayed_with_them(pipeline: Pipeline) -> None:
    pipeline.execute("ALTER TABLE user_logins ADD CONSTRAINT refusing CHECK (user_id <> 'refused')")
    _land(pipeline, login(user_id="refused", device_id=GONE))
    pipeline.process_landed()
    pipeline.run(job="retention")
    assert _recovered(pipeline, GONE) == [None]
    pipeline.execute("ALTER TABLE user_logins DROP CONSTRAINT refusing")
    pipeline.run({"replay": {}}, job="replay_rejected")
    pipeline.process_landed()
    assert _recovered(pipeline, GONE) == [GONE]


def test_what_waits_to_be_loaded_keeps_its_values_old_ones_too(pipeline: Pipeline) -> None:
    _deleted_by_the_tables_owner(pipeline)
    _land(pipeline, login(user_id="u-3", device_id=GONE), login(user_id="u-3", device_id="new"))
    pipeline.mask()
    pipeline.run(job="retention")
    assert _recovered(pipeline, KEPT, GONE, "new") == [KEPT, GONE, "new"]
    pipeline.load()
    pipeline.run(job="retention")
    assert _recovered(pipeline, KEPT, GONE, "new") == [KEPT, GONE, "new"]


def test_nothing_is_removed_while_masked_logins_cannot_be_read(pipeline: Pipeline) -> None:
    _deleted_by_the_tables_owner(pipeline)
    _land(pipeline, login(user_id="u-3"))
    pipeline.mask()
    (pending,) = pipeline.query("SELECT masked_path FROM loginetl.batches WHERE state = 'masked'")
    path = pipeline.settings.home / "landing" / pending.masked_path
    path.rename(path.with_suffix(".away"))
    swept = sweep_vault(pipeline.services.database(), pipeline.services.landing())
    assert (swept.unneeded_vault_entries, swept.unreadable_batches) == (0, 1)
    assert _recovered(pipeline, GONE) == [GONE]


def test_a_value_under_several_tokens_stays_while_one_of_them_is_needed(pipeline: Pipeline) -> None:
    """In a rotation from a second old key, of which a row has the token."""
    _land(pipeline, login(device_id=KEPT), login(user_id="u-2", device_id=GONE))
    pipeline.process_landed()
    row, unused = _token(pipeline, KEPT), _token(pipeline, GONE)
    pipeline.execute("DELETE FROM user_logins WHERE user_id = 'u-2'")
    pipeline.execute(
        "INSERT INTO loginetl.token_map VALUES (:row, '3.new'), (:unused, '3.new')", row=row, unused=unused
    )
    database, landing = pipeline.services.database(), pipeline.services.landing()
    assert sweep_vault(database, landing).unneeded_vault_entries == 0
    pipeline.execute("DELETE FROM loginetl.token_map WHERE old_token = :row", row=row)
    assert sweep_vault(database, landing).unneeded_vault_entries == 1
    assert pipeline.query("SELECT FROM loginetl.token_map") == []
    assert _recovered(pipeline, KEPT, GONE) == [KEPT, None]


def test_the_whole_vault_is_looked_through_a_page_at_a_time(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault_sweep, "VALUES_PER_PAGE", 7)
    _land(pipeline, *(login(user_id=f"u-{n}", device_id=f"device-{n}", ip=f"10.0.0.{n}") for n in range(40)))
    pipeline.process_landed()
    pipeline.execute("DELETE FROM user_logins WHERE user_id <> 'u-7'")
    swept = sweep_vault(pipeline.services.database(), pipeline.services.landing())
    assert swept.unneeded_vault_entries == 78
    assert _recovered(pipeline, "device-7", "device-8") == ["device-7", None]


# LOGINETL_VAULT_DAYS


def _outcomes(pipeline: Pipeline, *devices: str) -> list[Outcome]:
    tokens = [_token(pipeline, device) for device in devices]
    return [
        one.outcome for one in recover(pipeline.services.database(), pipeline.services.officer(), tokens, reason="t")
    ]


def test_a_value_expires_after_the_last_login_that_has_it_and_its_token_stays(pipeline: Pipeline) -> None:
    pipeline.services.database().migrate(vault_days=90)
    _land_of_days_ago(pipeline, ("old", 91), ("edge", 90), ("both", 200), ("both", 1), ("new", 0))
    before = pipeline.rows()
    pipeline.run(job="retention")
    assert _outcomes(pipeline, "old", "edge", "both", "new") == [Outcome.EXPIRED, *[Outcome.RECOVERED] * 3]
    assert pipeline.rows() == before
    assert len(pipeline.query("SELECT FROM loginetl.pii_vault WHERE field = 'ip'")) == 3, "addresses expire, too"

    _land_of_days_ago(pipeline, ("old", 0))
    pipeline.run(job="retention")
    assert _outcomes(pipeline, "old", "never") == [Outcome.RECOVERED, Outcome.UNKNOWN]
    assert len({row[3] for row in pipeline.rows()}) == 4, "the device is the same as before"


def test_no_value_expires_where_no_limit_is_recorded(pipeline: Pipeline) -> None:
    _land_of_days_ago(pipeline, ("old", 200))
    pipeline.run(job="retention")
    assert _outcomes(pipeline, "old") == [Outcome.RECOVERED]


def test_an_expired_value_leaves_the_pairs_by_which_its_rows_are_one_device(pipeline: Pipeline) -> None:
    pipeline.services.database().migrate(vault_days=90)
    _land_of_days_ago(pipeline, ("old", 91), ("both", 91))
    old, both = _token(pipeline, "old"), _token(pipeline, "both")
    pipeline.execute("INSERT INTO loginetl.token_map VALUES (:old, '3.old'), (:both, '3.both')", old=old, both=both)
    pipeline.execute(
        "INSERT INTO user_logins (user_id, masked_device_id, create_date) VALUES ('u', '3.both', current_date)"
    )
    swept = sweep_vault(pipeline.services.database(), pipeline.services.landing())
    assert (swept.unneeded_vault_entries, swept.expired_vault_entries) == (0, 3), "two addresses, and one device"
    assert _outcomes(pipeline, "old") == [Outcome.EXPIRED]
    assert len(pipeline.query("SELECT FROM loginetl.token_map")) == 2


def test_a_limit_that_the_owner_has_not_recorded_is_refused(pipeline: Pipeline) -> None:
    limited = Services(replace(pipeline.settings, vault_days=30))
    with pytest.raises(OperatorError, match="LOGINETL_VAULT_DAYS is 30, .* no limit on record: run `loginetl migrate`"):
        limited.database()
    pipeline.services.database().migrate(vault_days=30)
    limited.database()
    pipeline.services.database()  # without the setting the record counts


def test_a_value_that_comes_again_while_it_is_removed_can_be_recovered(pipeline: Pipeline, tmp_path: Path) -> None:
    _deleted_by_the_tables_owner(pipeline)

    def mask() -> None:
        with Pipeline.on(pipeline.settings, tmp_path / "masking") as other:
            other.mask()

    with ThreadPoolExecutor(2) as pool:
        with pipeline.services.database().transaction() as holder:
            # What a sweep reads first of all once it has the vault to itself, and masking reads only in a rotation.
            holder.execute(text("LOCK TABLE loginetl.token_map IN ACCESS EXCLUSIVE MODE"))
            sweep = pool.submit(sweep_vault, pipeline.services.database(), pipeline.services.landing())
            pipeline.await_lock("relation")
            _land(pipeline, login(user_id="u-3", device_id=GONE))
            masking = pool.submit(mask)
            pipeline.await_lock("advisory", unless=masking.done)
        assert sweep.result().unneeded_vault_entries == 1
        masking.result()
    pipeline.process_landed()
    assert _recovered(pipeline, GONE) == [GONE]
