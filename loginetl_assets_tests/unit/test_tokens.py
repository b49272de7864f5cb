import base64
import hashlib
import hmac
import json
import re

import polars as pl
import pytest
import tink
from hypothesis import given, settings
from hypothesis import strategies as st
from tink import prf, secret_key_access

from loginetl_assets.logins.contract import MASKED_FIELDS
from loginetl_assets.logins.tokens import TOKEN_PATTERN, Tokenizer, is_token

prf.register()

KEY_ID = 4_294_967_295  # the longest id there is
KEY = bytes(range(32))
# google.crypto.tink.HmacPrfKey: params { hash: SHA256 }, key_value: KEY
KEYSET = {
    "primaryKeyId": KEY_ID,
    "key": [
        {
            "keyData": {
                "typeUrl": "type.googleapis.com/google.crypto.tink.HmacPrfKey",
                "value": base64.b64encode(b"\x12\x02\x08\x03\x1a\x20" + KEY).decode(),
                "keyMaterialType": "SYMMETRIC",
            },
            "status": "ENABLED",
            "keyId": KEY_ID,
            "outputPrefixType": "RAW",
        }
    ],
}
FIELDS = st.sampled_from(MASKED_FIELDS)


def tokenizer_of(handle: tink.KeysetHandle) -> Tokenizer:
    keys = handle.primitive(prf.PrfSet)
    return Tokenizer(keys.primary_id(), keys.primary())


def known_tokenizer() -> Tokenizer:
    return tokenizer_of(tink.json_proto_keyset_format.parse(json.dumps(KEYSET), secret_key_access.TOKEN))


def new_tokenizer() -> Tokenizer:
    return tokenizer_of(tink.new_keyset_handle(prf.prf_key_templates.HMAC_SHA256))


@settings(deadline=None)
@given(FIELDS, st.text())
def test_the_token_is_the_hmac_of_field_and_value_after_the_key_id(field: str, value: str) -> None:
    mac = hmac.new(KEY, f"{field}\0{value}".encode(), hashlib.sha256).digest()

    token = known_tokenizer().token(field, value)

    assert token == f"{KEY_ID}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def test_a_token_never_changes_from_release_to_release() -> None:
    token = known_tokenizer().token("ip", "199.172.111.135")

    assert token == "4294967295.YaryXIL5Fi_7Cyun-8PjuUYM75wcNq6lRBryyWe-otM"


@settings(deadline=None)
@given(FIELDS, st.text())
def test_equal_values_have_equal_tokens_whoever_opens_the_keyset(field: str, value: str) -> None:
    assert known_tokenizer().token(field, value) == known_tokenizer().token(field, value)


@settings(deadline=None)
@given(st.text())
def test_the_same_text_in_two_fields_has_unrelated_tokens(value: str) -> None:
    tokenizer = known_tokenizer()

    tokens = {tokenizer.token(field, value).split(".")[1] for field in MASKED_FIELDS}

    assert len(tokens) == len(MASKED_FIELDS)


def test_another_key_gives_another_token_under_its_own_id() -> None:
    one, other = new_tokenizer(), new_tokenizer()

    assert one.token("ip", "10.0.0.1").split(".")[1] != other.token("ip", "10.0.0.1").split(".")[1]
    assert one.token("ip", "10.0.0.1").startswith(f"{one.key_id}.")
    assert other.token("ip", "10.0.0.1").startswith(f"{other.key_id}.")


@settings(deadline=None)
@given(FIELDS, st.text(max_size=2_000))
def test_a_token_fits_its_pattern_and_its_column(field: str, value: str) -> None:
    token = known_tokenizer().token(field, value)

    assert re.fullmatch(TOKEN_PATTERN, token)
    assert len(token) == 54 <= 256  # varchar(256), at the longest key id


@settings(deadline=None)
@given(st.sets(st.tuples(FIELDS, st.text()), min_size=2, max_size=200))
def test_different_values_have_different_tokens(pairs: set[tuple[str, str]]) -> None:
    tokenizer = known_tokenizer()

    assert len({tokenizer.token(field, value) for field, value in pairs}) == len(pairs)


def test_many_addresses_have_as_many_tokens() -> None:
    values = [f"10.{i >> 8 & 255}.{i & 255}.1" for i in range(20_000)]

    assert new_tokenizer().tokens("ip", values)["token"].n_unique() == 20_000


@settings(deadline=None)
@given(st.lists(st.text(max_size=5), max_size=30))
def test_the_tokens_of_many_values_are_each_value_s_own(values: list[str]) -> None:
    tokenizer = known_tokenizer()

    frame = tokenizer.tokens("device_id", values)

    assert frame.schema == {"value": pl.String, "token": pl.String}
    assert dict(frame.iter_rows()) == {value: tokenizer.token("device_id", value) for value in values}
    assert frame.height == len(set(values))


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("1." + "a" * 43, True),
        ("4294967295." + "A-_9" * 10 + "abc", True),
        ("1." + "a" * 42, False),
        ("1." + "a" * 44, False),
        ("1." + "a" * 43 + "\n", False),
        ("12345678901." + "a" * 43, False),
        ("." + "a" * 43, False),
        ("1." + "a" * 42 + "=", False),
        ("1." + "a" * 42 + "+", False),
        ("١." + "a" * 43, False),
        (" 1." + "a" * 43, False),
        ("199.172.111.135", False),
        ("2001:db8::1", False),
        ("593-47-5928", False),
        ("", False),
        (None, None),
    ],
)
def test_only_the_shape_of_a_token_counts_as_one(text: str | None, is_one: bool | None) -> None:
    frame = pl.DataFrame({"text": [text]}, schema={"text": pl.String})

    assert frame.select(is_token(pl.col("text"))).item() is is_one
