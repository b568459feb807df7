"""Plain data -> YAML text that `strict_yaml` reads as the same data, with remarks at the ends of lines."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

import yaml

from genops_extauth.strict_yaml import Plain, Step

_COLUMN: Final = 44  # of remarks, where the line is not longer

# What means itself, in a block and in a list.
_BARE: Final = re.compile(r"[A-Za-z0-9/](?:[A-Za-z0-9._/:+%@-]*[A-Za-z0-9._/%@-])?", re.ASCII)
_NOTHING: Final = frozenset({"null", "Null", "NULL"})


def written(data: Mapping[str, Plain], remarks: Mapping[tuple[Step, ...], str]) -> str:
    """Write mappings as blocks, a blank line between those of the top, and lists in one line."""
    blocks = ("\n".join(_lines({key: value}, (), remarks)) for key, value in data.items())
    return "\n\n".join(blocks) + "\n"


def _lines(
    data: Mapping[str, Plain], above: tuple[Step, ...], remarks: Mapping[tuple[Step, ...], str]
) -> Iterator[str]:
    for key, value in data.items():
        path = (*above, key)
        start = f"{'  ' * len(above)}{_scalar(key)}:"
        block = isinstance(value, dict) and bool(value)
        line = start if block else f"{start} {_flow(value)}"
        yield f"{line:<{_COLUMN}}  # {remarks[path]}" if path in remarks else line
        if isinstance(value, dict):
            yield from _lines(value, path, remarks)


def _flow(value: Plain) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return "null" if value is None else _scalar(value)


def _scalar(text: str) -> str:
    if _BARE.fullmatch(text) and text not in _NOTHING:
        return text
    # What it writes for one quoted text is that text in one line, and a line break.
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9)
    return quoted.rstrip("\n")
