"""App versions as integers that sort like versions; `version_text`, here and in Postgres, reads them back.

`major * 1_000_000 + minor * 1_000 + patch`, the missing parts being 0: "2.3.0" is 2_003_000, "0.96" is 96_000. The
largest is 2146.999.999, which still fits Postgres's four-byte integer.
"""

import polars as pl

MAX_MAJOR = 2_146
MAX_PACKED = MAX_MAJOR * 1_000_000 + 999_999

# ASCII digits only: `\d` would let other scripts' digits through to the cast.
_PARTS = r"^(?<major>[0-9]{1,4})(?:\.(?<minor>[0-9]{1,3}))?(?:\.(?<patch>[0-9]{1,3}))?$"


def pack_version(text: pl.Expr) -> pl.Expr:
    """Returns the Int32 of each version text; null where the text is not a version or out of range."""
    parts = text.str.extract_groups(_PARTS).struct
    major, minor, patch = (parts.field(name).cast(pl.Int32, strict=False) for name in ("major", "minor", "patch"))
    packed = major * 1_000_000 + minor.fill_null(0) * 1_000 + patch.fill_null(0)
    return pl.when(major <= MAX_MAJOR).then(packed)


def major_version(packed: pl.Expr) -> pl.Expr:
    """Returns the Int32 of the first part alone."""
    return packed // 1_000_000


def version_text(packed: int) -> str:
    """Returns a packed version with all of its three parts."""
    return f"{packed // 1_000_000}.{packed // 1_000 % 1_000}.{packed % 1_000}"
