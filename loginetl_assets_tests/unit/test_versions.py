import re
from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginetl_assets.logins.versions import MAX_PACKED, major_version, pack_version, version_text

PARTS = st.tuples(st.integers(0, 2_146), st.integers(0, 999), st.integers(0, 999))


def pack(*texts: str) -> list[int | None]:
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    return frame.select(pack_version(pl.col("text"))).to_series().to_list()


def dotted(parts: Sequence[int]) -> str:
    return ".".join(map(str, parts))


@settings(deadline=None)
@given(st.lists(PARTS, min_size=2, max_size=20))
def test_packed_versions_sort_as_versions_do(versions: list[tuple[int, int, int]]) -> None:
    packed = dict(zip(versions, pack(*map(dotted, versions)), strict=True))

    assert None not in packed.values()
    assert sorted(versions) == sorted(versions, key=lambda version: packed[version] or 0)
    assert len(set(packed.values())) == len(set(versions))


@settings(deadline=None)
@given(PARTS)
def test_a_packed_version_is_read_back(parts: tuple[int, int, int]) -> None:
    (packed,) = pack(dotted(parts))

    assert packed is not None
    assert version_text(packed) == dotted(parts)


@settings(deadline=None)
@given(PARTS, st.integers(1, 3))
def test_missing_parts_are_zero(parts: tuple[int, int, int], given_parts: int) -> None:
    shortened = parts[:given_parts]

    assert pack(dotted(shortened)) == pack(dotted([*shortened, 0, 0][:3]))


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("2.3.0", 2_003_000),
        ("23.0", 23_000_000),
        ("0.96", 96_000),
        ("230", 230_000_000),
        ("0", 0),
        ("01.002", 1_002_000),
        ("2146.999.999", 2_146_999_999),
    ],
)
def test_a_version_is_packed(text: str, packed: int) -> None:
    assert pack(text) == [packed]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " 1.2",
        "1.2 ",
        "1.2\n",
        "1.2.3\n",
        "\n1.2",
        "1.",
        ".1",
        ".",
        "1..2",
        "1,2",
        "1.2.",
        "1.2.3.4",
        "1.1000",
        "1.2.1000",
        "v2",
        "-1",
        "+1",
        "1e3",
        "2.3.0-beta",
        "2.3.0+7",
        "2147",
        "2147.0.0",
        "9999",
        "99999999999",
        "١.٢",
        "1.٢",
        "\uff11.2",  # full-width 1
        "1\0",
    ],
)
def test_what_is_no_version_is_null(text: str) -> None:
    assert pack(text) == [None]


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="0129.\n v-١", max_size=12))
def test_any_text_is_either_the_version_it_spells_or_null(text: str) -> None:
    (packed,) = pack(text)

    parts = [int(part) for part in text.split(".")] if re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) else []
    widths = [len(part) for part in text.split(".")]
    if not 1 <= len(parts) <= 3 or parts[0] > 2_146 or widths[0] > 4 or max([0, *widths[1:]]) > 3:
        assert packed is None
    else:
        assert packed is not None
        assert version_text(packed) == dotted([*parts, 0, 0][:3])


def test_the_largest_version_fits_the_column() -> None:
    assert pack("2146.999.999") == [MAX_PACKED]
    assert MAX_PACKED <= 2**31 - 1


def test_the_packed_column_has_the_type_of_the_table_and_keeps_nulls() -> None:
    frame = pl.DataFrame({"text": ["1.2", None, "x"]})

    packed = frame.select(pack_version(pl.col("text"))).to_series()

    assert packed.dtype == pl.Int32
    assert packed.to_list() == [1_002_000, None, None]


def test_no_versions_are_no_packed_versions() -> None:
    assert pack() == []


@settings(deadline=None)
@given(PARTS)
def test_the_major_version_is_the_first_part(parts: tuple[int, int, int]) -> None:
    frame = pl.DataFrame({"text": [dotted(parts)]})

    major = frame.select(major_version(pack_version(pl.col("text")))).to_series()

    assert major.dtype == pl.Int32
    assert major.to_list() == [parts[0]]
