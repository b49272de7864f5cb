"""One spelling per value, so that one device or address has one token."""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

import polars as pl

from loginetl_assets.logins.contract import FIELDS, Kind

_KINDS = {field.name: field.kind for field in FIELDS if field.masked}


def canonical_ip(text: str) -> str | None:
    """Returns the one spelling of an IP address, or None where the text is not one.

    IPv6 is compressed and lower case (RFC 5952); an IPv4-mapped IPv6 address is the IPv4 address. Leading zeros in
    IPv4 are refused, since readers disagree whether they mean octal; so are zones (`%eth0`), which name an interface
    of one machine and no address.
    """
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return None if address.scope_id else str(address.ipv4_mapped or address)
    return str(address)


_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"^(?:{_BYTE}\.){{3}}{_BYTE}$"  # has one spelling


def canonical_ips(texts: pl.Series) -> pl.Series:
    """Returns `canonical_ip` of each text; null of null."""
    is_canonical = texts.str.contains(_IPV4)
    if is_canonical.all():
        return texts
    others = texts.filter(~is_canonical).unique()
    canonical = pl.Series(map(canonical_ip, others), dtype=pl.String)
    return texts.zip_with(is_canonical, texts.replace_strict(others, canonical, default=None, return_dtype=pl.String))


def canonical_values(field: str, texts: Iterable[str]) -> set[str]:
    """Returns the spellings of values of a masked field, each once, without texts that are not values of that field."""
    if _KINDS[field] is Kind.IP:
        return {address for text in texts if (address := canonical_ip(text))}
    frame = pl.DataFrame({"text": list(texts)}, schema={"text": pl.String})
    return set(frame.select(canonical_text(pl.col("text")))["text"]) - {""}


def expected(field: str) -> str:
    """Returns what a masked field's values are, in words."""
    return "an IPv4 or IPv6 address" if _KINDS[field] is Kind.IP else "text that is not only white space"


def canonical_text(text: pl.Expr) -> pl.Expr:
    """Strips white space at both ends and composes to Unicode's normal form C."""
    return text.str.strip_chars().str.normalize("NFC")
