"""Windows: fixed, sliding and calendar, for limits that must count as periods do; the reference of ``bucket.lua``.

A token is one part. What is stored is what was used, so that a changed limit keeps it. The clock is the store's; where
it steps back, what was used stays used.

Over any interval of its own length a fixed window admits up to twice its limit, around an edge (envoyproxy/ratelimit's
known flaw), and a sliding window about its limit: it weighs the window before by the share of it that the last
length of time still covers. A calendar window is a fixed one whose edges are a calendar's.
"""

import math
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Used:
    """A window as stored: what was `used` in the one that began at `start` (microseconds), and in the one before it."""

    used: int
    start: int
    previous: int = 0


@dataclass(frozen=True, slots=True)
class FixedWindow:
    """`capacity` tokens in each `length` microseconds, counted from the Unix epoch."""

    capacity: int
    length: int  # microseconds
    part: ClassVar[int] = 1
    kind: ClassVar[int] = 2
    width: ClassVar[int] = 1

    @property
    def numbers(self) -> tuple[int, int, int]:
        """What the script is told of it."""
        return self.capacity, self.length, 0

    def level(self, state: Used | None, now: int) -> int:
        """What is left at `now` (microseconds); below 0 it is debt."""
        start = now - now % self.length
        return self.capacity - (state.used if state is not None and state.start >= start else 0)

    def stored(self, state: Used | None, before: int, after: int, now: int, *, asked: bool) -> Used | None:  # noqa: ARG002 - as a bucket's
        """What is stored once the level went from `before` to `after`."""
        return state if after == before else Used(self.capacity - after, now - now % self.length)

    def wait(self, _missing: int, now: int, _found: tuple[int, ...]) -> int:
        """Microseconds until the next window."""
        return self.length - now % self.length

    def full(self, _left: int, now: int, found: tuple[int, ...]) -> int:
        """Microseconds until all is there again."""
        return self.wait(0, now, found)


@dataclass(frozen=True, slots=True)
class CalendarWindow:
    """`capacity` tokens from `start` to `finish`, and as much again until `following`: microseconds since the epoch."""

    capacity: int
    start: int
    finish: int
    following: int
    part: ClassVar[int] = 1
    kind: ClassVar[int] = 4
    width: ClassVar[int] = 1

    @property
    def numbers(self) -> tuple[int, int, int]:
        """What the script is told of it."""
        return self.capacity, self.start, self.finish

    def level(self, state: Used | None, now: int) -> int:
        """What is left at `now` (microseconds); below 0 it is debt."""
        return self.capacity - (state.used if state is not None and state.start >= self._began(state, now) else 0)

    def stored(self, state: Used | None, before: int, after: int, now: int, *, asked: bool) -> Used | None:  # noqa: ARG002 - as a bucket's
        """What is stored once the level went from `before` to `after`."""
        return state if after == before else Used(self.capacity - after, self._began(state, now))

    def wait(self, _missing: int, now: int, _found: tuple[int, ...]) -> int:
        """Microseconds until the next window."""
        return max(1, (self.finish if now < self.finish else self.following) - now)

    def full(self, _left: int, now: int, found: tuple[int, ...]) -> int:
        """Microseconds until all is there again."""
        return self.wait(0, now, found)

    def _began(self, state: Used | None, now: int) -> int:
        """The window of `now`; or the next one, where a process whose clock is ahead has opened it."""
        return self.finish if now >= self.finish or (state is not None and state.start == self.finish) else self.start


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """About `capacity` tokens in any `length` microseconds, from two counters."""

    capacity: int
    length: int  # microseconds
    part: ClassVar[int] = 1
    kind: ClassVar[int] = 3
    width: ClassVar[int] = 2

    @property
    def numbers(self) -> tuple[int, int, int]:
        """What the script is told of it."""
        return self.capacity, self.length, 0

    def level(self, state: Used | None, now: int) -> int:
        """What is left at `now` (microseconds); below 0 it is debt."""
        used, previous = self._rolled(state, now)
        return self.capacity - used - self._weighed(previous, now)

    def previous(self, state: Used | None, now: int) -> int:
        """What was used in the window before that of `now`."""
        return self._rolled(state, now)[1]

    def top(self, previous: int, now: int) -> int:
        """The level at which nothing of the present window is used."""
        return self.capacity - self._weighed(previous, now)

    def stored(self, state: Used | None, before: int, after: int, now: int, *, asked: bool) -> Used | None:  # noqa: ARG002 - as a bucket's
        """What is stored once the level went from `before` to `after`."""
        if after == before:
            return state
        used, previous = self._rolled(state, now)
        return Used(used + before - after, now - now % self.length, previous)

    def wait(self, missing: int, now: int, found: tuple[int, ...]) -> int:
        """Microseconds until `missing` more are left."""
        left, previous = found
        end = now - now % self.length + self.length
        used = self.top(previous, now) - left
        room = self.capacity - used - (left + missing)
        if room >= 0:  # as the window before fades
            return max(1, end - room * self.length // previous - now) if previous else 1
        spare = max(0, self.capacity - (left + missing))
        return end + self.length - spare * self.length // max(1, used) - now

    def full(self, left: int, now: int, found: tuple[int, ...]) -> int:
        """Microseconds until all is there again, `left` being there."""
        end = now - now % self.length + self.length
        previous = found[1]
        return end - now + (self.length if left < self.top(previous, now) else 0)

    def _rolled(self, state: Used | None, now: int) -> tuple[int, int]:
        start = now - now % self.length
        if state is None or state.start < start - self.length:
            return 0, 0
        return (state.used, state.previous) if state.start >= start else (0, state.used)

    def _weighed(self, previous: int, now: int) -> int:
        # In doubles, and in this order, as Lua does.
        return math.ceil(previous * ((self.length - now % self.length) / self.length))


Window = FixedWindow | SlidingWindow | CalendarWindow
