"""The redacted shape of a body: what can be shown of a rejected message, so that its fault is visible and no value is.

Letters become `x`, digits `9`; punctuation and white space stay, and other characters are named by their code point.
The names of the contract's fields, their parts, and JSON's own words stay where they are used as such.
"""

import re
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE

from loginetl_assets.logins.contract import FIELD_NAMES

MAX_CHARACTERS = 2_000

_NAMES = sorted({*FIELD_NAMES, *(part for name in FIELD_NAMES for part in name.split("_")), "Type", "Message"})
_KEPT = re.compile(rf'"(?:{"|".join(_NAMES)})"(?=\s*:)|(?<=[:,\[\s])(?:null|true|false|NaN|-?Infinity)(?=\s*[,\]}}])')


def redacted_shape(body: bytes) -> str:
    """Returns the shape of a body's first characters; bytes that are not UTF-8 are counted, a UTF-16 mark is shown."""
    mark = body[:2] if body[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else b""
    text = body[len(mark) :].decode("utf-8", "surrogateescape")
    cut = text[:MAX_CHARACTERS]
    parts, end = ["".join(f"\\x{byte:02x}" for byte in mark)], 0
    for kept in _KEPT.finditer(cut):
        parts += [*map(_masked, cut[end : kept.start()]), kept[0]]
        end = kept.end()
    parts += map(_masked, cut[end:])
    rest = f"… ({len(body)} bytes)" if len(text) > MAX_CHARACTERS else ""
    return "".join(parts) + rest


def _masked(character: str) -> str:
    kind = unicodedata.category(character)
    if character in "\t\n" or (character.isascii() and kind[0] in "PSZ"):
        return character
    if kind[0] == "L":
        return "x"
    if kind[0] == "N":
        return "9"
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that did not decode: in another encoding it is a letter
        return "\\x··"
    return f"\\u{code:04x}" if kind in {"Cc", "Cf", "Zs", "Zl", "Zp"} and code < 0x10000 else "·"
