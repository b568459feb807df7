"""The buckets in a Redis or Valkey Cluster: each request goes to the node that has its slot.

The map of slots is learned from any node, and again whenever a node sends us elsewhere (MOVED), fails, or says that the
cluster is down. A script is about one slot; those of one node travel together. Keys of one request share a slot where
they share a hash tag; a group over several slots is asked slot by slot, which is not atomic (`spread`).

While a slot moves from node to node (ASK, TRYAGAIN) its requests go one by one: a script with several keys runs only
where all of them are. Charges come with a key of their own, the mark, and so may have to wait until the slot has moved.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

import redis.exceptions as errors
from redis.crc import key_slot

from genops_extauth.cluster_map import SLOTS, place, told_by
from genops_extauth.hits import NOTHING_ASKED, Answer, Hit
from genops_extauth.journal import Owed
from genops_extauth.redis_batch import Asked, Batch
from genops_extauth.redis_faults import kind_of, translated
from genops_extauth.redis_habits import Habits, Layout
from genops_extauth.redis_link import connected
from genops_extauth.redis_node import Node
from genops_extauth.redis_store import waiting
from genops_extauth.spread import Part, Spread
from genops_extauth.store_address import Host, Target
from genops_extauth.store_statistics import Statistics, statistics

PAUSE = 0.25
"""Seconds between two looks at the map while a node fails: a failover takes a second at the least."""

AGAIN = 0.01
"""Seconds before a request is asked again whose slot is being moved."""

PATIENCE = 1.0
"""Seconds for a node to tell the map."""

SOME = 3
"""Nodes to be sent to without a pause."""


class RedisCluster:
    """Buckets in the cluster of which `target` names some nodes; all else as in `redis_store.RedisStore`."""

    def __init__(self, target: Target, habits: Habits) -> None:
        self.address = target.address
        """Where it is, without secrets."""
        self._target, self._habits = target, habits
        self._spread = Spread()
        self._nodes: dict[Host, Node] = {}
        self._own: dict[Host, int] = {}
        # Until the map is learned the first node is asked: it knows where to go.
        self._slots: list[Node] = [self._node(target.hosts[0])] * SLOTS
        self._learning: asyncio.Task[None] | None = None
        self._learned = asyncio.Event()
        self._leaving = False
        self._retiring: set[asyncio.Task[None]] = set()
        place(0)  # The table of places costs a moment: not while requests wait.

    def __repr__(self) -> str:
        return f"RedisCluster({self.address})"

    @property
    def usable(self) -> bool:
        """Whether all of its nodes are asked."""
        return all(node.usable for node in self._nodes.values())

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        """Do all that a group of hits asks for, as `RedisStore.transact` does; over several slots not at once."""
        if not hits:
            return NOTHING_ASKED
        slot = key_slot(hits[0].key)
        if any(key_slot(hit.key) != slot for hit in hits[1:]):
            return await self._spread.ask(hits, self._parts(hits), within)
        return await self._in_slot(slot, hits, within)

    async def ping(self) -> None:
        """Write something on every node. Raises StoreUnavailable where one fails."""
        if not self._learned.is_set():
            self._learn()
            with contextlib.suppress(TimeoutError):  # then those that it was told of are asked, and say what is wrong
                async with asyncio.timeout(self._habits.timeout):
                    await self._learned.wait()
        asked = []
        for host, node in list(self._nodes.items()):
            one = waiting((), self._habits.timeout, None)
            one.charging, one.slot = True, self._own.get(host, 0)
            node.ask(one)
            asked.append(one.answer)
        for error in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(error, BaseException):
                raise error

    def owed(self) -> Owed:
        """The charges and refunds that could not be made yet."""
        return self.statistics().owed

    async def close(self, grace: float = 0.0) -> Owed:
        """Answer what waits, settle within `grace` seconds what is owed, and disconnect. Returns what is lost."""
        await self._spread.close()
        self._leaving = True
        if self._retiring:
            await asyncio.wait(self._retiring)
        owed = Owed()
        for one in await asyncio.gather(*(node.close(grace) for node in self._nodes.values())):
            owed = owed.plus(one)
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait([self._learning])
        return owed

    def statistics(self) -> Statistics:
        """What was done so far."""
        return statistics(list(self._nodes.values()), self._habits)

    async def _in_slot(self, slot: int, hits: Sequence[Hit], within: float | None) -> Answer:
        if not self._learned.is_set():
            self._learn()
        asked = waiting(hits, self._habits.timeout, within)
        asked.slot = slot
        self._slots[slot].ask(asked)
        return await asked.answer

    def _parts(self, hits: Sequence[Hit]) -> list[Part]:
        by_slot: dict[int, list[int]] = {}
        for number, hit in enumerate(hits):
            by_slot.setdefault(key_slot(hit.key), []).append(number)
        return [Part(partial(self._in_slot, slot), numbers) for slot, numbers in by_slot.items()]

    def _node(self, host: Host) -> Node:
        node = self._nodes.get(host)
        if node is None:
            layout = Layout(key_slot, place, lambda: self._own.get(host, 0), partial(self._reroute, host))
            name = f"{self.address} at {host}"
            node = self._nodes[host] = Node(name, partial(connected, self._target, host), self._habits, layout)
        return node

    def _reroute(self, host: Host, batch: Batch, error: Exception) -> bool:
        """Take over a batch that `host` did not run, where another node may; what it did not run was not made."""
        if isinstance(error, errors.AskError):  # MOVED is one, too
            there = self._node(Host(error.host or host.name, error.port))
            asking = not isinstance(error, errors.MovedError)
            if not asking:
                self._slots[batch.asked[0].slot] = there
                self._learn()
            for asked in batch.asked:
                asked.alone = asked.asking = asking
            _ask_there(there, batch)
            return True
        if isinstance(error, errors.TryAgainError):
            self._try_again(batch, error)
            return True
        if kind_of(error) is not None:
            self._learn()
        return False

    def _try_again(self, batch: Batch, error: Exception) -> None:
        for asked in batch.asked:
            if asked.charging:
                asked.fail(translated(error, self.address))
            else:
                asked.alone = True
                asyncio.get_running_loop().call_later(AGAIN, self._again, asked)
        self._slots[batch.asked[0].slot].owe(batch)

    def _again(self, asked: Asked) -> None:
        if not asked.answer.done():
            asked.asking = False
            self._slots[asked.slot].ask(asked)

    def _learn(self) -> None:
        """Learn the map anew, unless that is under way."""
        if not self._leaving and (self._learning is None or self._learning.done()):
            self._learning = asyncio.get_running_loop().create_task(self._learn_all())

    async def _learn_all(self) -> None:
        while True:
            for host in dict.fromkeys((*self._nodes, *self._target.hosts)):
                with contextlib.suppress(errors.RedisError, OSError, ValueError):  # another may know
                    async with asyncio.timeout(PATIENCE):
                        told = await told_by(self._target, host)
                    self._adopt(told)
                    break
            await asyncio.sleep(PAUSE)
            if self.usable and self._learned.is_set():
                return

    def _adopt(self, ranges: Sequence[tuple[int, int, Host]]) -> None:
        """Take over a map, and move what waited for nodes that are no primaries any more."""
        self._own = {host: start for start, _, host in ranges}
        slots = [self._node(ranges[0][2])] * SLOTS  # Whom it leaves out is asked for by the first one's word.
        for start, end, host in ranges:
            slots[start : end + 1] = [self._node(host)] * (end + 1 - start)
        self._slots = slots
        self._learned.set()
        for host in self._nodes.keys() - self._own.keys():
            retiring = asyncio.get_running_loop().create_task(self._retire(self._nodes.pop(host)))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    async def _retire(self, node: Node) -> None:
        self._move(node)
        await node.close(0.0)
        self._move(node)  # what was on its way, and failed

    def _move(self, node: Node) -> None:
        asked, batches, hits = node.hand_over()
        for each in asked:
            self._slots[each.slot].ask(each)
        for batch in batches:
            self._slots[batch.asked[0].slot].owe(batch)
        for hit in hits:
            self._slots[key_slot(hit.key)].owe_hits([hit])


def _ask_there(node: Node, batch: Batch) -> None:
    if batch.sent > 1:  # It may have been made before, under its mark.
        node.owe(batch)
        return
    for asked in batch.asked:
        asked.moves += 1
        # Nodes that send us to each other, as after a failover, are not asked in a circle.
        asyncio.get_running_loop().call_later(AGAIN if asked.moves > SOME else 0.0, node.ask, asked)
