import base64
import json
import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import tink
from tink import aead, hybrid, prf, secret_key_access

from loginetl_assets.errors import OperatorError
from loginetl_assets.keys.keyring import OFFICER_FILE, Keyring
from loginetl_assets.logins.encryption import DecryptionError, VaultEncryptor, decrypt, encrypt
from loginetl_assets.settings import KeysetRole

ROLES = list(KeysetRole)
USES: dict[KeysetRole, Callable[[Keyring], object]] = {
    KeysetRole.MASKING: lambda keyring: keyring.tokenizer.token("ip", "10.0.0.1"),
    KeysetRole.LANDING: lambda keyring: encrypt(keyring.landing, b"x", "place"),
    KeysetRole.REJECTS: lambda keyring: encrypt(keyring.rejects, b"x", "place"),
    KeysetRole.VAULT: lambda keyring: VaultEncryptor(keyring.vault).encrypt("token", "x"),
}
TEMPLATES = {
    KeysetRole.MASKING: prf.prf_key_templates.HMAC_SHA256,
    KeysetRole.LANDING: aead.aead_key_templates.AES256_GCM,
    KeysetRole.REJECTS: aead.aead_key_templates.AES256_GCM,
    KeysetRole.VAULT: hybrid.hybrid_key_templates.DHKEM_X25519_HKDF_SHA256_HKDF_SHA256_AES_256_GCM,
}


def setting(role: KeysetRole) -> str:
    return f"LOGINETL_KEYSET_{role.upper()}"


def secret_keyset(template: object) -> str:
    handle = tink.new_keyset_handle(template)
    return str(tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN))


# One keyset of every kind, all but the last with key material in them.
KEYSETS = {
    "masking": secret_keyset(TEMPLATES[KeysetRole.MASKING]),
    "landing": secret_keyset(TEMPLATES[KeysetRole.LANDING]),
    "officer": secret_keyset(TEMPLATES[KeysetRole.VAULT]),
}
KEYSETS["vault"] = str(
    tink.json_proto_keyset_format.serialize_without_secret(
        tink.json_proto_keyset_format.parse(KEYSETS["officer"], secret_key_access.TOKEN).public_keyset_handle()
    )
)
RIGHT_KEYSETS = {
    KeysetRole.MASKING: KEYSETS["masking"],
    KeysetRole.LANDING: KEYSETS["landing"],
    KeysetRole.REJECTS: secret_keyset(TEMPLATES[KeysetRole.REJECTS]),
    KeysetRole.VAULT: KEYSETS["vault"],
}


def merged(*keysets: str, disabled: tuple[int, ...] = ()) -> str:
    """One keyset of the keys of several, the first one's being the primary; some of them, by place, disabled."""
    documents = [json.loads(keyset) for keyset in keysets]
    keys = [key for document in documents for key in document["key"]]
    for place in disabled:
        keys[place]["status"] = "DISABLED"
    return json.dumps({"primaryKeyId": documents[0]["primaryKeyId"], "key": keys[::-1]})


def key_id(keyset: str) -> int:
    return int(json.loads(keyset)["primaryKeyId"])


def key_material(keyset: str) -> Iterator[str]:
    """The base64 of each key in a keyset, and pieces of it, so that a part is found too."""
    for key in json.loads(keyset)["key"]:
        value = key["keyData"]["value"]
        yield value
        yield value[-20:-4]
        yield repr(base64.b64decode(value)[-12:])[2:-1]


def assert_shows_no_key(shown: str, *keysets: str) -> None:
    for keyset in keysets:
        assert not any(material in shown for material in key_material(keyset))


def refused(keyring: Keyring, role: KeysetRole) -> str:
    """The text of the error on using a keyset; whatever shows of it shows no key."""
    with pytest.raises(OperatorError) as raised:
        USES[role](keyring)
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert_shows_no_key(shown, *KEYSETS.values())
    assert raised.value.__cause__ is None
    return str(raised.value)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _private_files() -> Iterator[None]:
    """Files that the tests write are their owner's alone, as keysets must be."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def no_umask() -> Iterator[None]:
    """So that a file's mode is what was asked for."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_missing_keysets_are_made_for_their_owner_only(tmp_path: Path) -> None:
    keys = tmp_path / "keys"

    Keyring({}, keys).make_missing()

    assert mode(keys) == 0o700
    assert {path.name: mode(path) for path in keys.iterdir()} == dict.fromkeys(
        [*(f"{role}.json" for role in ROLES), OFFICER_FILE], 0o600
    )


