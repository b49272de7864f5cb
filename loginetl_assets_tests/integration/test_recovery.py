"""Recovery on real services: values for tokens, logged before anything is opened, and nothing shown otherwise."""

import csv
import io
import json
import os
import pty
import stat
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tink
from sqlalchemy import text
from tink import hybrid

from loginetl_assets.errors import OperatorError, SettingsError
from loginetl_assets.keys.keyring import OFFICER_FILE, OFFICER_TEMPLATE, TEMPLATES
from loginetl_assets.keys.keysets import keyset_json, replace_keyset, with_new_primary
from loginetl_assets.logins.encryption import VaultEncryptor
from loginetl_assets.privacy.erase import Erasure
from loginetl_assets.privacy.recover import Outcome, Recovered, recover, tokens_of_user, tokens_of_value
from loginetl_assets.privacy.rotate import retokenize
from loginetl_assets.privacy.subjects import subject_of
from loginetl_assets.services import Services
from loginetl_assets.settings import KeysetRole
from loginetl_assets.storage import vault
from loginetl_assets_tests.support.command import LOGINETL, run_cli
from loginetl_assets_tests.support.pipeline import Pipeline, login

WHY = "ticket 4711"


def _log(pipeline: Pipeline) -> list[Any]:
    return pipeline.query("SELECT * FROM loginetl.pii_access_log ORDER BY access_id")


def _tokens(pipeline: Pipeline, user_id: str = "u-1") -> tuple[str, str]:
    row = pipeline.query("SELECT masked_ip, masked_device_id FROM user_logins WHERE user_id = :u", u=user_id)[0]
    return row.masked_ip, row.masked_device_id


def _recover(pipeline: Pipeline, *tokens: str) -> list[Recovered]:
    return recover(pipeline.services.database(), pipeline.services.officer(), tokens, reason=WHY)


def _loaded(pipeline: Pipeline) -> tuple[str, str]:
    pipeline.send([login(), login(user_id="u-2", ip="2001:db8::2", device_id="device-2")])
    pipeline.process()
    return _tokens(pipeline)


def test_tokens_are_recovered_in_the_order_they_are_asked_for_and_each_once(pipeline: Pipeline) -> None:
    ip, device = _loaded(pipeline)
    answers = _recover(pipeline, device, ip, device)
    assert [(one.token, one.outcome, one.field, one.value) for one in answers] == [
        (device, Outcome.RECOVERED, "device_id", "593-47-5928"),
        (ip, Outcome.RECOVERED, "ip", "198.51.100.7"),
    ]


def test_the_command_shows_values_as_table_json_and_csv_and_logs_each_time(pipeline: Pipeline) -> None:
    ip, device = _loaded(pipeline)
    table = run_cli(pipeline.settings, "recover", ip, device, "--reason", WHY)
    assert "198.51.100.7" in table.stdout
    assert "593-47-5928" in table.stdout
    as_json = run_cli(pipeline.settings, "recover", ip, "--reason", WHY, "--format", "json")
    assert json.loads(as_json.stdout) == [{"token": ip, "outcome": "recovered", "field": "ip", "value": "198.51.100.7"}]
    as_csv = run_cli(pipeline.settings, "recover", device, "--reason", WHY, "--format", "csv")
    assert list(csv.DictReader(io.StringIO(as_csv.stdout))) == [
        {"token": device, "outcome": "recovered", "field": "device_id", "value": "593-47-5928"}
    ]
    log = _log(pipeline)
    assert [(row.action, row.reason, row.tokens) for row in log] == [
        ("recover", WHY, [ip, device]),
        ("recover", WHY, [ip]),
        ("recover", WHY, [device]),
    ]
    assert all(row.who and row.claimed_user for row in log)


