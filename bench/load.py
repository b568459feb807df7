"""Load: as much as a server takes, or a fixed rate that waits for nobody.

At a fixed rate a request's latency runs from the moment when it should have been sent. A client that measures from the
moment when it got round to it hides the queue before the server (Gil Tene's "coordinated omission").
"""

import contextlib
import gc
import itertools
import math
import select
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.http2 import Connection, Question

Address = tuple[str, int]

CONNECTIONS = 4  # as performance measurements of the peers were made: 4 connections, 25 streams each
STREAMS = 25
UNLIMITED = 2**31  # what the server's settings allow
PATIENCE = 10.0  # seconds without any answer after which the server is taken for dead
READ = 262_144


@dataclass(frozen=True, slots=True)
class Result:
    """One run. `answered` counts right and wrong answers; `errors` the wrong ones and those that never came.

    `latencies` are seconds, sorted. `first_error` says what was wrong with the first wrong answer.
    """

    answered: int
    errors: int
    first_error: str
    seconds: float
    latencies: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """The latency in seconds that `percent` of the answers did not exceed (nearest rank); NaN without answers."""
        if not self.latencies:
            return math.nan
        return self.latencies[max(0, math.ceil(len(self.latencies) * percent / 100) - 1)]


class _Link:
    """A connection and its socket."""

    def __init__(self, address: Address, question: Question) -> None:
        self.connection = Connection(question)
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def flush(self) -> None:
        if self.connection.outgoing:
            self.socket.sendall(b"".join(self.connection.outgoing))
            self.connection.outgoing.clear()

    def read(self) -> bytes:
        data = self.socket.recv(READ)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data


class _Run:
    """Asks until `seconds` are over or `bodies` is exhausted, then waits for what is in flight."""

    def __init__(self, links: list[_Link], bodies: Iterable[bytes], seconds: float, rate: float, streams: int) -> None:
        self._links = {link.socket: link for link in links}
        self._turns = itertools.cycle(links)
        self._bodies = iter(bodies)
        self._body = next(self._bodies, None)
        # Every request is due at once when there is no rate, and as many go out as the streams allow.
        self._interval, self._streams = 1 / rate if rate else 0.0, streams
        self._begin = time.perf_counter()
        self._end = self._begin + seconds
        self._asked = 0
        self._latencies: list[float] = []
        self._problems: list[str] = []

    def run(self) -> Result:
        while self._asking() or self._in_flight():
            self._ask()
            if not self._collect():
                break
        answered = len(self._latencies)
        return Result(
            answered=answered,
            errors=len(self._problems) + self._asked - answered,
            first_error=self._problems[0] if self._problems else "no answer" if self._asked > answered else "",
            seconds=time.perf_counter() - self._begin,
            latencies=tuple(sorted(self._latencies)),
        )

    @property
    def _due(self) -> float:
        return self._begin + self._asked * self._interval

    def _asking(self) -> bool:
        return self._body is not None and (self._due if self._interval else time.perf_counter()) < self._end

    def _in_flight(self) -> int:
        return sum(link.connection.in_flight for link in self._links.values())

    def _ask(self) -> None:
        now = time.perf_counter()
        while self._due <= now and self._asking() and self._body is not None:
            link = self._with_room(len(self._body))
            if link is None:
                break
            link.connection.ask(self._body, self._due if self._interval else now)
            self._asked += 1
            self._body = next(self._bodies, None)
        for link in self._links.values():
            link.flush()

    def _with_room(self, body: int) -> _Link | None:
        for link in itertools.islice(self._turns, len(self._links)):
            if link.connection.has_room(self._streams, body):
                return link
        return None

    def _collect(self) -> bool:
        """Takes what has arrived. False when nothing came and nothing more is to be asked."""
        pause = max(0.0, self._due - time.perf_counter()) if self._interval and self._asking() else PATIENCE
        # select, not epoll: its timeout has microseconds, and epoll's milliseconds would be most of the latency.
        readable, _, _ = select.select(self._links, (), (), pause)
        for ready in readable:
            connection = self._links[ready].connection
            answers = connection.receive(self._links[ready].read())
            now = time.perf_counter()
            for answer in answers:
                self._latencies.append(now - answer.asked_at)
                if answer.problem:
                    self._problems.append(answer.problem)
        return bool(readable) or (bool(self._interval) and self._asking())


@contextlib.contextmanager
def _connected(address: Address, question: Question) -> Iterator[list[_Link]]:
    with contextlib.ExitStack() as stack:
        links = [_Link(address, question) for _ in range(CONNECTIONS)]
        for link in links:
            stack.enter_context(contextlib.closing(link.socket))
            link.flush()
            while not link.connection.ready:
                link.connection.receive(link.read())
        yield links


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # A full collection over some ten thousand prepared bodies would be the p99.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def saturate(
    address: Address, question: Question, bodies: Iterable[bytes], seconds: float, *, streams: int = STREAMS
) -> Result:
    """As many requests as the server answers with `CONNECTIONS` times `streams` of them in flight."""
    with _connected(address, question) as links, _no_garbage_collection():
        return _Run(links, bodies, seconds, 0, streams).run()


def steady(address: Address, question: Question, bodies: Iterable[bytes], seconds: float, rate: float) -> Result:
    """`rate` requests a second, evenly spaced, whether or not the server keeps up."""
    with _connected(address, question) as links, _no_garbage_collection():
        return _Run(links, bodies, seconds, rate, UNLIMITED).run()
