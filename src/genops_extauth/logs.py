"""What a log line looks like: redacted, escaped, and JSON or, for a person, aligned text.

Every value of every line passes `clean`, whoever wrote it: a path may carry a token, a Host header may carry an escape
sequence for the terminal of whoever reads the log (CWE-117, CWE-150), and no call site has to remember that.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from genops_extauth.log_sink import LogSink
from genops_extauth.sampler import Sampler

Style = Literal["json", "console"]
Level = Literal["debug", "info", "warning", "error"]

LIMIT = 256
"""Characters of one value. Real paths and hosts are shorter; a flood of long ones must not fill the disk."""

_LOOKED_AT = 4 * LIMIT
_TRACEBACK_LINES = 40

# A JWT (its header is a JSON object, so it starts with the base64url of `{"`, or is at least three long
# runs of base64url), an API key, credentials with their scheme, and the password of a URL. Each is matched in one
# pass: the lines of an attacker must not cost more than their length.
_SECRETS = re.compile(
    r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*"
    r"|gxk_[0-9a-z]{16}_[0-9A-Za-z]+"
    r"|(?<![\w-])[\w-]{16,}\.[\w-]{16,}\.[\w-]{16,}"
    r"|(?P<scheme>(?<![A-Za-z0-9])(?:bearer|basic)\s+)[^\s\"',;]+"
    r"|(?P<user>://[^\s/@:]*:)[^\s/]+(?=@)",
    re.IGNORECASE,
)

_COLOURS = {"debug": "2", "info": "36", "warning": "33", "error": "31", "critical": "31;1"}
_EVENT_WIDTH = 12
_PLAIN = re.compile(r"[^\s\"'=]+")


def redact(text: str) -> str:
    """`text` without anything that looks like a credential."""
    return _SECRETS.sub(lambda found: f"{found['scheme'] or found['user'] or ''}[redacted]", text)


def clean(text: str) -> str:
    """`text` safe for a log and the terminal that shows it: redacted, printable, `LIMIT` characters at most.

    What does not print (control bytes, escape sequences, line ends, direction marks, lone surrogates) and the backslash
    become escapes of Python's, so that two texts never look the same.
    """
    text = redact(text[:_LOOKED_AT])
    if not text.isprintable() or "\\" in text:
        text = "".join(map(_escaped, text[: LIMIT + 1]))
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"


def _escaped(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _cleaned(value: object) -> object:
    return value if isinstance(value, int | float | None) else clean(str(value))


def _clean_traceback(text: str) -> str:
    # Indented, so that no line of it, which may quote a client, can pass for a line of the log.
    return "\n".join("  " + clean(line) for line in text.splitlines()[-_TRACEBACK_LINES:])


def _tidy(_: WrappedLogger, __: str, fields: EventDict) -> EventDict:
    """Order the fields, time and level first, and clean every value."""
    traceback = fields.pop("exception", None)
    first = {name: _cleaned(fields.pop(name)) for name in ("time", "level", "event")}
    rest = {name: _cleaned(value) for name, value in fields.items()}
    return {**first, **rest, **({"exception": _clean_traceback(str(traceback))} if traceback else {})}


def _to_json(_: WrappedLogger, __: str, fields: EventDict) -> str:
    return json.dumps(fields)


def _to_text(*, colours: bool) -> Processor:
    """`time level event key=value ...`, aligned up to the first key."""

    def paint(code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colours else text

    def quoted(value: object) -> str:
        text = str(value)
        # A value with a blank in it could otherwise pass for further fields: `path=/ verdict=allowed`.
        return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)

    def render(_: WrappedLogger, __: str, fields: EventDict) -> str:
        stamp, level, event = fields.pop("time"), fields.pop("level"), fields.pop("event")
        traceback = fields.pop("exception", None)
        head = [paint("2", stamp), paint(_COLOURS[level], f"{level:<8}"), paint("1", f"{event:<{_EVENT_WIDTH}}")]
        rest = [paint("2", f"{name}=") + quoted(value) for name, value in fields.items()]
        return " ".join(head + rest).rstrip() + (f"\n{traceback}" if traceback else "")

    return render


def _stamped(style: Style) -> Processor:
    if style == "json":
        return structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    return structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False, key="time")


def open_log(fd: int, *, style: Style = "json", level: Level = "info") -> tuple[LogSink, FilteringBoundLogger]:
    """Make a logger that writes to `fd`, and the sink to close at the end. structlog's global state stays as it is."""
    sink = LogSink(fd, recovered=lambda lines: log.warning("log_lines_dropped", lines=lines))
    render = _to_json if style == "json" else _to_text(colours=os.isatty(fd))
    log: FilteringBoundLogger = structlog.wrap_logger(
        sink,
        processors=[
            structlog.processors.add_log_level,
            _stamped(style),
            structlog.processors.format_exc_info,
            _tidy,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
    ).bind()
    return sink, log


class _Bridge(logging.Handler):
    """Hands records of the standard library to our log, thinned out: aiohttp tells every bad request's traceback."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._sampler = Sampler()

    def emit(self, record: logging.LogRecord) -> None:
        if self._sampler.admit(record.name) is None:
            return
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's bad format string; logging would print it, raw, to stderr
            text = "a message that cannot be formatted"
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write("library", logger=record.name, message=text, exc_info=record.exc_info)


@contextmanager
def standard_logging(log: FilteringBoundLogger) -> Iterator[None]:
    """While it is open, what libraries (grpc, aiohttp, asyncio, redis) log at warning and above goes to `log`."""
    bridge = _Bridge(log)
    root = logging.getLogger()
    root.addHandler(bridge)
    try:
        yield
    finally:
        root.removeHandler(bridge)