def test_the_command_recovers_by_user_and_by_file(pipeline: Pipeline, tmp_path: Path) -> None:
    ip, device = _loaded(pipeline)
    by_user = run_cli(pipeline.settings, "recover", "--user-id", "--reason", WHY, "--format", "json", stdin="u-2")
    assert {one["value"] for one in json.loads(by_user.stdout)} == {"2001:db8::2", "device-2"}
    (tmp_path / "tokens").write_text(f"{ip}\n\n  {device}  \n")
    by_file = run_cli(
        pipeline.settings, "recover", "--file", str(tmp_path / "tokens"), "--reason", WHY, "--format", "json"
    )
    assert [one["value"] for one in json.loads(by_file.stdout)] == ["198.51.100.7", "593-47-5928"]
    assert (
        "no row of that user"
        in run_cli(pipeline.settings, "recover", "--user-id", "--reason", WHY, stdin="nobody", exit_code=1).stderr
    )
    assert (
        "cannot read"
        in run_cli(pipeline.settings, "recover", "--file", str(tmp_path / "none"), "--reason", WHY, exit_code=2).stderr
    )
    assert len(_log(pipeline)) == 2


def test_values_are_written_to_a_new_file_that_only_its_owner_reads(pipeline: Pipeline, tmp_path: Path) -> None:
    ip, _ = _loaded(pipeline)
    umask = os.umask(0)
    try:
        for name, output_format in (("values.json", ()), ("values.csv", ()), ("values", ("--format", "csv"))):
            command = ("recover", ip, "--reason", WHY, *output_format, "--output", str(tmp_path / name))
            done = run_cli(pipeline.settings, *command)
            assert (done.stdout, done.stderr) == ("", f"wrote {tmp_path / name}\n")
            assert "198.51.100.7" in (tmp_path / name).read_text()
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
            assert "never overwritten" in run_cli(pipeline.settings, *command, exit_code=2).stderr
    finally:
        os.umask(umask)
    for name, said in (("none/values.json", "is not a directory"), ("values.txt", "neither .json nor .csv")):
        command = ("recover", ip, "--reason", WHY, "--output", str(tmp_path / name))
        assert said in run_cli(pipeline.settings, *command, exit_code=2).stderr
    refused = ("recover", ip, "--reason", WHY, "--format", "table", "--output", str(tmp_path / "table.json"))
    assert "--output takes json or csv" in run_cli(pipeline.settings, *refused, exit_code=2).stderr
    assert {path.name for path in tmp_path.glob("*values*")} == {"values", "values.csv", "values.json"}
    assert len(_log(pipeline)) == 3, "what is refused is not logged: nothing was decrypted"


def test_more_tokens_than_the_limit_are_refused_and_the_log_states_it(pipeline: Pipeline) -> None:
    ip, device = _loaded(pipeline)
    command = ("recover", ip, device, "--reason", WHY)
    refused = run_cli(pipeline.settings, *command, "--max-tokens", "1", exit_code=2)
    assert "2 tokens are more than --max-tokens, 1:" in refused.stderr
    assert refused.stdout == ""
    assert _log(pipeline) == []
    run_cli(pipeline.settings, *command)
    run_cli(pipeline.settings, *command, "--max-tokens", "2")
    assert [row.counts for row in _log(pipeline)] == [
        {"tokens": 2, "max_tokens": 1_000},
        {"tokens": 2, "max_tokens": 2},
    ]


VALUE = "198.51.100.7"


def test_a_value_on_the_command_line_is_refused_not_repeated_and_not_logged(pipeline: Pipeline) -> None:
    for command in (
        ("token", VALUE, "--field", "ip"),
        ("recover", VALUE),
        ("recover", "--user-id", VALUE),
        ("erase", "--user-id", VALUE, "--yes"),
        ("erase", "--token", VALUE, "--yes"),
        ("recover", f"--user-id={VALUE}"),
        ("erase", f"--user-id={VALUE}", "--yes"),
        ("subject-report", f"--user-id={VALUE}"),
    ):
        done = run_cli(pipeline.settings, *command, "--reason", WHY, stdin="u-1", exit_code=2)
        assert "delete it" in done.stderr, command
        assert "prompt" in done.stderr, command
        assert VALUE not in done.stdout + done.stderr, command
    assert _log(pipeline) == []


