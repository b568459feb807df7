"""JSON that has one reading only (RFC 8259, and I-JSON, RFC 7493).

What another parser would forgive or resolve its own way (a member twice, half a surrogate pair, NaN, UTF-16) lets two
readers of one document see different things: what we admit, and what the upstream then does.
"""

import json
import re
from typing import NoReturn

# One without an end is taken whole: it would be looked for again from each quote in it otherwise (CWE-1333).
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_OBJECT = 8  # what an object costs, in list items: its members go through a call of ours
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class MalformedError(ValueError):
    """Raised when bytes are not in the one permitted form. The message never holds any of them."""


def parse_object(text: bytes, most: int) -> dict[str, object]:
    """Read an object. Raises `MalformedError`.

    `most` bounds its items, an object counting as eight: at 40 ns apiece it is what the event loop is held up for.
    Braces and commas inside of strings, as in a prompt with code in it, are not counted. Nesting is bounded by Python's
    recursion limit.
    """
    if _items(text) > most and _items(_STRING.sub(b'""', text)) > most:
        raise MalformedError("too many objects and values")
    try:
        characters = text.decode("utf-8")
        value = _DECODER.decode(characters)
        if _SURROGATE.search(characters):  # Only an escape can smuggle half a pair past the UTF-8 decoder.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except MalformedError:
        raise
    except (ValueError, RecursionError):  # JSON's own error quotes the document: it must not travel on.
        raise MalformedError("not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise MalformedError("not a JSON object")
    return value


def _items(text: bytes) -> int:
    return text.count(b"{") * _OBJECT + text.count(b"[") + text.count(b",")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):  # We would believe the last, the upstream perhaps the first.
        raise MalformedError("a member stands twice")
    return members


def _not_a_number(_literal: str) -> NoReturn:
    raise MalformedError("a number is not finite")


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_not_a_number)