@pytest.mark.parametrize("role", ROLES)
def test_only_the_keyset_that_is_needed_is_made(tmp_path: Path, role: KeysetRole) -> None:
    keyring = Keyring({}, tmp_path / "keys")
    assert not (tmp_path / "keys").exists()

    USES[role](keyring)

    made = {f"{role}.json"} | ({OFFICER_FILE} if role is KeysetRole.VAULT else set())
    assert {path.name for path in (tmp_path / "keys").iterdir()} == made


def test_the_next_keyring_finds_the_same_keys(tmp_path: Path) -> None:
    one, other = Keyring({}, tmp_path), Keyring({}, tmp_path)

    assert one.tokenizer.token("ip", "10.0.0.1") == other.tokenizer.token("ip", "10.0.0.1")
    assert decrypt(other.landing, encrypt(one.landing, b"x", "place"), "place") == b"x"
    assert decrypt(other.rejects, encrypt(one.rejects, b"x", "place"), "place") == b"x"
    assert [one.key_ids(role) for role in ROLES] == [other.key_ids(role) for role in ROLES]


def test_every_role_has_a_key_of_its_own(tmp_path: Path) -> None:
    keyring = Keyring({}, tmp_path)

    with pytest.raises(DecryptionError):
        decrypt(keyring.rejects, encrypt(keyring.landing, b"x", "place"), "place")


def test_the_officer_s_private_key_decrypts_what_the_generated_vault_key_encrypted(tmp_path: Path) -> None:
    encrypted = Keyring({}, tmp_path).vault.encrypt(b"data key", b"context")

    officer = tink.json_proto_keyset_format.parse((tmp_path / OFFICER_FILE).read_text(), secret_key_access.TOKEN)
    assert officer.primitive(hybrid.HybridDecrypt).decrypt(encrypted, b"context") == b"data key"


def test_the_made_vault_file_holds_no_secret(tmp_path: Path) -> None:
    Keyring({}, tmp_path).make_missing()

    text = (tmp_path / "vault.json").read_text()
    assert_shows_no_key(text, (tmp_path / OFFICER_FILE).read_text())
    with pytest.raises(tink.TinkError):
        tink.json_proto_keyset_format.parse_without_secret(text).primitive(hybrid.HybridDecrypt)


def test_a_lost_vault_file_is_made_again_from_the_officer_s_key(tmp_path: Path) -> None:
    before = Keyring({}, tmp_path).key_ids(KeysetRole.VAULT)
    (tmp_path / "vault.json").unlink()

    assert Keyring({}, tmp_path).key_ids(KeysetRole.VAULT) == before


def test_keys_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    Keyring({}, tmp_path).make_missing()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    Keyring({}, tmp_path).make_missing()

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_threads_that_start_at_once_make_one_set_of_keys(tmp_path: Path) -> None:
    for attempt in range(10):
        keys = tmp_path / str(attempt)
        start = Barrier(8)

        def key_ids(keys: Path = keys, start: Barrier = start) -> list[tuple[int, ...]]:
            keyring = Keyring({}, keys)
            start.wait()
            return [keyring.key_ids(role) for role in ROLES]

        with ThreadPoolExecutor(8) as pool:
            seen = [future.result() for future in [pool.submit(key_ids) for _ in range(8)]]

        assert seen == [seen[0]] * 8
        assert len(list(keys.iterdir())) == 5  # no draft is left behind


PROCESS = """
import sys
from pathlib import Path
from loginetl_assets.keys.keyring import Keyring
from loginetl_assets.settings import KeysetRole
print("ready", flush=True)
sys.stdin.readline()
keyring = Keyring({}, Path(sys.argv[1]))
print([keyring.key_ids(role) for role in KeysetRole], keyring.tokenizer.token("ip", "10.0.0.1"))
"""


def test_processes_that_start_at_once_make_one_set_of_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(keys)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    seen = [process.communicate(timeout=60)[0] for process in processes]

    assert seen == [seen[0]] * 3
    assert "10.0.0.1" not in seen[0]
    assert len(list(keys.iterdir())) == 5


