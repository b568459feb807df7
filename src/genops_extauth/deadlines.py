"""The deadlines of all who wait, kept by one timer, which is set to the earliest: a timer for each would cost more."""

import asyncio
import math
from collections.abc import Callable

_TICK = 0.001
"""Seconds between two looks, at least: the event loop counts in milliseconds, and a look goes through all who wait."""


class Deadlines:
    """Calls `look` when the earliest deadline is over, at most a millisecond later.

    It is told the event loop's time, and returns the earliest deadline that is left.
    """

    def __init__(self, look: Callable[[float], float]) -> None:
        self._look = look
        self.next = math.inf
        """The earliest that is watched, on the event loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """Somebody waits until then, on the event loop's clock."""
        if deadline < self.next:
            self._set(deadline)

    def stop(self) -> None:
        """Look no more."""
        self._set(math.inf)

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.next = due
        self._timer = asyncio.get_running_loop().call_at(due, self._ring) if due < math.inf else None

    def _ring(self) -> None:
        now = asyncio.get_running_loop().time()
        self._set(max(self._look(now), now + _TICK))