def test_a_file_of_values_is_refused_before_the_log_has_them(pipeline: Pipeline, tmp_path: Path) -> None:
    ip, _ = _loaded(pipeline)
    (tmp_path / "tokens").write_text(f"{ip}\n{VALUE}\n")
    done = run_cli(pipeline.settings, "recover", "--file", str(tmp_path / "tokens"), "--reason", WHY, exit_code=2)
    assert done.stderr.startswith("error: not a token (a key id, a dot and 43 characters): 1 of 2, ")
    assert VALUE not in done.stdout + done.stderr
    assert _log(pipeline) == []


def _arguments_of_all_processes() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.append(path.read_text(errors="replace"))
    return "\n".join(found)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="the list of processes is read as Linux has it")
@pytest.mark.parametrize("command", ["token --field ip", "erase --user-id --yes"])
def test_what_is_typed_at_the_prompt_is_in_no_list_of_processes(pipeline: Pipeline, command: str) -> None:
    _loaded(pipeline)
    typed = "2001:db8::2" if command.startswith("token") else "u-2-not-in-any-argument"
    terminal, end = pty.openpty()
    arguments = [str(LOGINETL), *command.split(), "--reason", WHY]
    variables = {**os.environ, **pipeline.settings.as_environment()}
    database = pipeline.services.database()
    with subprocess.Popen(arguments, stdin=end, stdout=end, stderr=end, env=variables, close_fds=True) as process:
        os.close(end)
        seen = b""
        while not seen.endswith((b"ip: ", b"user id: ")):
            seen += os.read(terminal, 65_536)
        with database.transaction() as connection:  # a lock, so that the command runs on while the list is read
            connection.execute(text("LOCK user_logins, loginetl.pii_access_log, loginetl.keys"))
            os.write(terminal, f"{typed}\n".encode())
            pipeline.await_lock("relation")
            listed = _arguments_of_all_processes()
        with suppress(OSError):  # Linux's way to say that nobody holds the other end any more
            while part := os.read(terminal, 65_536):
                seen += part
    os.close(terminal)
    assert command.replace(" ", "\0") in listed
    assert typed not in listed
    if command.startswith("token"):
        assert _tokens(pipeline, "u-2")[0] in seen.decode()
        assert process.returncode == 0


@pytest.mark.parametrize("stdin", ["", "\n"])
def test_no_value_at_all_says_where_it_is_read_from(pipeline: Pipeline, stdin: str) -> None:
    for command, name in (("token --field ip", "ip"), ("erase --user-id --yes", "user id")):
        done = run_cli(pipeline.settings, *command.split(), "--reason", WHY, stdin=stdin, exit_code=2)
        assert done.stderr.startswith(f"error: no {name} was given: type it at the prompt, or pipe it")
    assert _log(pipeline) == []


def test_a_piped_id_that_leaves_nobody_to_answer_is_refused_before_anything_is_searched(pipeline: Pipeline) -> None:
    done = run_cli(pipeline.settings, "erase", "--user-id", "--reason", WHY, stdin="u-1\n", exit_code=2)
    assert (done.stdout, done.stderr.count("--yes")) == ("", 1)
    assert _log(pipeline) == []


def test_without_a_reason_nothing_is_shown_and_nothing_logged(pipeline: Pipeline) -> None:
    ip, _ = _loaded(pipeline)
    for reason in ([], ["--reason", "  "]):
        done = run_cli(pipeline.settings, "recover", ip, *reason, exit_code=2)
        assert "--reason" in done.stderr
        assert done.stdout == ""
    done = run_cli(pipeline.settings, "recover", "--reason", WHY, exit_code=2)
    assert "no token" in done.stderr
    assert _log(pipeline) == []


