"""What is wrong with a configuration, in words: pydantic's errors translated, in one place and one voice.

No message of pydantic is passed on, nor what it quotes: whatever stands in a wrong place may be a secret.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from genops_extauth.fields import CheckError, Section
from genops_extauth.strict_yaml import Node, Step

MAX_PROBLEMS = 100
"""Told at once: more than a screen of them are one mistake, and looking for likenesses takes time."""

_MAPPING = "write a mapping here (name: value)"
_MESSAGES = {
    "missing": "is required",
    "string_type": "write one value here, not a list or a mapping",
    "tuple_type": "write a list here, for example [a, b]",
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "model_type": _MAPPING,
}
UNTRANSLATED = "cannot be used"
"""Said of an error of pydantic that this module does not know; a test sees to it that there is none."""

_SECRET = re.compile(r"password|passwd|secret|token", re.IGNORECASE)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST_HINTED = 64  # characters of a key; none of ours is half as long

# A value is shown where it helps and cannot hurt: short, plain, and not where a secret stands by mistake.
_HARMLESS = re.compile(r"[A-Za-z0-9 ._/:+,-]{1,60}")
_NEVER_SHOWN = frozenset(
    {"url", "jwks_uri", "password_file", "sentinel_password_file", "public_key_env"}
    | {"secret_file", "secret_env", "digest_key_file", "digest_key_env"}
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. `path` is a setting, or ``env NAME``; `value` is what was written, where that is no secret."""

    path: str
    message: str
    file: str = ""
    line: int | None = None
    value: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        quoted = "" if self.value is None else json.dumps(self.value, ensure_ascii=False)
        return _printable(": ".join(filter(None, (place, self.path, quoted, self.message))))


class ConfigError(Exception):
    """Raised when a configuration cannot be used; `problems` are all that was found, in the order of the file."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def spelled(path: tuple[Step, ...]) -> str:
    """``identity.jwt[0].keys``."""
    spelling = ""
    for step in path:
        if isinstance(step, int):
            spelling += f"[{step}]"
        else:
            key = step if _PLAIN_KEY.fullmatch(step) else json.dumps(step[:_LONGEST_HINTED])
            spelling += f".{key}" if spelling else key
    return spelling


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at a path from the top. `quotable`: what stands there is a value where one belongs."""

    path: tuple[Step, ...]
    message: str
    quotable: bool = False

    def at(self, file: str, root: Node) -> Problem:
        """Place the finding in the file that it is about."""
        nodes = root.trail(self.path)
        text = nodes[-1].value if len(nodes) > len(self.path) else None
        shown = (
            self.quotable and isinstance(text, str) and _HARMLESS.fullmatch(text) and _NEVER_SHOWN.isdisjoint(self.path)
        )
        line = nodes[-1].line if len(nodes) > 1 else None
        return Problem(spelled(self.path), self.message, file, line, str(text) if shown else None)


def findings(error: ValidationError, root: type[Section]) -> list[Finding]:
    """Translate what pydantic found, at most `MAX_PROBLEMS`. `root` is the section that was validated."""
    details = error.errors(include_url=False)[:MAX_PROBLEMS]
    return [finding for each in details for finding in _findings(each, root)]


def _findings(details: ErrorDetails, root: type[Section]) -> Iterator[Finding]:
    path = tuple(step for step in details["loc"] if step != "[key]")  # pydantic's mark of a mapping's key
    context: Mapping[str, object] = details.get("ctx", {})
    cause = context.get("error")
    if details["type"] == "extra_forbidden":
        yield Finding(path, _unknown(str(path[-1]), _section_at(path[:-1], root)))
    elif isinstance(cause, CheckError):
        yield from (Finding((*path, *below), message, quotable=True) for below, message in cause.complaints)
    elif details["input"] is None:
        yield Finding(path, "has no value; write one, or remove the line")
    elif isinstance(cause, ValueError):
        yield Finding(path, str(cause), quotable="[key]" not in details["loc"])  # a key's value is not what is wrong
    elif details["type"] == "literal_error":
        yield Finding(path, f"must be {str(context['expected']).replace(chr(39), '')}", quotable=True)
    else:
        yield Finding(path, _MESSAGES.get(details["type"], UNTRANSLATED))


def _unknown(key: str, section: type[Section]) -> str:
    if _SECRET.search(key):
        return "unknown key, and secrets do not belong into this file: use a *_file setting or an environment variable"
    names = [field.alias or name for name, field in section.model_fields.items()]
    close = get_close_matches(key, names, n=1) if len(key) <= _LONGEST_HINTED else []
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {hint}allowed here: {', '.join(names)}"


def _section_at(path: tuple[Step, ...], section: type[Section]) -> type[Section]:
    for step in path:
        inner = section.model_fields.get(str(step))
        section = (inner and _section_in(inner.annotation)) or section
    return section


def _section_in(annotation: object) -> type[Section] | None:
    """Find the section in a field's type: itself, or what its list or mapping holds."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _printable(text: str) -> str:
    """Escape what a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
