"""Bytes -> the events of a YAML parser, everything that can be wrong with them said in one voice.

The events are made as they are asked for, so that whoever counts them can stop before memory is spent.
"""

from collections.abc import Iterator

import yaml

# libyaml where PyYAML was built with it (every wheel is): 1 MiB takes it a tenth of a second, Python ten.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UnreadableError(Exception):
    """Raised where reading cannot go on: on which line (from 1), why, and at which path where that is known."""

    def __init__(self, line: int, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.path = path


def decode(data: bytes, most: int) -> str:
    """The text of UTF-8 of at most so many bytes."""
    if len(data) > most:
        raise UnreadableError(1, f"the file is larger than {most} bytes; a Kubernetes ConfigMap could not hold it")
    try:
        return data.decode("utf-8-sig")  # Windows editors write a byte order mark.
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(line, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8") from None


def events(text: str) -> Iterator[yaml.Event]:
    """The parser's events, its errors translated. They are made as they are asked for."""
    try:
        yield from yaml.parse(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.encode().count(b"\n", 0, error.position) + 1
        raise UnreadableError(line, f"character U+{int(error.character):04X}: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        reason = " ".join(filter(None, (error.problem, error.context)))
        raise UnreadableError(line, f"not YAML: {reason}{_tab_hint(text, line)}") from None


def _tab_hint(text: str, line: int) -> str:
    lines = text.split("\n")
    indented = line <= len(lines) and lines[line - 1].lstrip(" ").startswith("\t")
    return "; indent with spaces, not tabs" if indented else ""


def line_of(event: yaml.Event) -> int:
    """Where it starts, from 1."""
    return event.start_mark.line + 1 if event.start_mark else 1
