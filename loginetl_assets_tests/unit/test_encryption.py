import traceback

import pytest
import tink
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tink import aead, cleartext_keyset_handle, hybrid

from loginetl_assets.logins.encryption import (
    VAULT_KEY_CONTEXT,
    DecryptionError,
    VaultEncryptor,
    decrypt,
    encrypt,
    key_id_of,
)

aead.register()
hybrid.register()

PLACE = "batches/2026/07/01/0001.encrypted"
SECRET = b'{"ip": "199.172.111.135"}'


def new_encryptor() -> aead.Aead:
    return tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM).primitive(aead.Aead)


ENCRYPTOR = new_encryptor()
CIPHERTEXT = encrypt(ENCRYPTOR, SECRET, PLACE)


@pytest.fixture(scope="module")
def officer() -> tink.KeysetHandle:
    """The privacy officer's private keyset."""
    template = hybrid.hybrid_key_templates.DHKEM_X25519_HKDF_SHA256_HKDF_SHA256_AES_256_GCM
    return tink.new_keyset_handle(template)


def vault_encryptor(officer: tink.KeysetHandle) -> VaultEncryptor:
    return VaultEncryptor(officer.public_keyset_handle().primitive(hybrid.HybridEncrypt))


def data_key(officer: tink.KeysetHandle, wrapped: bytes, context: bytes = VAULT_KEY_CONTEXT) -> aead.Aead:
    clear = officer.primitive(hybrid.HybridDecrypt).decrypt(wrapped, context)
    return cleartext_keyset_handle.read(tink.BinaryKeysetReader(clear)).primitive(aead.Aead)


@settings(deadline=None)
@given(st.binary(), st.text())
def test_a_ciphertext_is_decrypted_in_its_place(plaintext: bytes, place: str) -> None:
    assert decrypt(ENCRYPTOR, encrypt(ENCRYPTOR, plaintext, place), place) == plaintext


@settings(deadline=None)
@given(st.binary(), st.text(), st.text())
def test_a_ciphertext_is_decrypted_in_no_other_place(plaintext: bytes, place: str, other: str) -> None:
    assume(place != other)

    with pytest.raises(DecryptionError):
        decrypt(ENCRYPTOR, encrypt(ENCRYPTOR, plaintext, place), other)


def test_no_flipped_bit_goes_unnoticed() -> None:
    for bit in range(len(CIPHERTEXT) * 8):
        altered = bytearray(CIPHERTEXT)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecryptionError):
            decrypt(ENCRYPTOR, bytes(altered), PLACE)


def test_nothing_cut_short_opens() -> None:
    for length in range(len(CIPHERTEXT)):
        with pytest.raises(DecryptionError):
            decrypt(ENCRYPTOR, CIPHERTEXT[:length], PLACE)


@settings(deadline=None)
@given(st.binary())
def test_arbitrary_bytes_do_not_open(encrypted: bytes) -> None:
    with pytest.raises(DecryptionError):
        decrypt(ENCRYPTOR, encrypted, PLACE)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(DecryptionError):
        decrypt(new_encryptor(), CIPHERTEXT, PLACE)


def test_the_ciphertext_does_not_show_the_plaintext_and_differs_each_time() -> None:
    again = encrypt(ENCRYPTOR, SECRET, PLACE)

    assert again != CIPHERTEXT
    assert b"199.172" not in again


@pytest.mark.parametrize("place", [PLACE, "elsewhere"])
def test_the_error_tells_nothing_but_that_it_did_not_open(place: str) -> None:
    altered = CIPHERTEXT[:-1] + bytes([CIPHERTEXT[-1] ^ 1])

    with pytest.raises(DecryptionError) as raised:
        decrypt(ENCRYPTOR, altered, place)

    shown = "".join(traceback.format_exception(raised.value))
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    assert "TinkError" not in shown
    assert "199.172" not in shown + repr(raised.value)
    assert raised.value.args == ("it was altered, or encrypted with another key",)


@settings(deadline=None, max_examples=25)
@given(values=st.dictionaries(st.text(min_size=1), st.text(), min_size=1, max_size=5))
def test_the_officer_opens_each_value_by_its_token(officer: tink.KeysetHandle, values: dict[str, str]) -> None:
    encryptor = vault_encryptor(officer)
    encrypted = {token: encryptor.encrypt(token, value) for token, value in values.items()}

    opener = data_key(officer, encryptor.wrapped_key)

    opened = {token: decrypt(opener, value, token).decode() for token, value in encrypted.items()}
    assert opened == values


def test_a_vault_value_opens_under_no_other_token(officer: tink.KeysetHandle) -> None:
    encryptor = vault_encryptor(officer)
    opener = data_key(officer, encryptor.wrapped_key)

    with pytest.raises(DecryptionError):
        decrypt(opener, encryptor.encrypt("1.one", "199.172.111.135"), "1.other")


def test_the_wrapped_key_opens_in_its_context_only(officer: tink.KeysetHandle) -> None:
    encryptor = vault_encryptor(officer)

    for context in (b"", VAULT_KEY_CONTEXT + b" "):
        with pytest.raises(tink.TinkError):
            data_key(officer, encryptor.wrapped_key, context)


def test_another_officer_s_key_does_not_open_the_wrapped_key(officer: tink.KeysetHandle) -> None:
    template = hybrid.hybrid_key_templates.DHKEM_X25519_HKDF_SHA256_HKDF_SHA256_AES_256_GCM
    stranger = tink.new_keyset_handle(template)

    with pytest.raises(tink.TinkError):
        data_key(stranger, vault_encryptor(officer).wrapped_key)


def test_every_batch_has_a_data_key_of_its_own(officer: tink.KeysetHandle) -> None:
    one, other = vault_encryptor(officer), vault_encryptor(officer)

    assert one.wrapped_key != other.wrapped_key
    with pytest.raises(DecryptionError):
        decrypt(data_key(officer, other.wrapped_key), one.encrypt("1.t", "x"), "1.t")


def test_the_public_key_alone_opens_nothing(officer: tink.KeysetHandle) -> None:
    text = tink.json_proto_keyset_format.serialize_without_secret(officer.public_keyset_handle())

    public = tink.json_proto_keyset_format.parse_without_secret(text)

    assert public.primitive(hybrid.HybridEncrypt).encrypt(b"x", VAULT_KEY_CONTEXT)
    with pytest.raises(tink.TinkError):
        public.primitive(hybrid.HybridDecrypt)


def test_neither_the_wrapped_key_nor_an_encrypted_value_shows_the_value(officer: tink.KeysetHandle) -> None:
    encryptor = vault_encryptor(officer)

    assert b"199.172" not in encryptor.encrypt("1.t", "199.172.111.135") + encryptor.wrapped_key


def test_the_key_that_encrypted_something_is_read_from_it() -> None:
    handle = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    encrypted = encrypt(handle.primitive(aead.Aead), SECRET, PLACE)
    assert key_id_of(encrypted) == handle.keyset_info().primary_key_id
    assert key_id_of(b"\x01\x00\x01\x02\x03rest") == 0x00010203
    assert key_id_of(b"\x00\x00\x01\x02\x03rest") is None
    assert key_id_of(b"") is None