@pytest.mark.parametrize("role", ROLES)
def test_a_missing_keyset_is_an_error_that_names_its_setting(role: KeysetRole) -> None:
    others = {other: keyset for other, keyset in RIGHT_KEYSETS.items() if other is not role}

    error = refused(Keyring(others), role)

    assert error.startswith(f"{setting(role)} is not set")


def test_nothing_is_made_where_making_is_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(OperatorError):
        Keyring({}).make_missing()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("role", ROLES)
def test_a_keyset_may_be_a_path_a_file_url_or_the_json(tmp_path: Path, role: KeysetRole) -> None:
    path = tmp_path / "keyset.json"
    path.write_text(RIGHT_KEYSETS[role])

    for value in (str(path), f"file://{path}", RIGHT_KEYSETS[role]):
        keyring = Keyring({role: value})
        assert USES[role](keyring)
        assert keyring.key_ids(role) == (key_id(RIGHT_KEYSETS[role]),)


def test_a_set_keyset_is_used_where_others_are_made(tmp_path: Path) -> None:
    keyring = Keyring({KeysetRole.MASKING: KEYSETS["masking"]}, tmp_path)

    keyring.make_missing()

    assert keyring.tokenizer.key_id == key_id(KEYSETS["masking"])
    assert not (tmp_path / "masking.json").exists()


def test_tokens_are_made_with_the_primary_key_of_several() -> None:
    new, old = KEYSETS["masking"], secret_keyset(TEMPLATES[KeysetRole.MASKING])

    keyring = Keyring({KeysetRole.MASKING: merged(new, old)})

    alone = Keyring({KeysetRole.MASKING: new})
    assert keyring.tokenizer.token("ip", "10.0.0.1") == alone.tokenizer.token("ip", "10.0.0.1")


def test_what_an_older_key_encrypted_is_decrypted_after_a_rotation() -> None:
    new, old = secret_keyset(TEMPLATES[KeysetRole.LANDING]), KEYSETS["landing"]
    encrypted = encrypt(Keyring({KeysetRole.LANDING: old}).landing, b"x", "place")

    rotated = Keyring({KeysetRole.LANDING: merged(new, old)})

    assert decrypt(rotated.landing, encrypted, "place") == b"x"
    with pytest.raises(DecryptionError):
        decrypt(Keyring({KeysetRole.LANDING: new}).landing, encrypted, "place")


def test_key_ids_start_with_the_primary_and_leave_out_what_is_disabled() -> None:
    keysets = [secret_keyset(TEMPLATES[KeysetRole.LANDING]) for _ in range(3)]
    other, disabled, primary = sorted(keysets, key=key_id)

    keyring = Keyring({KeysetRole.LANDING: merged(primary, disabled, other, disabled=(1,))})

    assert keyring.key_ids(KeysetRole.LANDING) == (key_id(primary), key_id(other))


@pytest.mark.parametrize(
    ("role", "keyset", "said"),
    [
        (KeysetRole.MASKING, "landing", "wrong kind: it must be PRF"),
        (KeysetRole.MASKING, "officer", "wrong kind: it must be PRF"),
        (KeysetRole.MASKING, "vault", "wrong kind: it must be PRF"),
        (KeysetRole.LANDING, "masking", "wrong kind: it must be AEAD"),
        (KeysetRole.LANDING, "vault", "wrong kind: it must be AEAD"),
        (KeysetRole.REJECTS, "masking", "wrong kind: it must be AEAD"),
        (KeysetRole.REJECTS, "officer", "wrong kind: it must be AEAD"),
        (KeysetRole.VAULT, "officer", "is not a public Tink keyset, it holds secret keys"),
        (KeysetRole.VAULT, "landing", "is not a public Tink keyset"),
        (KeysetRole.VAULT, "masking", "is not a public Tink keyset"),
    ],
)
def test_a_keyset_of_another_kind_is_refused(tmp_path: Path, role: KeysetRole, keyset: str, said: str) -> None:
    path = tmp_path / "keyset.json"
    path.write_text(KEYSETS[keyset])

    for value in (KEYSETS[keyset], str(path)):
        error = refused(Keyring({role: value}), role)
        assert error.startswith(setting(role))
        assert said in error


