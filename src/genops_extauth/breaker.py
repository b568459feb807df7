"""A circuit breaker: after some failures in a row nobody is asked any more, until a probe was answered.

A store that does not answer costs each request its whole timeout. With the circuit open a request is told at once,
and the store is not held down by those who ask again.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

IN_A_ROW = 3
"""Failures that open it: one is a connection that broke, two are bad luck; a server that is gone fails every time."""

SHORTEST, LONGEST = 0.05, 1.0
"""Seconds before the first probe, and between later ones: doubled each time. Recovery is seen within a second."""


@dataclass(slots=True)
class Breaker:
    """Closed, it lets requests pass; open, none. `times` counts how often it opened."""

    closed: bool = True
    failures: int = 0
    times: int = 0

    def failed(self) -> bool:
        """Take note of a failure. True where this one opens the circuit."""
        self.failures += 1
        if not self.closed or self.failures < IN_A_ROW:
            return False
        self.closed = False
        self.times += 1
        return True

    def succeeded(self) -> bool:
        """Take note of an answer. True where this one closes the circuit."""
        self.failures = 0
        was_open, self.closed = not self.closed, True
        return was_open


def pause(failures: int) -> float:
    """Seconds to wait after so many failures before it is tried again."""
    return min(LONGEST, SHORTEST * 2.0 ** min(failures, 10))  # 2.0 ** 1024 would raise


def pauses() -> Iterator[float]:
    """Seconds to wait before each probe, without end."""
    return map(pause, itertools.count())
