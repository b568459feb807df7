"""Those who wait for a node, in order, and the batches that are made of them."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator

from genops_extauth.hits import Hit
from genops_extauth.redis_batch import Asked, Batch
from genops_extauth.redis_debts import Debts

BATCH = 128
"""Hits in one script, unless a single group has more. The server is busy for about 5 us with each: 0.6 ms."""


class Queue:
    """Who waits, and what is owed, which rides along. `slot` finds the slot of a key: a script is about one only."""

    def __init__(self, debts: Debts, slot: Callable[[bytes], int]) -> None:
        self._debts, self._slot = debts, slot
        self._waiting: deque[Asked] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Asked]:
        return iter(self._waiting)

    def join(self, asked: Asked) -> None:
        """Wait at the end of it."""
        self._waiting.append(asked)

    def clear(self) -> list[Asked]:
        """Send everybody away; they are returned."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    def batches(self, now: float) -> list[Batch]:
        """What goes with the next flight: one batch per slot. `now` is the event loop's time, in seconds."""
        if self._debts and (again := self._debts.again(now)):
            return [again]
        batches: dict[int, Batch] = {}
        room, waiting = BATCH, self._waiting
        while waiting and (room >= len(waiting[0].hits) or not batches):
            asked = waiting.popleft()
            if asked.answer.done():  # the caller has gone
                if not asked.charging:
                    continue
                asked.hits = asked.owing()
            key = -id(asked) if asked.alone else asked.slot
            batch = batches.get(key)
            if batch is None:
                batch = batches[key] = Batch()
            batch.add(asked)
            room -= len(asked.hits)
        if room > 0 and self._debts:
            for asked in self._owed(room):
                batches.setdefault(asked.slot, Batch()).add(asked)
        return list(batches.values())

    def _owed(self, room: int) -> Iterator[Asked]:
        by_slot: dict[int, list[Hit]] = {}
        for hit in self._debts.journal.take(room):
            by_slot.setdefault(self._slot(hit.key), []).append(hit)
        for slot, hits in by_slot.items():
            yield Asked(hits, math.inf, asyncio.get_running_loop().create_future(), charging=True, slot=slot)
