"""Row-level security on `user_logins`: whoever does not see every row is told so, and removes and moves nothing."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from loginetl_assets.errors import OperatorError
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.recover import Outcome, recover, tokens_of_user
from loginetl_assets.privacy.rotate import retokenize
from loginetl_assets.privacy.subject_report import read_subject
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.settings import AppVersion, Settings
from loginetl_assets.storage.roles import LOADER, PRIVACY, grant_roles
from loginetl_assets_tests.support.pipeline import Pipeline, checks, login, metadata

ANNA, BERT, SHARED_IP = "anna-4711", "bert-0815", "203.0.113.1"
REFUSAL = r"row-level security .*user_logins .* BYPASSRLS"


@pytest.fixture
def restricted(pipeline: Pipeline) -> Iterator[Settings]:
    """Settings of a login that may do what loader and privacy role may, and sees of the table only Anna's rows."""
    grant_roles(pipeline.services.database())
    name = f"restricted_{uuid4().hex[:12]}"
    pipeline.execute(f"CREATE ROLE {name} LOGIN IN ROLE {LOADER}, {PRIVACY}")
    url = make_url(str(pipeline.settings.database_url)).set(username=name)
    yield replace(pipeline.settings, database_url=url.render_as_string(hide_password=False))
    pipeline.execute("ALTER TABLE user_logins OWNER TO CURRENT_USER")
    pipeline.execute(f"DROP ROLE {name}")


def _load_both(pipeline: Pipeline) -> None:
    pipeline.send(login(user_id=user_id, ip=SHARED_IP, device_id=f"{user_id}-device") for user_id in (ANNA, BERT))
    pipeline.process()
    pipeline.execute("ALTER TABLE user_logins ENABLE ROW LEVEL SECURITY")
    pipeline.execute("CREATE POLICY only_annas ON user_logins USING (user_id LIKE 'anna%')")


def _erasure(settings: Settings) -> Erasure:
    services = Services(settings)
    return Erasure(services.database(), services.landing(), services.keyring, subject_of(ANNA, [], services.keyring))


def _assert_nothing_was_touched(pipeline: Pipeline) -> None:
    assert sorted(row[0] for row in pipeline.rows()) == [ANNA, BERT]
    assert pipeline.query("SELECT FROM loginetl.batches WHERE erased > 0") == []
    assert len(pipeline.query("SELECT FROM loginetl.pii_vault")) == 3
    token = pipeline.services.keyring.tokenizer.token("ip", SHARED_IP)
    (answer,) = recover(pipeline.services.database(), pipeline.services.officer(), [token], reason="test")
    assert (answer.outcome, answer.value) == (Outcome.RECOVERED, SHARED_IP)


def test_an_erasure_that_does_not_see_every_row_removes_nothing(pipeline: Pipeline, restricted: Settings) -> None:
    _load_both(pipeline)
    with pytest.raises(OperatorError, match=REFUSAL):
        _erasure(restricted).dry_run()
    with pytest.raises(OperatorError, match=REFUSAL):
        _erasure(restricted).run("she asked")
    _assert_nothing_was_touched(pipeline)
    pipeline.execute(f"ALTER ROLE {make_url(str(restricted.database_url)).username} BYPASSRLS")
    counts = _erasure(restricted).run("she asked")
    assert (counts.rows, counts.vault_entries, counts.vault_entries_kept) == (1, 1, 1)


def test_the_owner_under_forced_security_does_not_see_every_row_either(
    pipeline: Pipeline, restricted: Settings
) -> None:
    _load_both(pipeline)
    pipeline.execute(f"ALTER TABLE user_logins OWNER TO {make_url(str(restricted.database_url)).username}")
    pipeline.execute("ALTER TABLE user_logins FORCE ROW LEVEL SECURITY")
    with pytest.raises(OperatorError, match=REFUSAL):
        _erasure(restricted).run("she asked")
    _assert_nothing_was_touched(pipeline)
    pipeline.execute("ALTER TABLE user_logins NO FORCE ROW LEVEL SECURITY")
    assert _erasure(restricted).run("she asked").vault_entries_kept == 1


def test_a_retokenize_that_does_not_see_every_row_moves_nothing(pipeline: Pipeline, restricted: Settings) -> None:
    _load_both(pipeline)
    services = Services(restricted)
    with pytest.raises(OperatorError, match=REFUSAL):
        retokenize(
            services.database(), services.landing(), services.keyring, Services(restricted).officer(), reason="rotation"
        )
    _assert_nothing_was_touched(pipeline)


def test_retention_that_does_not_see_every_row_removes_no_value(
    pipeline: Pipeline, restricted: Settings, tmp_path: Path
) -> None:
    _load_both(pipeline)
    with Pipeline.on(restricted, tmp_path / "restricted") as loader:
        failed = loader.run(job="retention", expect_success=False)
    assert not failed.success
    _assert_nothing_was_touched(pipeline)


def test_retention_that_does_not_see_every_row_tells_what_it_could_not_read(
    pipeline: Pipeline, restricted: Settings, tmp_path: Path
) -> None:
    _load_both(pipeline)
    pipeline.services.landing().put("batches/a-strangers", b"encrypted otherwise")
    os.utime(pipeline.settings.home / "landing" / "batches" / "a-strangers", (0, 0))
    with Pipeline.on(restricted, tmp_path / "restricted") as loader:
        failed = loader.run(job="retention", expect_success=False)
        messages = [entry.user_message for entry in loader.instance.all_logs(failed.run_id)]
    assert not failed.success
    assert [message for message in messages if "1 object of the landing" in message]


def test_recovery_and_report_of_a_user_whose_rows_are_hidden_say_so(pipeline: Pipeline, restricted: Settings) -> None:
    _load_both(pipeline)
    with pytest.raises(OperatorError, match=REFUSAL):
        tokens_of_user(Services(restricted).database(), BERT)
    one = Services(restricted)
    with pytest.raises(OperatorError, match=REFUSAL):
        read_subject(
            one.database(),
            one.landing(),
            one.keyring,
            one.officer(),
            BERT,
            reason="test",
            app_version=AppVersion.PACKED,
        )


def test_the_check_for_duplicates_warns_where_it_does_not_see_every_row(
    pipeline: Pipeline, restricted: Settings, tmp_path: Path
) -> None:
    _load_both(pipeline)
    with Pipeline.on(restricted, tmp_path / "restricted") as loader:
        loader.send([login(user_id=ANNA)])
        result = loader.run()
    passed = checks(result)
    assert passed.pop("duplicates") is False
    assert all(passed.values())
    assert metadata(result, "user_logins")["loaded"] == 1
