"""One spelling per value, so that one device or address has one token."""

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import polars as pl

from loginetl_assets.logins.contract import FIELDS, Kind

_KINDS = {field.name: field.kind for field in FIELDS if field.masked}


def canonical_ip(text: str) -> str | None:
    """Returns the one spelling of an IP address, or None where the text is not one.

    IPv6 is compressed and lower case (RFC 5952); an IPv4-mapped IPv6 address is the IPv4 address. Leading zeros in
    IPv4 are refused, since readers disagree whether they mean octal; so are zones (`%eth0`), which name an interface
    of one machine and no address.
    """
    text = text.strip()
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        pass
    if "%" in text:
        return None
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return None
    return str(address.ipv4_mapped or address)


def canonical_value(field: str, text: str) -> str | None:
    """Returns the one spelling of a value of a masked field, or None where the text is not a value of that field."""
    return next(iter(canonical_values(field, [text])), None)


def canonical_values(field: str, texts: Iterable[str]) -> set[str]:
    """Returns the spellings of values of a masked field, each once, without texts that are not values of that field."""
    if _KINDS[field] is Kind.IP:
        return {address for text in texts if (address := canonical_ip(text))}
    frame = pl.DataFrame({"text": list(texts)}, schema={"text": pl.String})
    return set(frame.select(canonical_text(pl.col("text")))["text"]) - {""}


def canonical_text(text: pl.Expr) -> pl.Expr:
    """Strips white space at both ends and composes to Unicode's normal form C."""
    return text.str.strip_chars().str.normalize("NFC")
