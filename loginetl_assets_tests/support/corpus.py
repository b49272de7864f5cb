"""Hostile message bodies, each with the one outcome it must have: a row with these values, or one named reason."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from loginetl_assets.logins.contract import FIELD_NAMES
from loginetl_assets.logins.message import MAX_DEPTH
from loginetl_assets.logins.rejection import Reason, Rejection

MIB = 1024 * 1024


class Row(NamedTuple):
    """What a good login comes to; `ip` and `device_id` in the spelling that is masked."""

    user_id: str = "u-1"
    device_type: str = "ios"
    ip: str = "198.51.100.7"
    device_id: str = "593-47-5928"
    locale: str | None = "RU"
    app_version: int = 2_003_000


class Hostile(NamedTuple):
    """A body and its outcome."""

    body: bytes
    outcome: Row | Rejection


FLAT = {
    "user_id": "u-1",
    "app_version": "2.3.0",
    "device_type": "ios",
    "ip": "198.51.100.7",
    "locale": "RU",
    "device_id": "593-47-5928",
}
NESTED = {
    "user": {"id": "u-1"},
    "app": {"version": "2.3.0"},
    "device": {"type": "ios", "id": "593-47-5928"},
    "ip": "198.51.100.7",
    "locale": "RU",
}


def good(**sent: object) -> bytes:
    """The good login with fields replaced, every character as itself where UTF-8 has it; `...` leaves a field out."""
    fields = {name: value for name, value in (FLAT | sent).items() if value is not ...}
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")


def literally(name: str, literal: str | bytes) -> bytes:
    """The good login with one more pair, or one field in its place, written as it stands."""
    before = good(**{name: ...})[:-1]
    return (
        before + b", " + f'"{name}": '.encode() + (literal if isinstance(literal, bytes) else literal.encode()) + b"}"
    )


def also(name: str, literal: str) -> bytes:
    """The good login with one more pair at its end, whether or not the name is there already."""
    return good()[:-1] + f', "{name}": {literal}}}'.encode()


def sns(message: str | bytes, **fields: object) -> bytes:
    """An SNS notification around a message."""
    text = message if isinstance(message, str) else message.decode("utf-8", "surrogatepass")
    return json.dumps({"Type": "Notification", "MessageId": "1", "Message": text} | fields).encode()


def escaped(text: str) -> str:
    """A text in JSON's escapes alone."""
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def no(reason: Reason, field: str | None = None) -> Rejection:
    """A rejection."""
    return Rejection(reason, field)


def deep(levels: int) -> str:
    """Objects inside each other."""
    return '{"a":' * levels + "1" + "}" * levels


NOT_JSON = no(Reason.NOT_JSON)
NOT_A_LOGIN = no(Reason.NOT_A_LOGIN)
NOT_AN_OBJECT = no(Reason.NOT_AN_OBJECT)
TOO_DEEP = no(Reason.TOO_DEEP)
TWICE = no(Reason.DUPLICATE_KEY)

ENCODINGS = {
    "a byte that is no UTF-8": Hostile(literally("user_id", b'"\xff"'), NOT_JSON),
    "UTF-8 cut in a character": Hostile(literally("user_id", b'"\xf0\x9f\x98"'), NOT_JSON),
    "an overlong slash": Hostile(literally("user_id", b'"\xc0\xaf"'), NOT_JSON),
    "a code point above Unicode's last": Hostile(literally("user_id", b'"\xf4\x90\x80\x80"'), NOT_JSON),
    "broken UTF-8 in an unknown field": Hostile(literally("x", b'"\x80"'), NOT_JSON),
    "Latin-1": Hostile(good(user_id="é").decode().encode("latin-1"), NOT_JSON),
    "a byte order mark": Hostile(b"\xef\xbb\xbf" + good(), NOT_JSON),
    "a byte order mark within": Hostile(good(user_id="\ufeff"), Row(user_id="\ufeff")),
    "UTF-16 with its mark": Hostile(good().decode().encode("utf-16"), NOT_JSON),
    "UTF-16 without": Hostile(good().decode().encode("utf-16-be"), NOT_JSON),
    "UTF-32": Hostile(good().decode().encode("utf-32"), NOT_JSON),
    "compressed": Hostile(bytes.fromhex("1f8b0800000000000203ab562a2d4e2d5202") + bytes(8), NOT_JSON),
}  # fmt: skip

