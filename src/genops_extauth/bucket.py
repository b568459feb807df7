"""Token bucket arithmetic: the reference that ``bucket.lua`` must equal, operation for operation.

Rules
-----
All numbers are whole: one token is `part` parts, and `refill` parts come back per tick of `tick` microseconds, both
cut down by their greatest common divisor. A bucket that nobody stored is full.

Lua counts in doubles, which are exact for whole numbers to 2^53. Three numbers could pass that, and none can do harm:

- ``elapsed * refill`` may be rounded, but then it is at least 2^53, more than any bucket can lack: the result is the
  capacity, exactly. So the test is ``elapsed * refill >= capacity - level``, and the sum is taken only where it is
  exact.
- a cost above the capacity never fits, so it is cut to ``capacity + 1`` parts before a script sees it.
- an operation that takes a bucket into debt must keep ``capacity - level`` at most 2^53.

The clock is the store's. Where it steps back nothing comes back for the time that repeats, and the bucket goes on
from the new time: nobody is locked out until the old time is reached again, and the step lets at most its own length
be refilled twice.

Time counts in whole ticks of that clock. With a tick of 1 us, which is what all but huge limits get, a bucket admits
at most ``burst + rate * t`` over any interval t of the clock; with a coarser tick, t is rounded up to whole ticks.

What a caller is told follows from one number per hit, the level that it found (`answer`): so a store has nothing to
send but that.
"""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXACT = 2**53
"""Whole numbers below this are exact in a double (IEEE 754 binary64: 53 bits of significand)."""

_SECOND = 1_000_000
_TICKS = (1, 1_000, _SECOND, 60 * _SECOND)
"""Microseconds, finest first. With a minute all limits of envoyproxy/ratelimit (2^32 - 1 per year) are exact."""


class Operation(enum.IntEnum):
    """What a group of hits asks for; the numbers are those of ``bucket.lua``."""

    ACQUIRE = 1
    """All or nothing: a refused group takes nothing from any bucket."""
    PEEK = 2
    """What `ACQUIRE` would answer; takes and stores nothing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A bucket in whole numbers: a token is `part` parts; `refill` parts come back per tick of `tick` microseconds."""

    capacity: int  # parts
    part: int  # parts per token
    refill: int  # parts per tick
    tick: int  # microseconds


