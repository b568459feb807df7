"""Hits on buckets and windows, a request's all together: the reference of what ``bucket.lua`` does with a group.

A group is all or nothing for what it takes. Whether it is granted follows from the roles of its hits (`Role`): a hit
that must fit and does not refuses it, and so do quotas that are all exhausted. A refused group takes nothing from any
bucket. A granted one takes each hit that fits; those that do not (in shadow mode, or one quota of several) take
nothing. Charges and refunds are no questions: they are always made, whatever becomes of the rest.

What a caller is told follows from one thing per hit, the level that it found, and the store's time (`answer`): so a
store has nothing to send but that.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from genops_extauth.bucket import EXACT, SECOND, Bucket, State
from genops_extauth.window import CalendarWindow, FixedWindow, SlidingWindow, Used

Meter = Bucket | FixedWindow | SlidingWindow | CalendarWindow
"""What counts: how much there is, and how it comes back."""

Found = tuple[int, ...]
"""What a hit found: the level in parts; in a sliding window, what was used in the window before, too."""


class Role(enum.IntEnum):
    """What a hit asks for; the numbers are those of ``bucket.lua``."""

    MUST = 1
    """Takes. Where it does not fit, the group is refused."""
    QUOTA = 2
    """Takes. Where none of the group's quotas fits, the group is refused (envoyproxy/ratelimit's quota_mode)."""
    MAY = 3
    """Takes where it fits, and refuses nothing (shadow mode)."""
    CHARGE = 4
    """Takes always, into debt where it must: the cost of what has happened already."""
    REFUND = 5
    """Gives back, at most to the full bucket."""


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """How one limit is kept beside the script, by everybody who stands between a request and the store.

    While the store cannot be used, a process grants `allowance` tokens of each bucket from its own memory; then the
    limit is `open_after` that, or closed. `lease` tokens at most are taken at once for later use; 0 asks for each.
    `remembered`: whether a refusal may be repeated without asking until it could be otherwise.
    """

    allowance: int = 0
    open_after: bool = False
    lease: int = 0
    remembered: bool = True


STRICT = Terms(remembered=False)
"""Ask for each hit, and refuse where nobody can be asked."""


# An enum's members are looked up slowly, and a named tuple's class calls a function written in Python: for every hit.
_MUST, _CHARGE = Role.MUST, Role.CHARGE
_made = tuple.__new__


class Hit(NamedTuple):
    """`cost` tokens asked of the bucket or window `key`.

    A hit that only `look`s asks whether they would fit, and takes nothing.
    """

    key: bytes
    meter: Meter
    cost: int
    role: Role = Role.MUST
    look: bool = False
    terms: Terms = STRICT


class Level(NamedTuple):
    """A bucket after a hit. `fits`: this hit passes, given what the hits before it in its group take.

    `remaining` is in whole tokens, never below 0. `reset` is in whole seconds, rounded up: where the hit fits, until
    the bucket is full; else until it would fit (until the bucket is full, where it never will), at least 1. `wait` is
    the latter in microseconds, 0 where it fits.
    """

    fits: bool
    remaining: int
    reset: int
    wait: int = 0


class Origin(enum.StrEnum):
    """Where an answer comes from."""

    STORE = "store"
    MEMORY = "memory"
    """A refusal that was repeated without asking the store."""
    LEASE = "lease"
    ALLOWANCE = "allowance"
    """The store could not be asked."""


_STORE = Origin.STORE


class Answer(NamedTuple):
    """What became of a group: `granted` or refused; `levels` stand one to one with the hits."""

    granted: bool
    levels: tuple[Level, ...]
    origin: Origin = _STORE


NOTHING_ASKED = Answer(granted=True, levels=())


@dataclass(slots=True)
class Book:
    """Buckets and windows kept in memory: the reference, and what decides while there is no store."""

    states: dict[bytes, State | Used] = field(default_factory=dict)

    def transact(self, hits: Sequence[Hit], now: int) -> Answer:
        """Do all that one group asks for, at `now` (microseconds). Hits on one key must have one meter."""
        found = {hit.key: _found(hit.meter, self.states.get(hit.key), now) for hit in hits}
        walk = _walk(hits, found, now)
        taking = {hit.key for hit in hits if not hit.look}
        for hit in {hit.key: hit for hit in hits}.values():
            before, after = found[hit.key][0], walk.levels[hit.key]
            state = hit.meter.stored(self.states.get(hit.key), before, after, now, asked=hit.key in taking)  # type: ignore[arg-type] # a key has one meter, and states of its kind
            if state is None:
                self.states.pop(hit.key, None)
            else:
                self.states[hit.key] = state
        return _answer(hits, found, walk, now)


def parts(hit: Hit) -> int:
    """The parts that `hit` is about; more than could be taken is one part more than that (`bucket`)."""
    meter = hit.meter
    asked, capacity = hit.cost * meter.part, meter.capacity
    if hit.role >= _CHARGE:
        return min(asked, EXACT if capacity else 0)  # What admits nothing has no debts.
    return asked if asked <= capacity else capacity + 1


def answer(hits: Sequence[Hit], found: Sequence[Found], now: int) -> Answer:
    """What a group is told, from what each of its hits found at `now` (microseconds, the store's)."""
    if len(hits) == 1 and hits[0].role is _MUST:  # Nearly always; the rest comes to the same, in twice the time.
        hit, at = hits[0], found[0]
        level, cost = at[0], parts(hit)
        fits = cost <= level
        left = level - cost if fits and not hit.look else level
        return _made(Answer, (fits, (_told(hit.meter, left, cost, at, now, fits=fits),), _STORE))
    plain = _all_must(hits, found, now)
    if plain is not None:
        return plain
    first: dict[bytes, Found] = {}
    for hit, at in zip(hits, found, strict=True):
        first.setdefault(hit.key, at)
    return _answer(hits, first, _walk(hits, first, now), now)


def _all_must(hits: Sequence[Hit], found: Sequence[Found], now: int) -> Answer | None:
    """What `_walk` comes to for the most of all groups, in half the time: each hit must fit, in a bucket of its own."""
    costs, granted = [], True
    for hit, at in zip(hits, found, strict=True):
        if hit.role is not _MUST:
            return None
        cost = parts(hit)
        costs.append(cost)
        if cost > at[0]:
            granted = False
    if len({hit.key for hit in hits}) < len(hits):
        return None
    levels = []
    for hit, at, cost in zip(hits, found, costs, strict=True):
        level = at[0]
        left = level - cost if granted and not hit.look else level
        levels.append(_told(hit.meter, left, cost, at, now, fits=cost <= level))
    return _made(Answer, (granted, tuple(levels), _STORE))


class _Walk(NamedTuple):
    """What became of each hit: whether it fits, the parts asked of its key up to it; and the levels after all."""

    granted: bool
    fits: list[bool]
    asked: list[int]
    levels: dict[bytes, int]


def _walk(hits: Sequence[Hit], found: Mapping[bytes, Found], now: int) -> _Walk:
    levels = {key: at[0] for key, at in found.items()}
    spared: dict[bytes, int] = {}  # the levels of what was taken from, had nothing been taken
    fits, asked, taken = [], [], dict.fromkeys(levels, 0)
    must, quotas = True, []
    for hit in hits:
        key, cost, level = hit.key, parts(hit), levels[hit.key]
        fit = hit.role >= Role.CHARGE or cost <= level
        fits.append(fit)
        asked.append(taken[key] + cost)
        if hit.role is Role.MUST:
            must = must and fit
        elif hit.role is Role.QUOTA:
            quotas.append(fit)
        if hit.look or not fit:
            continue
        if hit.role >= Role.CHARGE:
            top = _top(hit.meter, found[key], now)
            levels[key] = _moved(hit, cost, level, top)
            if key in spared:
                spared[key] = _moved(hit, cost, spared[key], top)
        else:
            spared.setdefault(key, level)
            levels[key] = level - cost
            taken[key] += cost
    granted = must and (not quotas or any(quotas))
    return _Walk(granted, fits, asked, levels if granted else levels | spared)


def _moved(hit: Hit, cost: int, level: int, top: int) -> int:
    if hit.role is Role.REFUND:
        return max(level, min(level + cost, top))
    return min(level, max(level - cost, hit.meter.capacity - EXACT))


def _answer(hits: Sequence[Hit], found: Mapping[bytes, Found], walk: _Walk, now: int) -> Answer:
    levels = (
        _told(hit.meter, walk.levels[hit.key], asked, found[hit.key], now, fits=fits)
        for hit, fits, asked in zip(hits, walk.fits, walk.asked, strict=True)
    )
    return Answer(walk.granted, tuple(levels))


def _told(meter: Meter, left: int, asked: int, found: Found, now: int, *, fits: bool) -> Level:
    remaining = left // meter.part if left > 0 else 0
    if fits:
        reset = -(-meter.full(left, now, found) // SECOND) if left < meter.capacity else 0
        return _made(Level, (fits, remaining, reset, 0))
    # What no bucket of this size can hold (`asked`, with the hits before it) waits until it is full.
    fitting = asked <= meter.capacity
    wait = meter.wait(asked - left, now, (left, *found[1:])) if fitting else meter.full(left, now, found)
    return Level(fits, remaining, max(1, -(-wait // SECOND)), max(1, wait))


def _found(meter: Meter, state: State | Used | None, now: int) -> Found:
    level = meter.level(state, now)  # type: ignore[arg-type] # a key has one meter, and states of its kind
    if isinstance(meter, SlidingWindow):
        return level, meter.previous(state, now)  # type: ignore[arg-type] # as above
    return (level,)


def _top(meter: Meter, found: Found, now: int) -> int:
    return meter.top(found[1], now) if isinstance(meter, SlidingWindow) else meter.capacity
