import unicodedata
from ipaddress import IPv4Address, IPv6Address

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginetl_assets.logins.canonical import canonical_ip, canonical_ips, canonical_text, canonical_values

# Zero groups are common, as they are in the world: `::` is where spellings differ most.
GROUPS = st.lists(st.one_of(st.just(0), st.integers(0, 0xFF), st.integers(0, 0xFFFF)), min_size=8, max_size=8)
WHITE_SPACE = st.text(alphabet=" \t\r\n\u00a0\u2003", max_size=3)


def device_id(text: str) -> str:
    value = pl.DataFrame({"text": [text]}).select(canonical_text(pl.col("text"))).item()
    assert isinstance(value, str)
    return value


@st.composite
def ipv6_spellings(draw: st.DrawFn, groups: list[int]) -> str:
    """One of the ways to write an address: cases, leading zeros, any run of zeros as `::`, a dotted tail."""

    def spelled(group: int) -> str:
        text = f"{group:0{draw(st.integers(1, 4))}x}"
        return "".join(draw(st.sampled_from((digit.lower(), digit.upper()))) for digit in text)

    parts = [spelled(group) for group in groups[:6]]
    if draw(st.booleans()):
        parts.append(str(IPv4Address(groups[6] << 16 | groups[7])))
    else:
        parts += [spelled(group) for group in groups[6:]]
    runs = [
        (start, end)
        for start in range(len(parts))
        for end in range(start + 1, len(parts) + 1)
        if all("." not in part and int(part, 16) == 0 for part in parts[start:end])
    ]
    run = draw(st.sampled_from([None, *runs]))
    text = (
        ":".join(parts)
        if run is None
        else f"{':'.join(parts[: run[0]])}::{':'.join(parts[run[1] :])}"
    )  # fmt: skip
    return draw(WHITE_SPACE) + text + draw(WHITE_SPACE)


@settings(deadline=None, max_examples=400)
@given(st.data(), GROUPS)
def test_every_spelling_of_an_ipv6_address_has_one_text(data: st.DataObject, groups: list[int]) -> None:
    plain = canonical_ip(":".join(f"{group:x}" for group in groups))

    spelling = data.draw(ipv6_spellings(groups))

    assert plain is not None
    assert canonical_ip(spelling) == plain


@settings(deadline=None, max_examples=300)
@given(st.data(), st.ip_addresses(v=4))
def test_an_ipv4_mapped_address_is_the_ipv4_address(data: st.DataObject, address: IPv4Address) -> None:
    groups = [0, 0, 0, 0, 0, 0xFFFF, int(address) >> 16, int(address) & 0xFFFF]

    assert canonical_ip(data.draw(ipv6_spellings(groups))) == canonical_ip(str(address)) == str(address)


@settings(deadline=None)
@given(st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_different_addresses_have_different_texts(one: IPv6Address, other: IPv6Address) -> None:
    assert (canonical_ip(str(one)) == canonical_ip(str(other))) == (one == other)


@settings(deadline=None)
@given(st.one_of(st.ip_addresses().map(str), GROUPS.flatmap(ipv6_spellings), st.text()))
def test_a_canonical_address_stays_as_it_is(text: str) -> None:
    once = canonical_ip(text)

    assert once is None or canonical_ip(once) == once


NUMBERS = st.integers(0, 300).map(str) | st.sampled_from(["", "00", "01", "1 ", "٣", "1\n"])
DOTTED = st.lists(NUMBERS, min_size=3, max_size=5).map(".".join)


@settings(deadline=None)
@given(st.lists(st.none() | DOTTED | st.ip_addresses().map(str) | GROUPS.flatmap(ipv6_spellings) | st.text()))
def test_many_addresses_are_spelled_as_each_of_them(texts: list[str | None]) -> None:
    spelled = canonical_ips(pl.Series(texts, dtype=pl.String)).to_list()

    assert spelled == [None if text is None else canonical_ip(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("199.172.111.135", "199.172.111.135"),
        (" 10.0.0.1\n", "10.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - a value, nothing listens
        ("255.255.255.255", "255.255.255.255"),
        ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),  # RFC 5952, section 4.2.3
        ("2001:0db8::0001", "2001:db8::1"),  # section 4.1
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),  # section 4.2.2: not `::` for one group
        ("::", "::"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:0201", "192.0.2.1"),
        ("::ffff:0.0.0.0", "0.0.0.0"),  # noqa: S104
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
    ],
)
def test_an_address_has_its_canonical_text(text: str, canonical: str) -> None:
    assert canonical_ip(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "localhost",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "01.2.3.4",
        "192.168.010.1",
        "1.2.3.00",
        "1.2.3.4/32",
        "1.2.3.4:80",
        "1. 2.3.4",
        "16909060",
        "0x1.2.3.4",
        "١.٢.٣.٤",
        "::ffff:192.168.010.1",
        "fe80::1%eth0",
        "fe80::1%",
        "1.2.3.4%eth0",
        "[::1]",
        "::1/128",
        "1::2::3",
        ":::",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "12345::",
        "g::",
        "1.2.3.4\0",
        "9" * 10_000,
    ],
)
def test_an_invalid_address_has_no_canonical_value(text: str) -> None:
    assert canonical_ip(text) is None


@settings(deadline=None)
@given(WHITE_SPACE, st.text(min_size=1), WHITE_SPACE)
def test_a_device_id_is_stripped_and_composed(before: str, text: str, after: str) -> None:
    once = device_id(before + text + after)

    assert device_id(once) == once
    assert device_id(text) == once
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("593-47-5928", "593-47-5928"),
        ("\t593-47-5928 \n", "593-47-5928"),
        ("a b", "a b"),
        ("\u00a0x\u2003", "x"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u212b", "\u00c5"),  # the angstrom sign is the letter
        ("\uff21", "\uff21"),  # full width is another letter: C, not KC
        ("ABC", "ABC"),
        ("", ""),
    ],
)
def test_a_device_id_has_its_canonical_text(text: str, canonical: str) -> None:
    assert device_id(text) == canonical


def test_the_values_of_a_field_are_canonical_each_once_and_without_invalid_ones() -> None:
    assert canonical_values("ip", ["::ffff:192.0.2.1", "192.0.2.1", "x", "", "2001:DB8::1"]) == {
        "192.0.2.1",
        "2001:db8::1",
    }
    assert canonical_values("device_id", [" d-1 ", "d-1", "  ", "e\u0301"]) == {"d-1", "\u00e9"}
    assert canonical_values("ip", []) == canonical_values("device_id", []) == set()


def test_a_single_value_is_canonical_or_none_of_its_field() -> None:
    assert canonical_values("ip", ["::ffff:192.0.2.1"]) == {"192.0.2.1"}
    assert canonical_values("ip", ["d-1"]) == set()
    assert canonical_values("device_id", [" d-1 "]) == {"d-1"}
    assert canonical_values("device_id", [" "]) == set()