def test_a_log_that_cannot_be_written_means_that_nothing_is_shown(pipeline: Pipeline) -> None:
    ip, _ = _loaded(pipeline)
    pipeline.execute("ALTER TABLE loginetl.pii_access_log ADD CONSTRAINT full_up CHECK (false) NOT VALID")
    done = run_cli(pipeline.settings, "recover", ip, "--reason", WHY, exit_code=1)
    assert "198.51.100.7" not in done.stdout + done.stderr
    done = run_cli(pipeline.settings, "token", "--field", "ip", "--reason", WHY, stdin="198.51.100.7", exit_code=1)
    assert ip not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert _log(pipeline) == []


def test_the_log_row_is_committed_although_the_recovery_after_it_fails(pipeline: Pipeline) -> None:
    ip, _ = _loaded(pipeline)
    pipeline.execute("ALTER TABLE loginetl.pii_vault RENAME TO vault_elsewhere")
    with pytest.raises(OperatorError):
        _recover(pipeline, ip)
    assert [(row.action, row.tokens) for row in _log(pipeline)] == [("recover", [ip])]


def test_each_token_that_gives_no_value_says_why(pipeline: Pipeline) -> None:
    ip, device = _loaded(pipeline)
    other_ip, other_device = _tokens(pipeline, "u-2")
    with pipeline.services.database().transaction() as connection:
        vault.erase(connection, [device])
        stranger = tink.new_keyset_handle(OFFICER_TEMPLATE)
        public = stranger.public_keyset_handle()
        encryptor = VaultEncryptor(public.primitive(hybrid.HybridEncrypt))
        vault.add(
            connection,
            encryptor.wrapped_key,
            public.keyset_info().primary_key_id,
            [("1.x", "ip", encryptor.encrypt("1.x", "v"))],
        )
    pipeline.execute(
        "UPDATE loginetl.pii_vault SET encrypted_value = encrypted_value || 'x'::bytea WHERE token = :t", t=other_ip
    )
    answers = {one.token: one for one in _recover(pipeline, ip, device, "1.unknown", "1.x", other_ip, other_device)}
    assert {token: one.outcome for token, one in answers.items()} == {
        ip: Outcome.RECOVERED,
        device: Outcome.ERASED,
        "1.unknown": Outcome.UNKNOWN,
        "1.x": Outcome.OTHER_KEY,
        other_ip: Outcome.DAMAGED,
        other_device: Outcome.RECOVERED,
    }
    assert all((one.value is None) == (one.outcome is not Outcome.RECOVERED) for one in answers.values())


def test_a_damaged_data_key_is_not_mistaken_for_another_officers(pipeline: Pipeline) -> None:
    ip, _ = _loaded(pipeline)
    pipeline.execute("UPDATE loginetl.vault_data_keys SET wrapped_key = wrapped_key || 'x'::bytea")
    assert [one.outcome for one in _recover(pipeline, ip)] == [Outcome.DAMAGED]


def test_a_value_moved_to_another_token_does_not_open(pipeline: Pipeline) -> None:
    ip, _ = _loaded(pipeline)
    other_ip, _ = _tokens(pipeline, "u-2")
    pipeline.execute(
        "UPDATE loginetl.pii_vault v SET encrypted_value = o.encrypted_value FROM loginetl.pii_vault o"
        " WHERE v.token = :mine AND o.token = :other",
        mine=ip,
        other=other_ip,
    )
    assert [one.outcome for one in _recover(pipeline, ip, other_ip)] == [Outcome.DAMAGED, Outcome.RECOVERED]


def test_another_officers_keyset_recovers_nothing_and_says_so(pipeline: Pipeline) -> None:
    ip, _ = _loaded(pipeline)
    stranger = replace(pipeline.settings, officer_keyset=keyset_json(tink.new_keyset_handle(OFFICER_TEMPLATE)))
    answers = recover(pipeline.services.database(), Services(stranger).officer(), [ip], reason=WHY)
    assert [(one.outcome, one.value) for one in answers] == [(Outcome.OTHER_KEY, None)]


