"""What happens while the store cannot be used: each process decides by itself, within bounds.

Rules
-----
- Each request asks the store first, so an outage ends by itself. Where it has no answer in time, a process grants from
  its allowances (`allowance`), and then as the limit says: open or closed. There is always a verdict.
- What was granted is charged to the store, into debt where it must: it takes charges at any time, and makes each once
  when it can. So limits hold in the long run.
- An outage is over when the store answers. Allowances come back from then on, as their limits do: a store that fails
  and returns ten times a second renews none.
- A store that was late may have counted a request that was decided here. Then it is charged twice: an outage can cost
  customers tokens, it never gives them any.
- Memory is bounded: `MOST` buckets. Beyond that the limit's policy decides at once.

What a process may grant in one outage, and in any number of them over a stretch of time, is said in `allowance`.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from genops_extauth.allowance import Allowances
from genops_extauth.bucket import SECOND
from genops_extauth.gate import Store
from genops_extauth.hits import Answer, Hit, Origin, Role
from genops_extauth.model import StoreUnavailable

MOST = 100_000
"""Buckets of which one process keeps the allowance: 30 MB."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """How an outage goes, or did.

    `away`: whether the store had no answer the last time. Groups `granted` and `refused` here since the start,
    `buckets` whose allowance is not whole, as far as we know; hits that were `crowded` found no room for one.
    """

    away: bool
    granted: int
    refused: int
    buckets: int
    crowded: int


class Outage:
    """A store that always has a verdict. `clock` is monotonic, in seconds; `failed` is told of each failure.

    Charges and refunds are the inner store's own matter, whatever it raises. `settle` is to be called about once a
    second, and at the end.
    """

    def __init__(
        self, inner: Store, clock: Callable[[], float], *, failed: Callable[[StoreUnavailable], None], most: int = MOST
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._failed = failed
        self._allowances = Allowances(most)
        self._charging: set[asyncio.Task[None]] = set()
        self._usable = 0.0
        self._usable_since = clock()  # while not away
        self._away = False
        self._granted = self._refused = 0

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        """Ask the store, or decide. Raises StoreUnavailable only for charges and refunds that it cannot keep."""
        try:
            answer = await self._inner.transact(hits, within)
        except StoreUnavailable as error:
            self._fail(error)
            if all(hit.role >= Role.CHARGE for hit in hits):
                self._spend(hits)
                raise
            return self._decide(hits)
        if answer.origin is Origin.ALLOWANCE:  # charges, which the store makes when it can
            self._spend(hits)
        if self._away and answer.origin is Origin.STORE:
            self._away, self._usable_since = False, self._clock()
        return answer

    async def settle(self) -> None:
        """Wait for the charges that are under way, and forget a few of the allowances that are whole again."""
        if self._charging:
            await asyncio.wait(self._charging)
        self._allowances.sweep(self._usable_us())

    def statistics(self) -> Statistics:
        """Return the present figures."""
        allowances = self._allowances
        return Statistics(self._away, self._granted, self._refused, len(allowances), allowances.crowded)

    def _spend(self, hits: Sequence[Hit]) -> None:
        """Take charges from the allowances: who asks by looks is refused by nothing else."""
        charges = [hit for hit in hits if hit.role is Role.CHARGE and not hit.look]
        if charges:
            self._allowances.transact(charges, self._usable_us())

    def _decide(self, hits: Sequence[Hit]) -> Answer:
        answer = self._allowances.transact(hits, self._usable_us())
        if not answer.granted:
            self._refused += 1
            return answer
        self._granted += 1
        taken = [
            hit._replace(role=Role.CHARGE)
            for hit, level in zip(hits, answer.levels, strict=True)
            if hit.role < Role.CHARGE and level.fits and hit.cost and not hit.look
        ]
        if taken:
            # Nobody waits for it, and nobody can hang up on it.
            charging = asyncio.get_running_loop().create_task(self._charge(taken))
            self._charging.add(charging)
            charging.add_done_callback(self._charging.discard)
        return answer

    async def _charge(self, hits: Sequence[Hit]) -> None:
        with suppress(StoreUnavailable):  # The store counts what it cannot keep.
            await self._inner.transact(hits)

    def _fail(self, error: StoreUnavailable) -> None:
        if not self._away:
            self._usable += self._clock() - self._usable_since
            self._away = True
        self._failed(error)

    def _usable_us(self) -> int:
        """Microseconds that the store was usable so far."""
        present = 0.0 if self._away else self._clock() - self._usable_since
        return int((self._usable + present) * SECOND)
