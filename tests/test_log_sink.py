import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from genops_extauth.log_sink import LogSink
from stores import eventually


@dataclass
class Pipe:
    reader: int
    writer: int

    def read_until(self, condition: Callable[[], bool]) -> bytes:
        """Read what comes until the condition holds, and what is there then."""
        os.set_blocking(self.reader, False)
        parts: list[bytes] = []

        def done() -> bool:
            held = condition()
            with contextlib.suppress(BlockingIOError):
                while part := os.read(self.reader, 1 << 16):
                    parts.append(part)
            return held

        eventually(done)
        return b"".join(parts)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe(*os.pipe())
    yield made
    os.close(made.reader)
    os.close(made.writer)


def finished(sink: LogSink) -> Callable[[], bool]:
    """Whether a closed sink has written everything."""
    return lambda: not sink._writer.is_alive()


def stall(sink: LogSink) -> int:
    """Write until lines are dropped; returns how many were written."""
    for written in itertools.count():
        if sink.statistics().dropped:
            return written
        sink.write("x" * 1000)
    raise AssertionError


def ignore(_: int) -> None:
    """A listener to recoveries who does not care."""


def test_order(pipe: Pipe) -> None:
    """Lines are written whole, in order, and all of them before the sink is closed."""
    sink = LogSink(pipe.writer, ignore)
    for number in range(500):
        sink.write(f"line {number}")
    sink.close()
    assert pipe.read_until(finished(sink)).decode().splitlines() == [f"line {number}" for number in range(500)]
    assert sink.statistics().dropped == 0


def test_encoding(pipe: Pipe) -> None:
    """A text that is not Unicode is written with escapes rather than lost."""
    sink = LogSink(pipe.writer, ignore)
    sink.write("naïve \ud800")
    sink.close()
    assert pipe.read_until(finished(sink)) == "naïve \\ud800\n".encode()


async def test_stalled_reader_stops_nothing(pipe: Pipe) -> None:
    """While nobody reads the pipe the event loop goes on, memory stays bounded, and every lost line is counted."""
    sink = LogSink(pipe.writer, ignore, capacity=100)
    written = stall(sink)
    for _ in range(1000):
        sink.write("x" * 1000)
        await asyncio.sleep(0)
    statistics = sink.statistics()
    assert statistics.queued <= 100
    assert statistics.dropped > 0
    await asyncio.to_thread(sink.close, 0.01)
    data = await asyncio.to_thread(pipe.read_until, finished(sink))
    assert data.count(b"\n") == written + 1000 - sink.statistics().dropped


def test_recovery_is_told(pipe: Pipe) -> None:
    """When a stalled pipe moves again, the number of lines that were lost is told, once."""
    told: list[int] = []
    sink = LogSink(pipe.writer, told.append, capacity=100)
    stall(sink)
    for _ in range(10):
        sink.write("more")
    lost = sink.statistics().dropped
    pipe.read_until(lambda: sum(told) == lost)
    sink.write("calm")
    pipe.read_until(lambda: sink.statistics().queued == 0)
    sink.close()
    assert sum(told) == lost


def test_close_is_bounded(pipe: Pipe) -> None:
    """Closing waits for a stuck pipe no longer than it is told to."""
    sink = LogSink(pipe.writer, ignore, capacity=1000)
    stall(sink)
    started = time.monotonic()
    sink.close(timeout=0.05)
    assert time.monotonic() - started < 5
    assert sink._writer.is_alive()
    pipe.read_until(finished(sink))


def test_reader_gone(pipe: Pipe) -> None:
    """When the reader has gone, lines are counted as dropped and the process lives."""
    os.close(pipe.reader)
    pipe.reader = os.open(os.devnull, os.O_RDONLY)
    sink = LogSink(pipe.writer, ignore)
    sink.write("one")
    sink.close()
    assert sink.statistics().dropped == 1


def test_non_blocking_output(pipe: Pipe) -> None:
    """Output that somebody made non-blocking gets every line whole, as fast as it takes them."""
    os.set_blocking(pipe.writer, False)
    sink = LogSink(pipe.writer, ignore)
    lines = [f"{number} " + "x" * 2000 for number in range(200)]
    for line in lines:
        sink.write(line)
    sink.close(timeout=0.01)
    data = pipe.read_until(finished(sink))
    assert data.decode().splitlines() == lines


def test_closed(pipe: Pipe) -> None:
    """A line that comes after the end is counted as dropped, and closing again does nothing."""
    sink = LogSink(pipe.writer, ignore)
    sink.close()
    sink.write("late")
    sink.close()
    assert sink.statistics().dropped == 1
    assert pipe.read_until(finished(sink)) == b""
