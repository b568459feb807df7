"""The buckets in Redis or Valkey, shared by all replicas, on one server or behind sentinels.

The rules of asking are those of `redis_node`, and what is asked those of `hits`.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from genops_extauth.hits import NOTHING_ASKED, Answer, Hit, Role
from genops_extauth.journal import Owed
from genops_extauth.redis_batch import Asked
from genops_extauth.redis_habits import Habits
from genops_extauth.redis_link import connected
from genops_extauth.redis_node import Node
from genops_extauth.sentinel import Sentinels
from genops_extauth.store_address import Kind, Target
from genops_extauth.store_statistics import Statistics, statistics

LONGEST = 1_000
"""Hits in one group: 5 ms of a server that serves nobody else meanwhile; a Lua call could take 8,000."""

_CHARGE = int(Role.CHARGE)


class RedisStore:
    """Buckets on the server of `target`, or on the primary that its sentinels name.

    Nothing is connected before the first operation, and an outage ends by itself.
    """

    def __init__(self, target: Target, habits: Habits) -> None:
        self.address = target.address
        """Where it is, without secrets."""
        self._habits = habits
        self._sentinels = Sentinels(target, self._moved) if target.kind is Kind.SENTINEL else None
        opening = partial(connected, target) if self._sentinels is None else self._sentinels.connect
        self._node = Node(target.address, opening, self._habits)

    def __repr__(self) -> str:
        return f"RedisStore({self.address})"

    @property
    def usable(self) -> bool:
        """Whether it is asked: False from some failures in a row until it answers a probe."""
        return self._node.usable

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        """Do all that a group of hits asks for, within as many seconds.

        Raises StoreUnavailable in time; what takes may have been counted all the same. Charges and refunds are this
        store's from now on, whatever it raises: they are made, once, as soon as it can be asked. A group of nothing
        else is then granted at once (`Origin.ALLOWANCE`). Raises ValueError for more than `LONGEST` hits.
        """
        if not hits:
            return NOTHING_ASKED
        asked = waiting(hits, self._habits.timeout, within)
        self._node.ask(asked)
        return await asked.answer

    async def ping(self) -> None:
        """Run the script and write something, the way every request goes. Raises StoreUnavailable where that fails."""
        asked = waiting((), self._habits.timeout, None)
        asked.charging = True  # of nothing; but its mark is written
        self._node.ask(asked)
        await asked.answer

    def owed(self) -> Owed:
        """The charges and refunds that could not be made yet."""
        return self._node.owed()

    async def close(self, grace: float = 0.0) -> Owed:
        """Answer what waits, settle within `grace` seconds what is owed, and disconnect.

        Returns what is lost. What is asked later raises StoreUnavailable.
        """
        owed = await self._node.close(grace)
        if self._sentinels is not None:
            await self._sentinels.close()
        return owed

    def statistics(self) -> Statistics:
        """What was done so far."""
        return statistics([self._node], self._habits)

    def _moved(self, primary: str) -> None:
        self._habits.tell(f"the primary of {self.address} is {primary} now")
        self._node.distrust()


def waiting(hits: Sequence[Hit], timeout: float, within: float | None) -> Asked:
    """A group that waits from now on, for `timeout` seconds, or for `within` where that is less."""
    if len(hits) > LONGEST:
        raise ValueError(f"a request may hit at most {LONGEST} buckets, not {len(hits)}")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (timeout if within is None or within > timeout else within)
    charging = False
    for hit in hits:  # a loop: any() of a generator costs half a microsecond
        if hit.role >= _CHARGE and not hit.look:
            charging = True
    return Asked(hits, deadline, loop.create_future(), charging)
