"""Which store an address means; and limits per second in a store of their own."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from genops_extauth.cluster import RedisCluster
from genops_extauth.hits import Answer, Hit
from genops_extauth.journal import Owed
from genops_extauth.redis_habits import Habits
from genops_extauth.redis_store import RedisStore
from genops_extauth.spread import Part, Spread
from genops_extauth.store_address import Kind, Target
from genops_extauth.store_statistics import Statistics, added


class Store(Protocol):
    """Where buckets are: what `RedisStore` says of each holds for all."""

    address: str

    @property
    def usable(self) -> bool:
        """Whether it is asked."""

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        """Do all that a group of hits asks for. Raises StoreUnavailable."""

    async def ping(self) -> None:
        """Write something. Raises StoreUnavailable where that fails."""

    def owed(self) -> Owed:
        """The charges and refunds that could not be made yet."""

    def statistics(self) -> Statistics:
        """What was done so far."""

    async def close(self, grace: float = 0.0) -> Owed:
        """Settle within `grace` seconds, and disconnect. Returns what is lost."""


def store_at(target: Target, habits: Habits) -> Store:
    """The store at an address, which is none of an embedded one: that is started first, and has another."""
    kind = RedisCluster if target.kind is Kind.CLUSTER else RedisStore
    return kind(target, habits)


_SECOND = (b":tb1", b":fw1", b":sw1")
"""How the keys end of limits whose period is a second (`limits`)."""


class PerSecondStore:
    """Limits per second in `second`, all others in `store`. A group over both is not atomic (`spread`)."""

    def __init__(self, store: Store, second: Store) -> None:
        self.address = f"{store.address}, per second {second.address}"
        """Where they are, without secrets."""
        self._stores = (store, second)
        self._spread = Spread()

    def __repr__(self) -> str:
        return f"PerSecondStore({self.address})"

    @property
    def usable(self) -> bool:
        """Whether both are asked."""
        return all(store.usable for store in self._stores)

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        """Do all that a group of hits asks for."""
        numbers: tuple[list[int], list[int]] = ([], [])
        for number, hit in enumerate(hits):
            numbers[hit.key.endswith(_SECOND)].append(number)
        for store, mine in zip(self._stores, numbers, strict=True):
            if len(mine) == len(hits):
                return await store.transact(hits, within)
        parts = [Part(partial(store.transact), mine) for store, mine in zip(self._stores, numbers, strict=True)]
        return await self._spread.ask(hits, parts, within)

    async def ping(self) -> None:
        """Write something to both. Raises StoreUnavailable where that fails."""
        for store in self._stores:
            await store.ping()

    def owed(self) -> Owed:
        """The charges and refunds that could not be made yet."""
        return self.statistics().owed

    def statistics(self) -> Statistics:
        """The sum of both."""
        return added([store.statistics() for store in self._stores])

    async def close(self, grace: float = 0.0) -> Owed:
        """Settle within `grace` seconds, and disconnect. Returns what is lost."""
        await self._spread.close()
        first, second = await asyncio.gather(*(store.close(grace) for store in self._stores))
        return first.plus(second)