def test_without_the_officers_keyset_the_error_comes_before_any_log_row(pipeline: Pipeline) -> None:
    ip, _ = _loaded(pipeline)
    (pipeline.settings.home / "keys" / OFFICER_FILE).unlink()
    done = run_cli(pipeline.settings, "recover", ip, "--reason", WHY, exit_code=1)
    assert "LOGINETL_KEYSET_OFFICER" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    landing_key = str(pipeline.settings.home / "keys" / "landing.json")
    officer = {"LOGINETL_KEYSET_OFFICER": landing_key}
    done = run_cli(pipeline.settings, "recover", ip, "--reason", WHY, exit_code=1, environment=officer)
    assert "wrong kind" in done.stderr
    assert _log(pipeline) == []


def test_the_token_of_a_value_is_the_one_in_the_table_for_any_spelling(pipeline: Pipeline) -> None:
    _loaded(pipeline)
    ip, device = _tokens(pipeline, "u-2")
    for spelling in ("2001:db8::2", "2001:DB8:0:0:0::0002"):
        done = run_cli(pipeline.settings, "token", "--field", "ip", "--reason", WHY, stdin=f"{spelling}\n")
        assert done.stdout.split() == [ip]
    done = run_cli(pipeline.settings, "token", "-", "--field", "device_id", "--reason", WHY, stdin=" device-2 \n")
    assert done.stdout.split() == [device]
    log = _log(pipeline)
    assert [(row.action, row.reason, row.tokens) for row in log] == [
        ("token", WHY, [ip]),
        ("token", WHY, [ip]),
        ("token", WHY, [device]),
    ]
    assert "device-2" not in str(log)
    mapped = tokens_of_value(
        pipeline.services.database(), pipeline.services.keyring, "ip", "::ffff:198.51.100.7", reason=WHY
    )
    assert mapped == [_tokens(pipeline)[0]]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [("ip", "300.1.1.1", "IPv4 or IPv6"), ("ip", "", "IPv4 or IPv6"), ("device_id", "   ", "not only white space")],
)
def test_a_value_that_its_field_cannot_have_has_no_token(
    pipeline: Pipeline, field: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingsError, match=f"^the value is not a valid {field}: give .*{expected}"):
        tokens_of_value(pipeline.services.database(), pipeline.services.keyring, field, value, reason=WHY)
    assert _log(pipeline) == []


def test_a_token_is_not_shown_without_a_reason(pipeline: Pipeline) -> None:
    with pytest.raises(SettingsError, match="--reason"):
        tokens_of_value(pipeline.services.database(), pipeline.services.keyring, "ip", "198.51.100.7", reason=" ")
    assert _log(pipeline) == []


def test_no_repr_shows_a_value_or_a_key(pipeline: Pipeline) -> None:
    ip, _ = _loaded(pipeline)
    officer = pipeline.services.officer()
    keyring = pipeline.services.keyring
    answers = recover(pipeline.services.database(), officer, [ip], reason=WHY)
    shown = (
        repr(answers) + str(answers) + repr(officer) + repr(keyring) + repr(officer.handle) + repr(keyring.tokenizer)
    )
    assert "198.51.100.7" not in shown
    for path in (pipeline.settings.home / "keys").glob("*.json"):
        for key in json.loads(path.read_text())["key"]:
            assert key["keyData"]["value"][8:40] not in shown


