"""Leases: a process takes tokens of a hot bucket ahead of their use, and serves what follows without asking.

Rules
-----
- What is served was taken from the store before. So a lease admits nothing that the bucket has not paid for; what moves
  is the time: over any interval t a bucket admits at most ``burst + rate * t`` and what processes held at its start
  (`Statistics.stranded`): `Terms.lease` each at most, and as much again that waits for `Leases.expire`.
- A process holds no more than the bucket's hits asked of it in the last `LIFE`, and no more than a `SHARE` of what is
  left: a bucket that is not hot, or nearly empty, is asked for each hit.
- Where half is spent, the next request takes as much again with its own tokens, while others go on with the rest. One
  asks at a time; whoever finds nothing left meanwhile asks for himself alone. Nobody waits for another.
- A lease ends `LIFE` after it was last filled, and when the limit changes. What is unspent is given back, once: where
  that fails it may have been done all the same, and doing it again could admit tokens twice.
- Only single hits on token buckets are served. A bucket that was taken from, and given back to later, never holds more
  than one that was left alone; a window does, if its period ended in between.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genops_extauth.bucket import Bucket
from genops_extauth.gate import Store
from genops_extauth.hits import Answer, Hit, Level, Origin, Role, Terms
from genops_extauth.model import StoreUnavailable

LIFE = 1.0
"""Seconds. Long for a hot bucket, and short enough that what a process that died held is no matter."""

SHARE = 10
"""Of what is left, one process takes a tenth: ten may take at once, and there is still something to ask for."""

KEYS = 4_096
"""Buckets with a lease. One process serves a few times ten thousand requests per second: more are not hot."""

_LEASE = Origin.LEASE  # a global is looked up in a third of the time of an enum's member
_AT_ONCE = 100  # returns in flight together; a store's queue holds thousands


@dataclass(frozen=True, slots=True)
class Statistics:
    """How leases do: `leased` buckets, and tokens: `stranded` are held now, the others are counts since the start.

    `lost` ones could not be given back.
    """

    leased: int
    stranded: int
    served: int
    returned: int
    lost: int


@dataclass(slots=True, eq=False)
class _Lease:
    """Of one bucket: `left` tokens until `until`, of the `size` it had when last filled; how much was asked of it."""

    meter: Bucket
    terms: Terms
    left: int = 0
    size: int = 0
    until: float = 0.0
    filling: int = 0
    remaining: int = 0  # in the store, as of its last answer
    reset: int = 0
    asked: int = 0  # since `began`
    asked_before: int = 0  # in the LIFE before
    began: float = 0.0

    def wanted(self, cost: int, now: float) -> None:
        """Take note of a request for `cost` tokens."""
        since = now - self.began
        if since >= LIFE:
            self.asked_before = self.asked if since < 2 * LIFE else 0
            self.asked, self.began = 0, now
        self.asked += cost

    def missing(self, hit: Hit) -> int:
        """How many tokens to take with `hit`'s own, so that the lease is as large as it should be."""
        demand = max(self.asked_before, self.asked - hit.cost)
        return max(0, min(hit.terms.lease, demand, self.remaining // SHARE) - self.left)

    def told(self, answer: Answer) -> None:
        """Take note of what the store said is left; of what others say nothing is leased."""
        level = answer.levels[0]
        self.remaining = level.remaining if answer.origin is Origin.STORE else 0
        self.reset = level.reset

    def is_idle(self, now: float) -> bool:
        """Whether nothing is held, and nothing was asked lately."""
        return not self.left and not self.filling and now - self.began >= 2 * LIFE


class Leases:
    """A store that takes ahead what limits allow (`Terms.lease`), of at most `most` buckets.

    `clock` is monotonic, in seconds. `expire` is to be called about once a second, `close` at the end.
    """

    def __init__(self, inner: Store, clock: Callable[[], float], *, most: int = KEYS) -> None:
        self._inner = inner
        self._clock = clock
        self._most = most
        self._leases: dict[bytes, _Lease] = {}
        self._returns: list[Hit] = []
        self._filling: set[asyncio.Task[Answer]] = set()
        self._closed = False
        self._served = self._returned = self._lost = 0

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        """Serve from a lease, or ask. Raises as the inner store does."""
        if len(hits) != 1 or not hits[0].terms.lease:
            return await self._inner.transact(hits, within)
        hit, now = hits[0], self._clock()
        lease = self._lease(hit, now)
        if lease is None:
            return await self._inner.transact(hits, within)
        lease.wanted(hit.cost, now)
        missing = 0 if lease.filling else lease.missing(hit)
        enough = lease.left >= hit.cost
        if enough and (not missing or lease.left - hit.cost >= lease.size // 2):
            return self._serve(lease, hit.cost)
        if missing:
            answer = await self._fill(lease, hit, missing, within)
            if answer.granted:
                return answer
            within = None if within is None else max(0.0, within - (self._clock() - now))
            if lease.left >= hit.cost:
                return self._serve(lease, hit.cost)
        answer = await self._inner.transact(hits, within)
        lease.told(answer)
        return answer

    async def expire(self) -> None:
        """Give back what was held for long enough."""
        now = self._clock()
        for key, lease in list(self._leases.items()):
            if now >= lease.until:
                self._give_back(key, lease)
            if lease.is_idle(now):
                del self._leases[key]
        await self._return()

    async def close(self) -> None:
        """Give back all that is held; from now on each hit is asked for."""
        self._closed = True
        while self._filling:
            await asyncio.wait(self._filling)
        for key, lease in self._leases.items():
            self._give_back(key, lease)
        self._leases.clear()
        await self._return()

    def statistics(self) -> Statistics:
        """Return the present figures; what is being asked for, and what waits to be given back, counts as held."""
        held = sum(lease.left + lease.filling for lease in self._leases.values())
        waiting = sum(hit.cost for hit in self._returns)
        return Statistics(len(self._leases), held + waiting, self._served, self._returned, self._lost)

    def _lease(self, hit: Hit, now: float) -> _Lease | None:
        """The lease for `hit`, which may be an empty one, or None where there can be none."""
        meter = hit.meter
        if self._closed or not isinstance(meter, Bucket) or hit.role is not Role.MUST or hit.look or not hit.cost:
            return None
        lease = self._leases.get(hit.key)
        if lease is not None and lease.meter is not meter and lease.meter != meter:
            self._give_back(hit.key, lease)
            del self._leases[hit.key]
            lease = None
        if lease is None:
            if len(self._leases) >= self._most:
                return None
            lease = self._leases[hit.key] = _Lease(meter, hit.terms)
        elif lease.left and now >= lease.until:
            self._give_back(hit.key, lease)
        return lease

    def _serve(self, lease: _Lease, cost: int) -> Answer:
        lease.left -= cost
        self._served += cost
        return Answer(True, (_level(lease),), _LEASE)  # noqa: FBT003 - as its first field says; by name it takes longer

    async def _fill(self, lease: _Lease, hit: Hit, missing: int, within: float | None) -> Answer:
        """Take `missing` tokens with those of `hit`, all or nothing."""
        # In a task: a caller who hangs up must not leave tokens behind that were taken and belong to nobody.
        lease.filling = missing
        task = asyncio.get_running_loop().create_task(self._filled(lease, hit, missing, within))
        self._filling.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def _filled(self, lease: _Lease, hit: Hit, missing: int, within: float | None) -> Answer:
        try:
            answer = await self._inner.transact((hit._replace(cost=hit.cost + missing),), within)
        finally:
            lease.filling = 0
        lease.told(answer)
        if not answer.granted:
            return answer
        lease.left += missing
        lease.size, lease.until = lease.left, self._clock() + LIFE
        if self._leases.get(hit.key) is not lease:  # The limit changed meanwhile.
            self._give_back(hit.key, lease)
        return answer._replace(levels=(_level(lease),))

    def _done(self, task: asyncio.Task[Answer]) -> None:
        self._filling.discard(task)
        if not task.cancelled():
            task.exception()  # The caller, if he is still there, is told; nobody else asks.

    def _give_back(self, key: bytes, lease: _Lease) -> None:
        if lease.left:
            self._returns.append(Hit(key, lease.meter, lease.left, Role.REFUND, terms=lease.terms))
            lease.left = 0

    async def _return(self) -> None:
        while self._returns:
            some, self._returns = self._returns[:_AT_ONCE], self._returns[_AT_ONCE:]
            await asyncio.shield(asyncio.gather(*(self._return_one(hit) for hit in some)))

    async def _return_one(self, hit: Hit) -> None:
        try:
            await self._inner.transact((hit,))
        except StoreUnavailable:
            self._lost += hit.cost
        else:
            self._returned += hit.cost


def _level(lease: _Lease) -> Level:
    return Level(True, lease.remaining + lease.left, lease.reset)  # noqa: FBT003 - as above
