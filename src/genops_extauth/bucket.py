"""Token bucket arithmetic: the reference that ``bucket.lua`` must equal, operation for operation.

Rules
-----
All numbers are whole: one token is `part` parts, and `refill` parts come back per tick of `tick` microseconds, both
cut down by their greatest common divisor. A bucket that nobody stored is full.

Lua counts in doubles, which are exact for whole numbers to 2^53. Three numbers could pass that, and none can do harm:

- ``elapsed * refill`` may be rounded, but then it is at least 2^53, more than any bucket can lack: the result is the
  capacity, exactly. So the test is ``elapsed * refill >= capacity - level``, and the sum is taken only where it is
  exact.
- what is taken from a bucket and cannot fit is cut to ``capacity + 1`` parts before a script sees it (`parts`).
- a debt ends where ``capacity - level`` is 2^53: thousands of years of refill, for every limit that there can be.

The clock is the store's. Where it steps back nothing comes back for the time that repeats, and the bucket goes on
from the new time: nobody is locked out until the old time is reached again, and the step lets at most its own length
be refilled twice.

Time counts in whole ticks of that clock. With a tick of 1 us, which is what all but huge limits get, a bucket admits
at most ``burst + rate * t`` over any interval t of the clock; with a coarser tick, t is rounded up to whole ticks.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

EXACT = 2**53
"""Whole numbers below this are exact in a double (IEEE 754 binary64: 53 bits of significand)."""

SECOND = 1_000_000
_TICKS = (1, 1_000, SECOND, 60 * SECOND)
"""Microseconds, finest first. With a minute all limits of envoyproxy/ratelimit (2^32 - 1 per year) are exact."""


@dataclass(frozen=True, slots=True)
class State:
    """A bucket as stored: `level` of `capacity` parts, as of `updated` (microseconds, a whole number of ticks)."""

    level: int
    capacity: int
    updated: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket in whole numbers.

    A token is `part` parts; `refill` parts come back per tick of `tick` microseconds, up to `capacity` parts.
    """

    capacity: int  # parts
    part: int  # parts per token
    refill: int  # parts per tick
    tick: int  # microseconds
    kind: ClassVar[int] = 1
    width: ClassVar[int] = 1

    @property
    def numbers(self) -> tuple[int, int, int]:
        """What the script is told of it."""
        return self.capacity, self.refill, self.tick

    def level(self, state: State | None, now: int) -> int:
        """The parts in it at `now` (microseconds).

        A state stored under another capacity, before a reload that changed the limit, keeps its share of the bucket: a
        customer who had used half of the old limit has used half of the new one.
        """
        if state is None or state.capacity == 0:  # Of a limit of 0, which admitted nothing, there is nothing to keep.
            return self.capacity
        held = state.level
        if state.capacity != self.capacity:
            # In doubles here too, to round as Lua does; a debt ends under the new limit where any debt ends.
            held = max(math.floor(held / state.capacity * self.capacity), self.capacity - EXACT)
        elapsed = max(0, now // self.tick - state.updated // self.tick)
        if elapsed * self.refill >= self.capacity - held:
            return self.capacity
        return held + elapsed * self.refill

    def stored(self, state: State | None, before: int, after: int, now: int, *, asked: bool) -> State | None:
        """What is stored once the level went from `before` to `after`; `asked`: by what takes, not by a look alone.

        None is a full bucket, of which nothing is kept. Where the clock stepped back behind the state it is stored anew
        even when refused: else it would lock out.
        """
        if after >= self.capacity:
            return None if after != before else state
        ahead = asked and state is not None and state.updated // self.tick > now // self.tick
        if after == before and not ahead:
            return state
        return State(after, self.capacity, now // self.tick * self.tick)

    def wait(self, missing: int, _now: int, _found: tuple[int, ...]) -> int:
        """Microseconds until `missing` parts have come back; up to a tick more, as one has begun already."""
        return -(-missing // self.refill) * self.tick

    def full(self, left: int, _now: int, _found: tuple[int, ...]) -> int:
        """Microseconds until it is full again, `left` parts being in it."""
        return -((left - self.capacity) // self.refill) * self.tick


def bucket(limit: int, period: int, burst: int | None = None) -> Bucket:
    """`limit` tokens per `period` seconds, at most `burst` at once (by default `limit`). A limit of 0 admits nothing.

    Raises ValueError, with what to write instead, where no bucket can count that exactly.
    """
    if limit < 0 or period < 1 or (burst is not None and burst < 0):
        raise ValueError("write a limit and a burst of 0 or more, and a period of at least 1 second")
    if limit == 0:
        if burst:
            raise ValueError("a limit of 0 admits nothing: leave its burst out, or write a limit of at least 1")
        return Bucket(capacity=0, part=1, refill=1, tick=1)  # a refill, so that no division is by zero
    size = limit if burst is None else burst
    candidates = [_counted(limit, period, size, tick) for tick in _TICKS if period * SECOND % tick == 0]
    fitting = (each for each in candidates if max(each.capacity, each.refill) < EXACT)
    found = next(fitting, None)
    if found is None:
        raise ValueError(_too_large(limit, period, size, candidates[-1]))
    return found


def _counted(limit: int, period: int, burst: int, tick: int) -> Bucket:
    ticks = period * SECOND // tick
    divisor = math.gcd(limit, ticks)
    part = ticks // divisor
    return Bucket(capacity=burst * part, part=part, refill=limit // divisor, tick=tick)


def _too_large(limit: int, period: int, burst: int, coarsest: Bucket) -> str:
    asked = f"{burst} at once of {limit} per {period} s are too many to count exactly (2^53)"
    largest = (EXACT - 1) // coarsest.part
    if coarsest.refill < EXACT and largest > 0:
        return f"{asked}: write a burst of at most {largest}, or a rounder limit"
    return f"{asked}: write a smaller limit, or a shorter period"