SHAPES = {
    "nothing": Hostile(b"", NOT_JSON),
    "white space": Hostile(b" \r\n\t ", NOT_JSON),
    "an empty string": Hostile(b'""', NOT_AN_OBJECT),
    "null": Hostile(b"null", NOT_AN_OBJECT),
    "an empty list": Hostile(b"[]", NOT_AN_OBJECT),
    "a pointer to nowhere": Hostile(
        b'["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"b","s3Key":"k"}]',
        no(Reason.PAYLOAD_UNAVAILABLE),
    ),
    "half a pointer": Hostile(
        b'["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":7}]', NOT_AN_OBJECT
    ),
    "an empty object": Hostile(b"{}", NOT_A_LOGIN),
    "zero": Hostile(b"0", NOT_AN_OBJECT),
    "a login in a list": Hostile(b"[" + good() + b"]", NOT_AN_OBJECT),
    "a login in a string": Hostile(json.dumps(good().decode()).encode(), NOT_AN_OBJECT),
    "two logins": Hostile(good() + b"\n" + good(), NOT_JSON),
    "cut in the middle": Hostile(good()[: len(good()) // 2], NOT_JSON),
    "a comment": Hostile(b"/* login */" + good(), NOT_JSON),
    "Python's own spelling": Hostile(str(FLAT).encode(), NOT_JSON),
    "XML": Hostile(b"<login><ip>198.51.100.7</ip></login>", NOT_JSON),
    "white space wherever it may be": Hostile(b"\r\n\t " + json.dumps(FLAT, indent=9).encode() + b"\n\n", Row()),
    "a no-break space between": Hostile(good().replace(b": ", b":\xc2\xa0", 1), NOT_JSON),
    "a form feed between": Hostile(good().replace(b": ", b":\x0c", 1), NOT_JSON),
    "fields in upper case": Hostile(good().replace(b"ip", b"IP"), no(Reason.MISSING_FIELD, "ip")),
    "fields with a space": Hostile(good().replace(b'"ip"', b'"ip "'), no(Reason.MISSING_FIELD, "ip")),
    "a field in Cyrillic letters": Hostile(
        good().replace(b'"ip"', '"\u0456\u0440"'.encode()), no(Reason.MISSING_FIELD, "ip")
    ),
    "every key escaped": Hostile(
        b"{" + b", ".join(f'"{escaped(name)}": "{value}"'.encode() for name, value in FLAT.items()) + b"}", Row()
    ),
}  # fmt: skip

DEPTHS = {
    "100 deep": Hostile(literally("x", deep(100)), Row()),
    "100 lists deep": Hostile(literally("x", "[" * 100 + "]" * 100), Row()),
    "as deep as can be": Hostile(literally("x", deep(MAX_DEPTH - 1)), Row()),
    "a level too deep": Hostile(literally("x", deep(MAX_DEPTH)), TOO_DEEP),
    "100 000 deep": Hostile(literally("x", deep(100_000)), TOO_DEEP),
    "100 000 opened": Hostile(b'{"ip":' * 100_000, TOO_DEEP),
    "100 000 lists opened": Hostile(b"[" * 100_000, TOO_DEEP),
    "deep in a field": Hostile(literally("ip", deep(100)), no(Reason.MISSING_FIELD, "ip")),
    "100 000 deep in an envelope": Hostile(sns(literally("x", deep(100_000))), TOO_DEEP),
    "brackets in a text": Hostile(good(user_id="[{" * 60), Row(user_id="[{" * 60)),
}

KEYS = {
    "a field twice": Hostile(also("ip", '"10.0.0.1"'), TWICE),
    "a field twice, once escaped": Hostile(also(r"\u0069p", '"10.0.0.1"'), TWICE),
    "a field twice, both escaped": Hostile(rb'{"\u0069p": "10.0.0.1", "i\u0070": "10.0.0.2"}', TWICE),
    "an unknown field twice": Hostile(also("x", '1, "x": 2'), TWICE),
    "an empty key twice": Hostile(also("", '1, "": 2'), TWICE),
    "a nested field twice": Hostile(literally("device", '{"x": 1, "x": 2}'), TWICE),
    "a nested field twice, once escaped": Hostile(literally("device", r'{"x": 1, "\u0078": 2}'), TWICE),
    "a key twice in a list": Hostile(literally("x", '[[{"a": 1, "a": 1}]]'), TWICE),
    "a key twice in an object in a list": Hostile(b'[{"a": 1, "a": 1}]', TWICE),
    "a field twice in an envelope": Hostile(sns(also("ip", '"10.0.0.1"')), TWICE),
    "a field twice in an envelope, once escaped": Hostile(sns(also(r"\u0069p", '"10.0.0.1"')), TWICE),
    "the message of an envelope twice": Hostile(sns(good())[:-1] + b', "Message": "{}"}', TWICE),
    "the type of an envelope twice": Hostile(b'{"Type": "x", ' + sns(good())[1:], TWICE),
    "the same name in two normal forms": Hostile(
        literally("caf\u00e9", '1, "cafe\u0301": 2'), Row()
    ),
    "flat and nested": Hostile(good(device={"id": "x"}), no(Reason.COLLIDING_KEYS, "device_id")),
    "flat and nested null": Hostile(good(user={"id": None}), no(Reason.COLLIDING_KEYS, "user_id")),
    "nested in two ways": Hostile(
        good(device_type={"": 1}, device={"type": "ios"}), Row()
    ),
    "nested below an empty name": Hostile(good(ip=..., **{"": {"ip": "1.1.1.1"}}), no(Reason.MISSING_FIELD, "ip")),
    "nested": Hostile(json.dumps(NESTED).encode(), Row()),
    "nested with an empty object beside": Hostile(json.dumps(NESTED | {"x": {}}).encode(), Row()),
    "a prototype": Hostile(good(**{"__proto__": {"ip": "1.1.1.1"}, "constructor": 1}), Row()),
    "a key of 100 kB": Hostile(good(**{"k" * 100_000: {"ip": 1}}), Row()),
    "10 000 unknown fields": Hostile(good(**{f"x{number}": number for number in range(10_000)}), Row()),
}  # fmt: skip


def _number(literal: str, *, json_itself: bool = True) -> Mapping[str, Hostile]:
    """A number as an unknown field, where it means nothing, and as one of the six, which are strings."""
    shown = literal if len(literal) < 20 else f"{literal[:3]}… of {len(literal)} characters"
    return {
        f"{shown} as an unknown field": Hostile(literally("x", literal), Row() if json_itself else NOT_JSON),
        f"{shown} as a field": Hostile(
            literally("user_id", literal), no(Reason.WRONG_TYPE, "user_id") if json_itself else NOT_JSON
        ),
    }


NUMBERS = {
    **_number("-0"),
    **_number("-0.0"),
    **_number("1e999"),
    **_number("-1E+9999"),
    **_number("1e-9999"),
    **_number("18446744073709551616"),
    **_number("9" * 5_000),
    **_number("0." + "3" * 5_000),
    **_number("9" * MIB),
    **{
        name: hostile
        for literal in ("NaN", "Infinity", "-Infinity", "01", "+1", "0x1F", "1_000", "1.", ".5", "1e", "١", "0b1")
        for name, hostile in _number(literal, json_itself=False).items()
    },
}

TEXTS = {
    "an escaped lone surrogate": Hostile(literally("user_id", r'"\ud800"'), no(Reason.UNSTORABLE_TEXT, "user_id")),
    "escaped surrogates the wrong way round": Hostile(
        literally("device_id", r'"\ude00\ud83d"'), no(Reason.UNSTORABLE_TEXT, "device_id")
    ),
    "a raw lone surrogate": Hostile(literally("locale", b'"\xed\xb0\x80"'), no(Reason.UNSTORABLE_TEXT, "locale")),
    "a lone surrogate in an unknown field": Hostile(literally("x", r'"\ud800"'), Row()),
    "a lone surrogate as a key": Hostile(also(r"\udfff", "1"), Row()),
    "an escaped pair of surrogates": Hostile(literally("user_id", r'"\ud83d\ude00"'), Row(user_id="😀")),
    "an escaped NUL": Hostile(literally("user_id", r'"a\u0000b"'), no(Reason.UNSTORABLE_TEXT, "user_id")),
    "a raw NUL": Hostile(literally("user_id", b'"a\0b"'), NOT_JSON),
    "a raw NUL between": Hostile(b"\0" + good(), NOT_JSON),
    "NULs behind": Hostile(good() + bytes(8), NOT_JSON),
    "a NUL in an unknown field": Hostile(literally("x", r'"\u0000"'), Row()),
    "a raw tab": Hostile(literally("user_id", b'"a\tb"'), NOT_JSON),
    "every escaped control character but NUL": Hostile(
        good(user_id="".join(map(chr, range(1, 32)))), Row(user_id="".join(map(chr, range(1, 32))))
    ),
    "escapes that are none": Hostile(literally("user_id", r'"\x41"'), NOT_JSON),
    "half an escape": Hostile(literally("user_id", r'"\u00"'), NOT_JSON),
    "an escape with other digits": Hostile(literally("user_id", r'"\u00٤1"'), NOT_JSON),
    "characters that are none": Hostile(good(user_id="\ufffe\uffff\U0010ffff"), Row(user_id="\ufffe\uffff\U0010ffff")),
    "right to left": Hostile(good(user_id="\u202egnp.exe\u2066"), Row(user_id="\u202egnp.exe\u2066")),
    "zero width": Hostile(good(user_id="a\u200b\u200d\u2060"), Row(user_id="a\u200b\u200d\u2060")),
    "zero width alone": Hostile(good(user_id="\u200b"), Row(user_id="\u200b")),
    "white space alone": Hostile(good(user_id="\u2003\u00a0\u3000\u2028\x85"), no(Reason.EMPTY, "user_id")),
    "combining marks piled up": Hostile(good(user_id="a" + "\u0315" * 127), Row(user_id="a" + "\u0315" * 127)),
    "an empty locale": Hostile(good(locale=""), Row(locale=None)),
    "no locale": Hostile(good(locale=...), Row(locale=None)),
    "a locale that says null": Hostile(good(locale="null"), Row(locale="null")),
    **{
        f"{text!r} in the columns in plaintext": Hostile(
            good(user_id=text, device_type=text, locale=text), Row(user_id=text, device_type=text, locale=text)
        )
        for text in (
            "\\.", "\\N", "\n\\.\n", "\\", "\\\\", "a\tb", "a\nb", "a\r\nb", "\\x41", "\\101", "NULL", "''", '"',
            '""', ",", ";", '"a","b"\n', "=1+1", "@SUM(A1)", "$$", "${HOME}", "%s%n", "{0}", ":name", "$1", "?", "--",
            "<b>&amp;",
        )
    },
    **{
        f"SQL in {field}": Hostile(good(**{field: sql}), outcome)
        for sql in ("'); DROP TABLE user_logins; --",)
        for field, outcome in dict[str, Row | Rejection]({
            "user_id": Row(user_id=sql),
            "device_type": Row(device_type=sql),
            "locale": Row(locale=sql),
            "device_id": Row(device_id=sql),
            "ip": no(Reason.BAD_IP, "ip"),
            "app_version": no(Reason.BAD_VERSION, "app_version"),
        }).items()
    },
}  # fmt: skip

DEVICES = {
    "a device id not composed": Hostile(good(device_id="cafe\u0301"), Row(device_id="caf\u00e9")),
    "a device id composed": Hostile(good(device_id="caf\u00e9"), Row(device_id="caf\u00e9")),
    "a device id in jamo": Hostile(good(device_id="\u1112\u1161\u11ab"), Row(device_id="\ud55c")),
    "a device id that C takes apart": Hostile(good(device_id="\ufb2c"), Row(device_id="\u05e9\u05bc\u05c1")),
    "a device id with marks in another order": Hostile(good(device_id="a\u0301\u0323"), Row(device_id="\u1ea1\u0301")),
    "a device id of full width": Hostile(good(device_id="\uff11"), Row(device_id="\uff11")),
    "a device id with a ligature": Hostile(good(device_id="\ufb01"), Row(device_id="\ufb01")),
    "a device id in white space": Hostile(good(device_id="\u2003\t593\u3000\n"), Row(device_id="593")),
    "a device id of a separator": Hostile(good(device_id="\x1f"), Row(device_id="\x1f")),
    "an address as a device id": Hostile(good(device_id="198.51.100.7"), Row(device_id="198.51.100.7")),
    "a token as a device id": Hostile(good(device_id="1." + "A" * 43), Row(device_id="1." + "A" * 43)),
}

LENGTHS = {
    **{
        f"{field} of {most} characters outside the BMP": Hostile(good(**{field: "😀" * most}), row)
        for field, most, row in (
            ("user_id", 128, Row(user_id="😀" * 128)),
            ("device_type", 32, Row(device_type="😀" * 32)),
            ("locale", 32, Row(locale="😀" * 32)),
            ("device_id", 256, Row(device_id="😀" * 256)),
        )
    },
    **{
        f"{field} of {most + 1} characters outside the BMP": Hostile(
            good(**{field: "😀" * (most + 1)}), no(Reason.TOO_LONG, field)
        )
        for field, most in {"user_id": 128, "device_type": 32, "locale": 32, "device_id": 256}.items()
    },
    "a device id that fits once composed": Hostile(good(device_id="e\u0301" * 256), Row(device_id="\u00e9" * 256)),
    "a device id that C makes too long": Hostile(good(device_id="\ufb2c" * 86), no(Reason.TOO_LONG, "device_id")),
    "a device id that fits once stripped": Hostile(good(device_id=" " * 999 + "x" * 256), Row(device_id="x" * 256)),
    "a user id too long for its white space": Hostile(good(user_id="u" + " " * 128), no(Reason.TOO_LONG, "user_id")),
    **{
        f"{field} of 1 MiB": Hostile(good(**{field: "é" * (MIB // 2)}), reason)
        for field, reason in {
            "user_id": no(Reason.TOO_LONG, "user_id"),
            "device_type": no(Reason.TOO_LONG, "device_type"),
            "locale": no(Reason.TOO_LONG, "locale"),
            "device_id": no(Reason.TOO_LONG, "device_id"),
            "ip": no(Reason.BAD_IP, "ip"),
            "app_version": no(Reason.BAD_VERSION, "app_version"),
        }.items()
    },
    "1 MiB of white space as a device id": Hostile(
        good(device_id="\u3000" * (MIB // 3)), no(Reason.EMPTY, "device_id")
    ),
    "an unknown field of 1 MiB": Hostile(good(x="x" * MIB), Row()),
    "a body of exactly 1 MiB": Hostile(good(x="x" * (MIB - len(good(x="")))), Row()),
    "a body of 1 MiB of quotes": Hostile(literally("x", '"' + r"\"" * (MIB // 2 - 99) + '"'), Row()),
    "1 MiB of empty objects": Hostile(literally("x", "[" + "{}," * (MIB // 3 - 99) + "{}]"), Row()),
    "dots for an address": Hostile(good(ip="." * 100_000), no(Reason.BAD_IP, "ip")),
    "colons for an address": Hostile(good(ip=":" * 100_000), no(Reason.BAD_IP, "ip")),
    "dots for a version": Hostile(good(app_version="." * 100_000), no(Reason.BAD_VERSION, "app_version")),
}  # fmt: skip

_CANONICAL_IPS = {
    "2001:db8::1": (
        "2001:db8::1", "2001:DB8::1", "2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8:0:0:0:0:0:1",
        "2001:db8::0:1", "2001:db8:0::1", " 2001:db8::1\t", "2001:db8::0.0.0.1", "\u30002001:db8::1\u00a0",
    ),
    "203.0.113.9": (
        "203.0.113.9", " 203.0.113.9 ", "\n203.0.113.9", "::ffff:203.0.113.9", "::FFFF:203.0.113.9",
        "0:0:0:0:0:ffff:203.0.113.9", "::ffff:cb00:7109", "0000:0000:0000:0000:0000:FFFF:CB00:7109",
    ),
    "::": ("::", "0::", "::0", "0:0:0:0:0:0:0:0", "::0.0.0.0"),
    "::cb00:7109": ("::203.0.113.9", "::cb00:7109"),  # "IPv4-compatible" is another, deprecated thing than mapped
    "64:ff9b::cb00:7109": ("64:ff9b::203.0.113.9",),
    "fe80::1": ("fe80::1", "FE80:0::1"),
    "1:0:2:0:3:0:4:0": ("1:0:2:0:3:0:4:0", "1:0:2:0:3:0:4::"),
    "255.255.255.255": ("255.255.255.255",),
    "0.0.0.0": ("0.0.0.0", "::ffff:0:0"),  # noqa: S104 - a value, nothing listens
}  # fmt: skip

_NO_IPS = (
    "01.2.3.4", "1.2.3.04", "198.051.100.007", "0x7f.0.0.1", "0x7f000001", "0177.0.0.1", "127.1", "127.0.1",
    "2130706433", "1.2.3.4:80", "1.2.3.4.", ".1.2.3.4", "1..2.3", "1.2.3.4/24", "1.2.3.256", "1.2.3.-4", "1.2.3.+4",
    "1.2.3.4e0", "1.2.3.4 5", "1.2.3. 4", "1,2,3,4", "1.2.3.4\u200b", "\u202e1.2.3.4", "١.٢.٣.٤", "１.２.３.４",
    "1。2。3。4", "²5.1.1.1", "1_0.0.0.1", "localhost", "null", "unknown", "-", "1.2.3.4, 5.6.7.8",
    "fe80::1%eth0", "fe80::1%25eth0", "fe80::1%", "[2001:db8::1]", "[::1]:80", "2001:db8::1/64", "2001:db8::1::2",
    "2001:db8:::1", "12345::", "2001:db8::g", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "::1.2.3", "::1.2.3.04",
    "1.2.3.4::", "::ffff:1.2.3.4.", "2001-db8--1.ipv6-literal.net", "：：1", "0x::1", "::-1", "::+1", "::1_0", "http://1.2.3.4/",
)  # fmt: skip

ADDRESSES = {
    **{
        f"the address {spelling!r}": Hostile(good(ip=spelling), Row(ip=ip))
        for ip, spellings in _CANONICAL_IPS.items()
        for spelling in spellings
    },
    **{f"no address: {text!r}": Hostile(good(ip=text), no(Reason.BAD_IP, "ip")) for text in _NO_IPS},
    "an address that is a list": Hostile(good(ip=["1.2.3.4"]), no(Reason.WRONG_TYPE, "ip")),
    "an address that is a number": Hostile(good(ip=2130706433), no(Reason.WRONG_TYPE, "ip")),
    "an empty address": Hostile(good(ip=""), no(Reason.EMPTY, "ip")),
    "an address of white space": Hostile(good(ip=" \u2003"), no(Reason.EMPTY, "ip")),
}

_VERSIONS = {
    "0": 0, "0.0.0": 0, "2": 2_000_000, "2.3": 2_003_000, "2.3.0": 2_003_000, "02.003.000": 2_003_000,
    "0002": 2_000_000, "0.96": 96_000, "2146.0.0": 2_146_000_000, "2146.999.999": 2_146_999_999,
}  # fmt: skip

_NO_VERSIONS = (
    "1.2.3.4", "v2", "V2.3", "2.3.0-beta", "2.3.0+build", "2.3b", "99999999999", "9" * 400, "١.٢", "１.２", "²",
    " 2.3 ", "2.3\n", "\u00a02.3", "2.", ".3", ".", "..", "2..3", "2.3.", "-1", "+2", "1e3", "0x2", "1_0.2", "2,3",
    "2147.0.0", "2147", "9999.0.0", "00002", "2.1000", "2.3.1000", "2.0003", "nan", "inf", "None", "2.3\u200b",
)  # fmt: skip

VERSIONS = {
    **{
        f"the version {text}": Hostile(good(app_version=text), Row(app_version=packed))
        for text, packed in _VERSIONS.items()
    },
    **{
        f"no version: {text[:20]!r}": Hostile(good(app_version=text), no(Reason.BAD_VERSION, "app_version"))
        for text in _NO_VERSIONS
    },
    "an empty version": Hostile(good(app_version=""), no(Reason.EMPTY, "app_version")),
    "a version that is a number": Hostile(good(app_version=2.3), no(Reason.WRONG_TYPE, "app_version")),
}  # fmt: skip

ENVELOPES = {
    "an envelope": Hostile(sns(good()), Row()),
    "an envelope around nested objects": Hostile(sns(json.dumps(NESTED)), Row()),
    "an envelope in an envelope": Hostile(sns(sns(good())), NOT_A_LOGIN),
    "an envelope around text": Hostile(sns("your build has failed"), NOT_JSON),
    "an envelope around nothing": Hostile(sns(""), NOT_JSON),
    "an envelope around a list": Hostile(sns("[]"), NOT_AN_OBJECT),
    "an envelope around null": Hostile(sns("null"), NOT_AN_OBJECT),
    "an envelope around NaN": Hostile(sns(literally("x", "NaN")), NOT_JSON),
    "an envelope around an object": Hostile(
        json.dumps({"Type": "Notification", "Message": FLAT}).encode(), NOT_A_LOGIN
    ),
    "an envelope without a message": Hostile(b'{"Type": "Notification"}', NOT_A_LOGIN),
    "an envelope of another type": Hostile(sns(good(), Type="SubscriptionConfirmation"), NOT_A_LOGIN),
    "an envelope with fields of its own": Hostile(
        sns(good(user_id="inside"), user_id="outside"), Row(user_id="inside")
    ),
    "a login that says it is an envelope": Hostile(good(Type="Notification"), Row()),
    "an envelope around a lone surrogate": Hostile(
        sns(literally("user_id", b'"\xed\xa0\x80"')), no(Reason.UNSTORABLE_TEXT, "user_id")
    ),
    "an envelope of half a megabyte": Hostile(sns(good(x='"' * 150_000)), Row()),
}  # fmt: skip

CORPUS: dict[str, Hostile] = {}
for _part in (ENCODINGS, SHAPES, DEPTHS, KEYS, NUMBERS, TEXTS, DEVICES, LENGTHS, ADDRESSES, VERSIONS, ENVELOPES):
    assert CORPUS.keys().isdisjoint(_part)
    CORPUS |= _part


def _texts(body: bytes) -> list[str]:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return []
    if not isinstance(document, dict):
        return []
    return [value for name, value in document.items() if name in FIELD_NAMES and isinstance(value, str)]


# What a fuzzer puts in the place of a value: every text that some entry has in one of the six fields.
VALUES = sorted({text for hostile in CORPUS.values() for text in _texts(hostile.body) if len(text) < 2_000})


def _growing(before: str, again: str, after: str) -> Callable[[int], bytes]:
    """A shape of body of about any length: a part of it comes again and again."""
    return lambda size: (before + again * (size // len(again)) + after).encode()


# Shapes whose reading must take a time in proportion to their length; each but the last few is the worst case of
# something that reads, checks or explains: strings, escapes, numbers, keys, nesting, flattening, addresses, versions.
GROWING: dict[str, Callable[[int], bytes]] = {
    "one long text": _growing('{"user_id":"', "x", '"}'),
    "escaped quotes": _growing('{"user_id":"', r"\"", '"}'),
    "an open text of escapes": _growing("[" * MAX_DEPTH + "]" * 300 + "[" * 300 + '"', r"\"", "\\"),
    "surrogates": _growing('{"user_id":"', r"\ud83d\ude00", '"}'),
    "a long integer": _growing('{"x":', "9", "}"),
    "a long fraction": _growing('{"x":0.', "9", "}"),
    "short texts in a list": _growing('{"x":[', '"",', '""]}'),
    "objects in a list": _growing('{"x":[', "{},", "{}]}"),
    "lists opened": _growing("", "[", ""),
    "objects opened": _growing("", '{"a":', ""),
    "envelopes opened": _growing("", r'{"Type":"Notification","Message":"', ""),
    "nesting up and down": _growing('{"x":[', "[" * 99 + "]" * 99 + ",", "1]}"),
    "distinct keys": lambda size: json.dumps({f"k{number:07}": 1 for number in range(size // 15)}).encode(),
    "distinct keys, the last twice": lambda size: (
        json.dumps({f"k{number:07}": 1 for number in range(size // 15)})[:-1].encode() + b', "k0000000": 1}'
    ),
    "objects to flatten": lambda size: json.dumps({f"k{number:07}": {"a": 1} for number in range(size // 22)}).encode(),
    "one object of many to flatten": lambda size: good(device={f"k{number:07}": 1 for number in range(size // 15)}),
    "a long key to flatten": lambda size: good(**{"": {"k" * size: {"a": {"a": 1}}}}),
    "an envelope": lambda size: sns(good(x="x" * size)),
    "an envelope of quotes": lambda size: sns(good(x='"' * (size // 4))),
    "dots for an address": lambda size: good(ip="." * size),
    "colons for an address": lambda size: good(ip=":" * size),
    "digits for an address": lambda size: good(ip="1" * size),
    "white space for an address": lambda size: good(ip="\t" * (size // 2)),
    "digits for a version": lambda size: good(app_version="1" * size),
    "dots for a version": lambda size: good(app_version="1." * (size // 2)),
    "marks for a device": lambda size: good(device_id="a" + "\u0315\u0300" * (size // 4)),
    "white space for a device": lambda size: good(device_id=" " * size + "x"),
}