@dataclass(frozen=True, slots=True)
class Hit:
    """`cost` tokens asked of the bucket `key`; 0 looks only."""

    key: bytes
    shape: Shape
    cost: int


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket after an operation. `fits`: this hit alone would pass, given what the hits before it in its group take.

    `remaining` is in whole tokens. `reset` is in whole seconds, rounded up: where the hit fits, until the bucket is
    full; else until it would fit (until the bucket is full, where it never will), at least 1.
    """

    fits: bool
    remaining: int
    reset: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a group of hits: `granted` all or none; `levels` stand one to one with the hits."""

    granted: bool
    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A bucket as stored: `level` of `capacity` parts, as of `updated` (microseconds, a whole number of ticks)."""

    level: int
    capacity: int
    updated: int


def shape(limit: int, period: int, burst: int | None = None) -> Shape:
    """`limit` tokens per `period` seconds, at most `burst` at once (by default `limit`). A limit of 0 admits nothing.

    Raises ValueError, with what to write instead, where no bucket can count that exactly.
    """
    if limit < 0 or period < 1 or (burst is not None and burst < 0):
        raise ValueError("write a limit and a burst of 0 or more, and a period of at least 1 second")
    if limit == 0:
        if burst:
            raise ValueError("a limit of 0 admits nothing: leave its burst out, or write a limit of at least 1")
        return Shape(capacity=0, part=1, refill=1, tick=1)  # a refill, so that no division is by zero
    size = limit if burst is None else burst
    candidates = [_counted(limit, period, size, tick) for tick in _TICKS if period * _SECOND % tick == 0]
    fitting = (each for each in candidates if max(each.capacity, each.refill) < EXACT)
    found = next(fitting, None)
    if found is None:
        raise ValueError(_too_large(limit, period, size, candidates[-1]))
    return found


def cost(hit: Hit) -> int:
    """The parts that `hit` asks for; more than the bucket holds is one part more than that (module docstring)."""
    return min(hit.cost * hit.shape.part, hit.shape.capacity + 1)


def level(shape: Shape, state: State | None, now: int) -> int:
    """The parts in a bucket at `now` (microseconds).

    A state stored under another capacity, before a reload that changed the limit, keeps its share of the bucket: a
    customer who had used half of the old limit has used half of the new one.
    """
    if state is None:
        return shape.capacity
    held = state.level
    if state.capacity != shape.capacity:
        held = math.floor(held / state.capacity * shape.capacity)  # in doubles here too, to round as Lua does
    elapsed = max(0, now // shape.tick - state.updated // shape.tick)
    if elapsed * shape.refill >= shape.capacity - held:
        return shape.capacity
    return held + elapsed * shape.refill


def acquire(states: Mapping[bytes, State], hits: Sequence[Hit], now: int) -> tuple[Answer, dict[bytes, State]]:
    """Take all of `hits`, or nothing. Returns the answer and the states to store, only those that change.

    Hits on one key must have one shape; their costs add up.
    """
    before = {hit.key: level(hit.shape, states.get(hit.key), now) for hit in hits}
    found, after = _walk(hits, before)
    told = answer(Operation.ACQUIRE, hits, found)
    kept = after if told.granted else before
    changed = {
        hit.key: State(kept[hit.key], hit.shape.capacity, now // hit.shape.tick * hit.shape.tick)
        for hit in hits
        if kept[hit.key] != before[hit.key] or _ahead(hit, states, now, before)
    }
    return told, changed


def peek(states: Mapping[bytes, State], hits: Sequence[Hit], now: int) -> Answer:
    """What `acquire` would answer, with each level as it is now."""
    found, _ = _walk(hits, {hit.key: level(hit.shape, states.get(hit.key), now) for hit in hits})
    return answer(Operation.PEEK, hits, found)


def answer(operation: Operation, hits: Sequence[Hit], found: Sequence[int]) -> Answer:
    """What a group is told, from the level (in parts) that each of its hits found."""
    if len(hits) == 1:  # Nearly always; what follows comes to the same, in twice the time.
        asked, fits = cost(hits[0]), cost(hits[0]) <= found[0]
        left = found[0] - asked if fits and operation is Operation.ACQUIRE else found[0]
        return Answer(fits, (_told(hits[0].shape, left, fits=fits, asked=asked),))
    costs = [cost(hit) for hit in hits]
    granted = all(map(int.__le__, costs, found))
    first: dict[bytes, int] = {}
    last: dict[bytes, int] = {}
    for hit, parts, at in zip(hits, costs, found, strict=True):
        first.setdefault(hit.key, at)
        last[hit.key] = at - parts
    kept = last if granted and operation is Operation.ACQUIRE else first
    levels = (
        _told(hit.shape, kept[hit.key], fits=parts <= at, asked=first[hit.key] - at + parts)
        for hit, parts, at in zip(hits, costs, found, strict=True)
    )
    return Answer(granted, tuple(levels))


def _counted(limit: int, period: int, burst: int, tick: int) -> Shape:
    ticks = period * _SECOND // tick
    divisor = math.gcd(limit, ticks)
    part = ticks // divisor
    return Shape(capacity=burst * part, part=part, refill=limit // divisor, tick=tick)


def _too_large(limit: int, period: int, burst: int, coarsest: Shape) -> str:
    asked = f"{burst} at once of {limit} per {period} s are too many to count exactly (2^53)"
    largest = (EXACT - 1) // coarsest.part
    if coarsest.refill < EXACT and largest > 0:
        return f"{asked}: write a burst of at most {largest}, or a rounder limit"
    return f"{asked}: write a smaller limit, or a shorter period"


def _walk(hits: Sequence[Hit], levels: Mapping[bytes, int]) -> tuple[list[int], dict[bytes, int]]:
    """The level that each hit finds, those before it having taken theirs, and the levels after all of them."""
    after = dict(levels)
    found = []
    for hit in hits:
        found.append(after[hit.key])
        if cost(hit) <= after[hit.key]:
            after[hit.key] -= cost(hit)
    return found, after


def _ahead(hit: Hit, states: Mapping[bytes, State], now: int, before: Mapping[bytes, int]) -> bool:
    """Whether the clock stepped back behind the state. It is stored anew even when refused: else it would lock out."""
    state = states.get(hit.key)
    return (
        state is not None
        and state.updated // hit.shape.tick > now // hit.shape.tick
        and (before[hit.key] < hit.shape.capacity)
    )


def _told(shape: Shape, left: int, *, fits: bool, asked: int) -> Level:
    remaining = max(0, left) // shape.part
    if fits:
        return Level(fits, remaining, _seconds(shape, shape.capacity - left))
    # What no bucket of this size can hold (`asked`, with the hits before it) waits until it is full.
    return Level(fits, remaining, max(1, _seconds(shape, min(asked, shape.capacity) - left)))


def _seconds(shape: Shape, missing: int) -> int:
    """Whole seconds, rounded up, until `missing` parts have come back."""
    ticks = -(-missing // shape.refill)
    return -(-ticks * shape.tick // _SECOND)
