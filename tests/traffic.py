"""Requests without pause, while a test breaks things."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stores import eventually

_CLIENTS = 2
"""As many requests are under way at a time."""
_ENOUGH = 3
"""Results of a kind that show that it was no accident."""


@dataclass(frozen=True)
class Seen:
    """One request: when it was sent, by time.monotonic; what kind it was, and what came of it."""

    sent: float
    kind: str
    result: object


@dataclass(frozen=True)
class Traffic:
    """What was seen so far, oldest answer first."""

    seen: list[Seen] = field(default_factory=list)

    def results(self, kind: str, *, since: float = 0.0, until: float = float("inf")) -> list[object]:
        """What came of the requests of a kind that were sent in a period."""
        return [each.result for each in self.seen if each.kind == kind and since <= each.sent < until]

    def wait(self, **results: object) -> None:
        """Wait until each kind has had its result a few times more, of requests sent from now on."""
        now = time.monotonic()
        eventually(
            lambda: all(self.results(kind, since=now).count(result) >= _ENOUGH for kind, result in results.items()),
            within=20,
        )


@contextlib.contextmanager
def traffic(**kinds: Callable[[], object]) -> Iterator[Traffic]:
    """Send requests of all kinds in turn, by several clients at once, for as long as the context.

    A kind's function sends one and returns what came of it. An exception is a result as well.
    """
    sent, over = Traffic(), threading.Event()

    def client() -> None:
        for kind, send in itertools.cycle(kinds.items()):
            if over.is_set():
                return
            now = time.monotonic()
            try:
                result = send()
            except Exception as error:  # noqa: BLE001 - a client whose thread dies would hide what went wrong
                result = error
            sent.seen.append(Seen(now, kind, result))

    threads = [threading.Thread(target=client) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        over.set()
        for thread in threads:
            thread.join()
