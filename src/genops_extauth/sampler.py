"""Thinning out equal log lines, so that a flood of refusals costs its counting only."""

import time
from collections.abc import Callable, Hashable

# zap's production configuration, which Kubernetes' controllers use too, has 100 and 100. One process refuses 12,000
# expired tokens a second, and with every 100th written the lines were a twentieth of its work.
_FIRST = 100
_THEREAFTER = 1000


class _Window:
    __slots__ = ("left_out", "second", "seen")

    def __init__(self) -> None:
        self.second = self.seen = self.left_out = 0


class Sampler:
    """Each second it admits the first lines of a kind, then every `thereafter`-th, or no more when that is 0.

    `clock` is in seconds. Kinds are few and named by us: they are kept for ever.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, first: int = _FIRST, thereafter: int = _THEREAFTER
    ) -> None:
        self._clock = clock
        self._first = first
        self._thereafter = thereafter
        self._windows: dict[Hashable, _Window] = {}

    def admit(self, kind: Hashable) -> int | None:
        """None: leave this line out. Else how many lines of its kind were left out since the last one."""
        window = self._windows.get(kind) or self._windows.setdefault(kind, _Window())
        second = int(self._clock())
        if window.second != second:
            window.second, window.seen = second, 0
        window.seen += 1
        if not self._in_turn(window.seen - self._first):
            window.left_out += 1
            return None
        left_out, window.left_out = window.left_out, 0
        return left_out

    def _in_turn(self, beyond: int) -> bool:
        return beyond <= 0 or (self._thereafter > 0 and beyond % self._thereafter == 0)
