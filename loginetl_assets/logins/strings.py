"""The strings of a body, be it a login, JSON or neither, however each is spelled: erasure compares them."""

import json
import re

# The body, the message in its SNS envelope, and two for what others wrap. Bounded, since texts can be nested some
# hundred times in a body of a MiB.
_MAX_LEVELS = 4
# A string, to its end or the text's, and the number that it is the name of. Nothing is tried twice: time is linear,
# and brackets mean nothing, so depth costs nothing either.
_STRING = re.compile(r'"((?:[^"\\]++|\\.)*+)(?:"(?:\s*+:\s*+(-?[0-9][0-9.eE+-]*+))?)?', re.DOTALL)


def strings_in(body: bytes) -> set[str]:
    """Returns all names and values of a body that are strings, decoded, and those of the JSON texts within them.

    A number under a name that ends with `id` is one of them, as it is written. A lone surrogate stays one.
    """
    try:
        texts = {body.decode("utf-8", "surrogatepass")}
    except UnicodeDecodeError:
        texts = {body.decode("utf-8", "replace")}
    found: set[str] = set()
    for _ in range(_MAX_LEVELS):
        texts = {string for text in texts if '"' in text for string in _strings_of(text)}
        found |= texts
    return found


def _strings_of(text: str) -> set[str]:
    strings = set()
    for content, number in _STRING.findall(text):
        string = _decoded(content)
        strings.add(string)
        if number and string.endswith("id"):
            strings.add(number)
    return strings


def _decoded(content: str) -> str:
    if "\\" not in content:
        return content
    try:
        return str(json.loads(f'"{content}"', strict=False))
    except ValueError:
        return content
