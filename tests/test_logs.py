import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import FilteringBoundLogger

from genops_extauth.logs import LIMIT, Level, Style, clean, open_log, redact, standard_logging

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl-_"

Write = Callable[[FilteringBoundLogger], object]
Logged = Callable[..., str]


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Logged]:
    """What a log of the given style and level holds after `write`."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)

    def run(write: Write, style: Style = "json", level: Level = "info") -> str:
        sink, log = open_log(fd, style=style, level=level)
        write(log)
        sink.close()
        return path.read_text("utf-8")

    yield run
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"got {TOKEN}.", "got [redacted]"),
        (f"/callback/{TOKEN}/x", "/callback/[redacted]/x"),
        (f"/v1/gxk_{'a1' * 8}_{'Zz9' * 16}x/y", "/v1/[redacted]/y"),
        ("gxk_a1a1a1a1a1a1a1a1 was rotated", "gxk_a1a1a1a1a1a1a1a1 was rotated"),
        ("Authorization: Bearer abc.def/ghi+=", "Authorization: Bearer [redacted]"),
        ("authorization: basic dXNlcjpwYXNz, next", "authorization: basic [redacted], next"),
        ("redis://user:p@ss@host:6379/0", "redis://user:[redacted]@host:6379/0"),
        ("rediss://:secret@host", "rediss://:[redacted]@host"),
        ("https://auth.example.com:443/keys", "https://auth.example.com:443/keys"),
        ("the eyJ of a storm", "the eyJ of a storm"),
        (f"/x/{TOKEN.replace('eyJ', 'ewoJ', 1)}{'a' * 72}", "/x/[redacted]"),
        ("inference.customers.example.com", "inference.customers.example.com"),
    ],
)
def test_redaction(text: str, redacted: str) -> None:
    """Tokens, credentials after their scheme, and passwords in URLs are taken out; the rest stays."""
    assert redact(text) == redacted


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("/v1/models", "/v1/models"),
        ("naïve 模型", "naïve 模型"),
        ("a\nlevel=info", "a\\nlevel=info"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("a\\nb", "a\\\\nb"),
        ("x" * LIMIT, "x" * LIMIT),
        ("x" * (LIMIT + 1), "x" * (LIMIT - 1) + "…"),
    ],
)
def test_cleaning(text: str, cleaned: str) -> None:
    """What does not print is spelled out, a backslash is doubled, and a long value is cut."""
    assert clean(text) == cleaned


@given(st.text(st.characters()) | st.text("\x00\x1b\n\r\\\u2028e", max_size=600))
def test_clean_is_safe(text: str) -> None:
    """Whatever comes in, one printable line of bounded length comes out."""
    cleaned = clean(text)
    assert cleaned.isprintable()
    assert len(cleaned) <= LIMIT


@given(st.text("\x00\x1b\n\\nx0b1é", max_size=40))
def test_clean_is_unambiguous(text: str) -> None:
    """Two texts that are not cut never look the same in the log: the original can be told from what is shown."""
    shown = re.sub(r"[^\x00-\x7f]", lambda found: f"\\u{ord(found[0]):04x}", clean(text))
    assert shown.encode("ascii").decode("unicode_escape") == text


@given(st.text(max_size=300), st.text("abcXYZ019-_", min_size=8, max_size=300), st.text(max_size=300))
def test_no_token_survives(before: str, payload: str, after: str) -> None:
    """No token of JSON Web Token shape is in a cleaned text, wherever it stood."""
    assert f"eyJ{payload}" not in clean(f"{before} eyJ{payload}.x.y {after}")


def test_json(logged: Logged) -> None:
    """A JSON line starts with time (UTC), level and event; numbers stay numbers, and the rest are clean texts."""
    fields = {"path": f"/a\n{TOKEN}", "seconds": 0.25, "ok": True, "tier": None, "list": ["x"]}
    line = json.loads(logged(lambda log: log.info("check", **fields)))
    assert list(line)[:3] == ["time", "level", "event"]
    assert abs((datetime.now(UTC) - datetime.fromisoformat(line.pop("time"))).total_seconds()) < 60
    assert line == {
        "level": "info",
        "event": "check",
        "path": "/a\\n[redacted]",
        "seconds": 0.25,
        "ok": True,
        "tier": None,
        "list": "['x']",
    }


def test_console(logged: Logged) -> None:
    """For a person a line is aligned text; a value that could pass for more fields is quoted; no colours in a file."""
    text = logged(lambda log: log.warning("check", path="/a verdict=allowed", reason="deadline"), style="console")
    assert re.fullmatch(r'\d\d:\d\d:\d\d\.\d+ warning  check        path="/a verdict=allowed" reason=deadline\n', text)


def test_console_cannot_be_forged(logged: Logged) -> None:
    """A client can neither begin a line of its own nor send an escape sequence to the terminal."""
    text = logged(lambda log: log.info("check", path="/\n12:00:00 info     check verdict=allowed\x1b[8m"), "console")
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_colours() -> None:
    """A terminal gets colours."""
    master, terminal = os.openpty()
    sink, log = open_log(terminal, style="console")
    log.error("check", reason="internal")
    sink.close()
    shown = os.read(master, 4096).decode()
    os.close(master)
    os.close(terminal)
    assert "\x1b[31merror   \x1b[0m" in shown


@pytest.mark.parametrize("style", ["json", "console"])
def test_traceback(logged: Logged, style: Style) -> None:
    """A traceback is logged without what looks like a token, each of its lines cut and marked as no line of the log."""
    with pytest.raises(ValueError, match="bad") as caught:
        raise ValueError(f"bad {TOKEN}\n12:00:00 info     check " + "y" * 1000)
    text = logged(lambda log: log.error("internal_error", exc_info=caught.value), style)
    traceback = json.loads(text)["exception"] if style == "json" else text.partition("\n")[2]
    assert "ValueError: bad [redacted]" in traceback
    assert TOKEN not in text
    assert all(line.startswith("  ") and len(line) <= LIMIT + 2 for line in traceback.splitlines())


def test_level(logged: Logged) -> None:
    """What is below the level is not logged."""

    def write(log: FilteringBoundLogger) -> None:
        log.debug("one")
        log.info("two")
        log.warning("three")

    assert [json.loads(line)["event"] for line in logged(write, level="warning").splitlines()] == ["three"]


def test_libraries(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library logs at warning and above goes into the log, redacted, and only while it is asked to."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own raise at a bad format
    library = logging.getLogger("grpc._cython.cygrpc")

    def write(log: FilteringBoundLogger) -> None:
        with standard_logging(log):
            library.info("quiet")
            library.warning("metadata %s", f"authorization: Bearer {TOKEN}")
            library.log(logging.ERROR + 5, "odd level")
            library.error("two %s", "few", "many")
        library.warning("afterwards")

    lines = [json.loads(line) for line in logged(write).splitlines()]
    assert [(line["level"], line["logger"], line["message"]) for line in lines] == [
        ("warning", "grpc._cython.cygrpc", "metadata authorization: Bearer [redacted]"),
        ("error", "grpc._cython.cygrpc", "odd level"),
        ("error", "grpc._cython.cygrpc", "a message that cannot be formatted"),
    ]


def test_library_flood(logged: Logged) -> None:
    """A library that floods its log, as aiohttp does when sent garbage, is thinned out."""
    library = logging.getLogger("aiohttp.server")

    def write(log: FilteringBoundLogger) -> None:
        with standard_logging(log):
            for _ in range(1000):
                library.error("Error handling request")

    # More than 100 where the loop saw a new second begin.
    assert logged(write).count("\n") in range(100, 500)


def test_instances_are_apart(tmp_path: Path) -> None:
    """Two logs in one process keep their own files, styles and levels."""
    paths = [tmp_path / "a", tmp_path / "b"]
    fds = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in paths]
    (sink_a, log_a), (sink_b, log_b) = open_log(fds[0], level="debug"), open_log(fds[1], style="console")
    for log in (log_a, log_b):
        log.debug("fine")
        log.info("coarse")
    for sink, fd in zip((sink_a, sink_b), fds, strict=True):
        sink.close()
        os.close(fd)
    assert [json.loads(line)["event"] for line in paths[0].read_text().splitlines()] == ["fine", "coarse"]
    assert re.fullmatch(r"\S+ info     coarse\n", paths[1].read_text())


def test_lost_lines_are_told() -> None:
    """When lines were lost and the log's reader is back, a line says how many."""
    reader, writer = os.pipe()
    sink, log = open_log(writer)
    while sink.statistics().dropped == 0:
        log.info("flood", text="x" * 200)
    os.set_blocking(writer, True)
    with os.fdopen(reader, "rb") as stream:
        for line in stream:
            told = json.loads(line)
            if told["event"] == "log_lines_dropped":
                break
    assert told["level"] == "warning"
    assert told["lines"] > 0
    sink.close()
    os.close(writer)