def test_a_prf_that_is_too_short_for_tokens_is_refused() -> None:
    keyring = Keyring({KeysetRole.MASKING: secret_keyset(prf.prf_key_templates.AES_CMAC)})

    assert "wrong kind: it must be PRF (HMAC-SHA256)" in refused(keyring, KeysetRole.MASKING)


def damaged(keyset: str) -> dict[str, str]:
    document: dict[str, Any] = json.loads(keyset)
    return {
        "empty": "{}",
        "cut short": keyset.rstrip()[:-1],
        "something after it": keyset + "x",
        "no primary": json.dumps(document | {"primaryKeyId": 1}),
        "nothing enabled": merged(keyset, disabled=(0,)),
        "unknown member": json.dumps(document | {"secret": document["key"][0]["keyData"]["value"]}),
        "no base64": keyset.replace('"value":', '"value": "%",  "value":'),
        "too deep": '{"a":' * 5_000 + "1" + "}" * 5_000,
    }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("damage", damaged(KEYSETS["masking"]))
def test_a_damaged_keyset_is_refused(tmp_path: Path, role: KeysetRole, damage: str) -> None:
    text = damaged(RIGHT_KEYSETS[role])[damage]
    path = tmp_path / "keyset.json"
    path.write_text(text)

    for value in (text, str(path)):
        assert refused(Keyring({role: value}), role).startswith(f"{setting(role)} is ")


@pytest.mark.parametrize("role", [KeysetRole.MASKING, KeysetRole.VAULT])
@pytest.mark.parametrize("content", [b"", b" \n", b"[]", b"null", b"hello", b"\xff\xfe\x00"])
def test_a_file_that_is_no_json_keyset_is_refused(tmp_path: Path, role: KeysetRole, content: bytes) -> None:
    path = tmp_path / "keyset.json"
    path.write_bytes(content)

    assert refused(Keyring({role: str(path)}), role).startswith(f"{setting(role)} is not a ")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["none.json", ".", "none/none.json", "x" * 300])
def test_a_file_that_cannot_be_read_is_named_with_its_setting(tmp_path: Path, role: KeysetRole, name: str) -> None:
    error = refused(Keyring({role: str(tmp_path / name)}), role)

    assert error.startswith(f"{setting(role)}: cannot read ")


@pytest.mark.parametrize(
    "wrap",
    [
        "'{}'".format,  # quotes that a compose file or an env file left in
        '"{}"'.format,
        "[{}]".format,
        "\ufeff{}".format,
        lambda keyset: base64.b64encode(keyset.encode()).decode(),
        lambda keyset: keyset[1:],
    ],
    ids=["quoted", "double quoted", "in a list", "after a byte order mark", "as base64", "without its brace"],
)
def test_a_keyset_that_is_taken_for_a_path_is_not_shown(wrap: Callable[[str], str]) -> None:
    """Whoever means the JSON and misses its form must not find the key in the log."""
    keyset = wrap(KEYSETS["masking"])

    error = refused(Keyring({KeysetRole.MASKING: keyset}), KeysetRole.MASKING)

    assert setting(KeysetRole.MASKING) in error
    assert keyset[-40:-10] not in error


@pytest.mark.parametrize("role", ROLES)
def test_keys_that_cannot_be_made_are_an_error_that_names_the_home(tmp_path: Path, role: KeysetRole) -> None:
    (tmp_path / "file").write_text("in the way")

    assert "LOGINETL_HOME" in refused(Keyring({}, tmp_path / "file" / "keys"), role)


def test_a_damaged_officer_key_in_the_home_is_an_error_for_the_operator(tmp_path: Path) -> None:
    (tmp_path / OFFICER_FILE).write_text(KEYSETS["officer"][:-3])

    with pytest.raises(OperatorError, match=OFFICER_FILE):
        Keyring({}, tmp_path).make_missing()


def test_a_keyring_and_its_tokenizer_show_no_key() -> None:
    keyring = Keyring(RIGHT_KEYSETS)
    for use in USES.values():
        use(keyring)

    shown = f"{keyring!r}{keyring}{keyring.tokenizer!r}{keyring.landing!r}{keyring.vault!r}"
    assert_shows_no_key(shown, *RIGHT_KEYSETS.values())


def test_the_vault_of_a_keyring_opens_nothing() -> None:
    assert not hasattr(Keyring(RIGHT_KEYSETS).vault, "decrypt")
