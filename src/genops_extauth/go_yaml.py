"""What gopkg.in/yaml.v2 (2.4.0, resolve.go and decode.go) takes a scalar for, and how it names values in its errors.

envoyproxy/ratelimit's files are read with it: ``on`` is a boolean there, ``0x10`` and ``1_000`` are whole numbers, and
``010`` is 8. Whoever needs the text that was written has it anyway.
"""

import math
import re
from collections.abc import Mapping

from genops_extauth.strict_yaml import Node

Scalar = bool | int | float | str

_BOOLEANS = {
    spelling: value
    for value, words in ((True, ("y", "yes", "true", "on")), (False, ("n", "no", "false", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_SPECIAL = {
    spelling: value
    for value, words in ((math.nan, (".nan",)), (math.inf, (".inf", "+.inf")), (-math.inf, ("-.inf",)))
    for word in words
    for spelling in (word, word.replace("inf", "Inf").replace("nan", "NaN"), word.upper())
}
_WHOLE = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))", re.ASCII)
_BASES = (16, 2, 8, 10)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])_(?=[0-9])", re.ASCII)
_LONGEST = 400  # characters: the largest number of a double has 309 digits
_LONGEST_QUOTED = 64  # characters of what a file holds; go-yaml stops at 10, and Go's %v nowhere
_MOST_QUOTED = 8  # items

INTS = range(-(2**63), 2**63)
"""Go's int. Beyond it, whole numbers go on to 2^64, and then are floats."""


def resolved(text: str) -> Scalar:
    """The boolean, the number, or the text itself. Dates are text, as wherever go-yaml is not asked for a time."""
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _SPECIAL:
        return _SPECIAL[text]
    if not text or text[0] not in "+-.0123456789" or len(text) > _LONGEST:
        return text
    plain = _BETWEEN_DIGITS.sub("", text) if text[0] == "." else text.replace("_", "")
    whole = _WHOLE.fullmatch(plain)
    if whole is not None:
        base, digits = next((base, found) for base, found in zip(_BASES, whole.groups()[1:], strict=True) if found)
        number = int(whole[1] + digits, base)
        if INTS.start <= number < 2 * INTS.stop:
            return number
    if not _FLOAT.fullmatch(plain) or math.isinf(float(plain)):
        return text
    return float(plain)


def meant(node: Node) -> Scalar | None:
    """What a scalar is taken for: only where it is bare anything but text. None for null, lists and mappings."""
    if not isinstance(node.value, str):
        return None
    return resolved(node.value) if node.bare else node.value


def tagged(node: Node) -> str:
    """Name a value as ``cannot unmarshal !!str `many` into uint32`` does."""
    if isinstance(node.value, Mapping):
        return "!!map"
    if isinstance(node.value, tuple):
        return "!!seq"
    text = node.value or ""
    kind = {bool: "bool", int: "int", float: "float"}.get(type(meant(node)), "str")
    return f"!!{kind} `{text if len(text) <= 10 else text[:7] + '...'}`"  # noqa: PLR2004 - go-yaml's


def printed(node: Node) -> str:
    """Print a value as Go's ``%v`` does, shortened."""
    if node.value is None:
        return "<nil>"
    if isinstance(node.value, Mapping):
        items = [f"{cut(key)}:{printed(each)}" for key, each in list(node.value.items())[:_MOST_QUOTED]]
        return cut(f"map[{' '.join(items)}]")
    if isinstance(node.value, tuple):
        return cut(f"[{' '.join(printed(each) for each in node.value[:_MOST_QUOTED])}]")
    return as_go(meant(node))


def as_go(value: Scalar | None) -> str:
    """Print a scalar as Go's ``%v`` does, shortened."""
    return str(value).lower() if isinstance(value, bool) else cut(str(value))


def cut(text: str, most: int = _LONGEST_QUOTED) -> str:
    """As much of a text as an error shows."""
    return text if len(text) <= most else f"{text[:most]}..."
