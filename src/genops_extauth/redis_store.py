"""The token buckets in Redis or Valkey, shared by all replicas: requests of one moment travel in one script call.

Rules
-----
- A request joins a queue; the first of a tick of the event loop schedules a flush. Up to `in_flight` scripts run at a
  time, and what arrives meanwhile goes with the next. Nobody waits for company.
- A request cancelled before its batch is sent is left out of it; afterwards the store completes it and its answer is
  dropped. A caller's cancellation never reaches a batch, for others ride in it.
- Each caller has an answer or `StoreUnavailable` within `timeout`, in the queue and on the wire together: a script has
  until the deadline of its oldest request, so those in the queue, who are younger, are taken before their own.
- A script that fails or is late fails all its requests, and no others. They are not asked again: the store may have
  counted them. So an outage can cost a customer tokens, and never lets one pass uncounted.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from genops_extauth.bucket import Answer, Hit, Operation
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_batch import Asked, Batch
from genops_extauth.redis_link import Link, kind_of, translated

BATCH = 128
"""Hits in one script, unless a single group has more. The server is busy for about 5 us with each: 0.6 ms."""

LONGEST = 1_000
"""Hits in one group: 5 ms of a server that serves nobody else meanwhile; a Lua call could take 8,000."""

WAITING = 4_096
"""Requests in the queue. One process answers fewer than 40,000 per second, 4,000 within the 0.1 s that they may wait: a
longer queue would hold only requests that fail, and memory (1 kB each)."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a store did so far. `failures` counts requests by kind: those of `redis_link.FAULTS`, overloaded, closed."""

    scripts: int
    requests: int
    hits: int
    waiting: int
    failures: Mapping[str, int]


class RedisStore:
    """Buckets behind `url` (``redis://``, ``unix://``, or ``host:port``; a `password` beside it wins).

    `timeout`, in seconds, is for a whole operation. Nothing is connected before the first one, and a broken
    connection is made again by the next, so that an outage ends by itself. Raises ValueError for a URL that we do not
    understand.
    """

    def __init__(self, url: str, *, password: str | None = None, timeout: float = 0.1, in_flight: int = 4) -> None:
        self._idle = [Link(url, password=password) for _ in range(in_flight)]
        self.address = self._idle[0].address
        """Where it is, without secrets."""
        self._timeout = timeout
        self._waiting: deque[Asked] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._flush_due = False
        self._closed = False
        self._scripts = self._requests = self._hits = 0
        self._failures: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"RedisStore({self.address})"

    async def acquire(self, hits: Sequence[Hit]) -> Answer:
        """Take all of `hits` or nothing. Raises StoreUnavailable in time; the store may still have counted them.

        Raises ValueError for more than `LONGEST` hits.
        """
        return await self._submit(Operation.ACQUIRE, hits) if hits else Answer(granted=True, levels=())

    async def peek(self, hits: Sequence[Hit]) -> Answer:
        """What `acquire` would answer, without taking anything. Raises as it does."""
        return await self._submit(Operation.PEEK, hits) if hits else Answer(granted=True, levels=())

    async def ping(self) -> None:
        """Run the script on no bucket, the way every request goes. Raises StoreUnavailable where that fails."""
        await self._submit(Operation.PEEK, ())

    async def close(self) -> None:
        """Answer what waits, within the timeout, and disconnect. What is asked later raises StoreUnavailable."""
        self._closed = True
        self._flush()
        while self._running:
            await asyncio.wait(self._running)
        for link in self._idle:
            await link.close()

    def statistics(self) -> Statistics:
        """What was done so far."""
        return Statistics(self._scripts, self._requests, self._hits, len(self._waiting), dict(self._failures))

    def _submit(self, operation: Operation, hits: Sequence[Hit]) -> asyncio.Future[Answer]:
        if len(hits) > LONGEST:
            raise ValueError(f"a request may hit at most {LONGEST} buckets, not {len(hits)}")
        if self._closed:
            raise self._refusal("closed", "this process is stopping; ask another")
        if len(self._waiting) >= WAITING:
            raise self._refusal(
                "overloaded", f"{WAITING} requests wait for it already; add replicas or look at its load"
            )
        loop = asyncio.get_running_loop()
        asked = Asked(operation, hits, loop.time() + self._timeout, loop.create_future())
        self._waiting.append(asked)
        if not self._flush_due:
            self._flush_due = True
            loop.call_soon(self._flush)
        return asked.answer

    def _flush(self) -> None:
        self._flush_due = False
        loop = asyncio.get_running_loop()
        while self._idle and (batch := self._next()).asked:
            task = loop.create_task(self._run(self._idle.pop(), batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next(self) -> Batch:
        batch = Batch()
        while self._waiting and (not batch.asked or batch.hits + len(self._waiting[0].hits) <= BATCH):
            asked = self._waiting.popleft()
            if not asked.answer.done():  # else cancelled
                batch.add(asked)
        return batch

    async def _run(self, link: Link, batch: Batch) -> None:
        self._scripts += 1
        self._requests += len(batch.asked)
        self._hits += batch.hits
        try:
            async with asyncio.timeout_at(batch.asked[0].deadline):
                reply = await link.call(batch.keys(), batch.numbers())
            batch.resolve(reply)
        except Exception as error:  # noqa: BLE001 - whatever it is, a defect of ours too, nobody may wait for ever
            self._fail(batch.asked, error)
            if kind_of(error) == "unreachable":
                for other in self._idle:  # a server that was restarted costs one batch, not one per connection
                    other.distrust()
        self._idle.append(link)
        self._flush()

    def _fail(self, asked: Iterable[Asked], error: Exception) -> None:
        kind = kind_of(error) or "defect"
        for each in asked:
            if each.answer.done():
                continue
            self._failures[kind] += 1
            # One exception per caller: each grows a traceback of its own.
            each.answer.set_exception(translated(error, self.address))

    def _refusal(self, kind: str, advice: str) -> StoreUnavailable:
        self._failures[kind] += 1
        return StoreUnavailable(f"{kind}: the store {self.address} is not asked: {advice}")