def test_an_old_token_is_recovered_after_retokenize_under_the_name_it_was_asked_by(pipeline: Pipeline) -> None:
    ip, device = _loaded(pipeline)
    keyring = pipeline.services.keyring
    role = KeysetRole.MASKING
    replace_keyset("", keyring.source(role), keyset_json(with_new_primary(keyring.handle(role), TEMPLATES[role])))
    services = Services(pipeline.settings)
    officer = pipeline.services.officer()
    retokenize(services.database(), services.landing(), services.keyring, officer, reason=WHY)
    new_ip, _ = _tokens(pipeline)
    assert new_ip != ip
    answers = _recover(pipeline, ip, device, new_ip)
    assert [(one.token, one.value) for one in answers] == [
        (ip, "198.51.100.7"),
        (device, "593-47-5928"),
        (new_ip, "198.51.100.7"),
    ]
    assert tokens_of_value(services.database(), services.keyring, "ip", "198.51.100.7", reason=WHY) == [new_ip, ip]


def test_an_erased_value_is_erased_under_its_old_token_too(pipeline: Pipeline) -> None:
    ip, device = _loaded(pipeline)
    keyring = pipeline.services.keyring
    role = KeysetRole.MASKING
    replace_keyset("", keyring.source(role), keyset_json(with_new_primary(keyring.handle(role), TEMPLATES[role])))
    services = Services(pipeline.settings)
    retokenize(services.database(), services.landing(), services.keyring, pipeline.services.officer(), reason=WHY)
    subject = subject_of("u-1", [], services.keyring)
    Erasure(services.database(), services.landing(), services.keyring, subject).run(WHY)
    assert {one.outcome for one in _recover(pipeline, ip, device)} == {Outcome.ERASED}


def test_another_databases_masking_keyset_gives_no_token(pipeline: Pipeline) -> None:
    _loaded(pipeline)
    pipeline.execute("UPDATE loginetl.keys SET key_id = 7 WHERE role = 'masking'")
    with pytest.raises(OperatorError, match="LOGINETL_KEYSET_MASKING"):
        tokens_of_value(pipeline.services.database(), pipeline.services.keyring, "ip", "198.51.100.7", reason=WHY)
    assert _log(pipeline) == []


def test_ten_thousand_tokens_and_one_are_recovered_at_once(pipeline: Pipeline) -> None:
    keyring = pipeline.services.keyring
    values = {
        keyring.tokenizer.token("ip", value): value for value in (f"10.0.{n // 200}.{n % 200}" for n in range(10_001))
    }
    with pipeline.services.database().transaction() as connection:
        encryptor = VaultEncryptor(keyring.vault)
        vault.add(
            connection,
            encryptor.wrapped_key,
            keyring.key_ids(KeysetRole.VAULT)[0],
            ((token, "ip", encryptor.encrypt(token, value)) for token, value in values.items()),
        )
    database, officer = pipeline.services.database(), pipeline.services.officer()
    with pytest.raises(SettingsError, match="^10001 tokens are more than --max-tokens, 10000: "):
        recover(database, officer, values, reason=WHY, max_tokens=10_000)
    assert _log(pipeline) == []
    answers = recover(database, officer, values, reason=WHY, max_tokens=10_001)
    assert {one.token: one.value for one in answers} == values
    (row,) = _log(pipeline)
    assert len(row.tokens) == 10_001
    assert row.counts == {"tokens": 10_001, "max_tokens": 10_001}


def test_a_device_id_that_looks_like_markup_or_steers_a_terminal_is_shown_as_it_is(pipeline: Pipeline) -> None:
    pipeline.send([login(device_id="[red]x[/red] [/nothing] \x1b[2J")])
    pipeline.process()
    done = run_cli(pipeline.settings, "recover", "--user-id", "--reason", WHY, stdin="u-1")
    assert "[red]x[/red] [/nothing] \\x1b[2J" in done.stdout
    assert "\x1b[2J" not in done.stdout


def test_the_tokens_of_a_user_are_those_of_the_users_rows_alone(pipeline: Pipeline) -> None:
    ip, device = _loaded(pipeline)
    database = pipeline.services.database()
    assert set(tokens_of_user(database, "u-1")) == {ip, device}
    assert tokens_of_user(database, "' OR true --") == []
