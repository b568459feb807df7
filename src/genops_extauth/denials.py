"""Refusals remembered: what the store refused is refused here, without asking, until it could be otherwise.

Rules
-----
- What a bucket lacks comes back with time alone. So a refusal stands until the first of the hits that did not fit could
  fit, which the store tells. That is reckoned from when the question was sent, so it is never later than the truth.
- A refusal answers the same question only: the same hits, in the same roles, of the same limits. A reload makes others.
- Where more than time gives back, nothing is remembered: limits that allow refunds or are charged later say so
  (`Terms.remembered`), and those of which processes hold leases, as these are returned. A refund that passes here all
  the same ends what is remembered of its bucket, and what was asked before it ended is not remembered any more.
- Nobody is refused from memory for longer than `LONGEST`: then the store is asked again, which may have been emptied by
  hand, or be another one since a failover.

Neither charges nor refunds are ever answered here, and no grant is.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from genops_extauth.bucket import SECOND, Bucket
from genops_extauth.gate import Store
from genops_extauth.hits import Answer, Hit, Level, Meter, Origin, Role

LONGEST = 10.0
"""Seconds. One question in 10 s for each bucket that is refused all the time: nothing to a store."""

ENTRIES = 65_536
"""Refusals in memory: 40 MB, where they are of one hit. More clients than that are hardly refused at one time."""

_Question = tuple[object, ...]
# A global is looked up in a third of the time of an enum's member.
_REFUND = Role.REFUND
_MEMORY = Origin.MEMORY


@dataclass(frozen=True, slots=True)
class Statistics:
    """How many refusals are `remembered`, and how many were `repeated` since the start."""

    remembered: int
    repeated: int


class _Denial(NamedTuple):
    hits: tuple[Hit, ...]
    levels: tuple[Level, ...]
    sent: float
    until: float


class Denials:
    """A store whose refusals are remembered: at most `most`, the oldest goes first.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, inner: Store, clock: Callable[[], float], *, most: int = ENTRIES) -> None:
        self._inner = inner
        self._clock = clock
        self._most = most
        self._denied: OrderedDict[_Question, _Denial] = OrderedDict()
        self._refunded: dict[bytes, float] = {}
        self._refunded_before = -math.inf
        self._repeated = 0

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        """Refuse what is known to be refused, or ask. Raises as the inner store does."""
        if self._denied:
            repeated = self._repeated_to(hits)
            if repeated is not None:
                return repeated
        sent = self._clock()
        try:
            answer = await self._inner.transact(hits, within)
        finally:
            for hit in hits:
                if hit.role is _REFUND:
                    self._refund(hit.key)
        if not answer.granted:
            self._remember(hits, answer, sent)
        return answer

    def statistics(self) -> Statistics:
        """Return the present figures."""
        return Statistics(len(self._denied), self._repeated)

    def _repeated_to(self, hits: Sequence[Hit]) -> Answer | None:
        question = _question(hits)
        denial = self._denied.get(question)
        if denial is None:
            return None
        now = self._clock()
        # A refusal may be older than a refund that was done before it came, so when it was sent counts.
        if now >= denial.until or self._is_refunded(hits, denial.sent):
            del self._denied[question]
            return None
        if denial.hits != tuple(hits):
            return None
        self._repeated += 1
        elapsed = now - denial.sent
        levels = tuple([_later(level, elapsed) for level in denial.levels])
        return Answer(False, levels, _MEMORY)  # noqa: FBT003 - as its first field says; by name it takes twice the time

    def _remember(self, hits: Sequence[Hit], answer: Answer, sent: float) -> None:
        if answer.origin is not Origin.STORE or not all(_is_lasting(hit) for hit in hits):
            return
        pairs = zip(hits, answer.levels, strict=True)
        wait = min(level.wait - _slack(hit.meter) for hit, level in pairs if not level.fits)
        question = _question(hits)
        self._denied.pop(question, None)
        self._denied[question] = _Denial(tuple(hits), answer.levels, sent, sent + min(wait / SECOND, LONGEST))
        if len(self._denied) > self._most:
            self._denied.popitem(last=False)

    def _refund(self, key: bytes) -> None:
        if len(self._refunded) >= self._most:
            self._refunded.clear()
            self._refunded_before = self._clock()  # as if all had been refunded now
        self._refunded[key] = self._clock()

    def _is_refunded(self, hits: Sequence[Hit], since: float) -> bool:
        if not self._refunded:
            return False
        before = self._refunded_before
        return any(self._refunded.get(hit.key, before) >= since for hit in hits)


def _question(hits: Sequence[Hit]) -> _Question:
    if len(hits) == 1:
        hit = hits[0]
        return hit.key, hit.cost
    return tuple([(hit.key, hit.cost) for hit in hits])


def _is_lasting(hit: Hit) -> bool:
    return hit.role < Role.CHARGE and hit.terms.remembered and not hit.terms.lease


def _slack(meter: Meter) -> int:
    """Microseconds by which a wait may be too long: it counts whole ticks, and the present one may be nearly over."""
    return meter.tick if isinstance(meter, Bucket) else 1


def _later(level: Level, elapsed: float) -> Level:
    """Tell a level `elapsed` seconds later."""
    fits, remaining, reset, wait = level
    if fits:
        return Level(fits, remaining, max(0, reset - int(elapsed)))
    left = max(1, wait - round(elapsed * SECOND))
    return Level(fits, remaining, -(-left // SECOND), left)
