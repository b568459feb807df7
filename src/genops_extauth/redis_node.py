"""One Redis or Valkey, and all who wait for it: requests of one moment travel in one script call.

Rules
-----
- A request joins a queue; the first of a tick of the event loop schedules a flush. Up to `in_flight` scripts run at a
  time, and what arrives meanwhile goes with the next. Nobody waits for company.
- A request whose caller has gone, or whose time was up, before its batch is sent is left out of it; afterwards the
  store completes it and its answer is dropped. A caller's cancellation never reaches a batch, for others ride in it.
- Each caller is answered by his deadline. One timer looks after all of them, set to the earliest.
- A script that fails or is late fails all its requests, and no others. What takes is not asked again: the store may
  have counted it. So an outage can cost a customer tokens, and never lets one pass uncounted.
- Charges and refunds are not dropped. Those that the store may have made are sent again under their old mark, with
  which the script makes them once; those that were never sent are kept in a journal, and ride with what comes later.
  An hour of both is as good as a second: a mark lives for a day.
- After a few failures in a row nobody is asked, until the store answered a probe (`breaker`).
"""

import asyncio
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from genops_extauth.breaker import SHORTEST, Breaker, pauses
from genops_extauth.deadlines import Deadlines
from genops_extauth.hits import Answer, Hit
from genops_extauth.journal import Owed
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_batch import Asked, Batch, Mark
from genops_extauth.redis_debts import Debts
from genops_extauth.redis_faults import kind_of, translated
from genops_extauth.redis_habits import ALONE, Habits, Layout
from genops_extauth.redis_link import Link, Opening
from genops_extauth.redis_queue import Queue

WAITING = 4_096
"""Requests in the queue. One process answers fewer than 40,000 per second, 4,000 within the 0.1 s that they may wait: a
longer queue would hold only requests that fail, and memory (1 kB each)."""

CONNECTING = 1.0
"""Seconds for a new connection: with TLS and a login it takes longer than an answer, and without one there is none."""


@dataclass(slots=True, eq=False)
class _Lane:
    """A connection, and the marks of the charges sent over it, one at a time: `name` and a growing `number`."""

    link: Link
    name: bytes
    number: int = 0


@dataclass(slots=True, eq=False)
class _Flight:
    """Batches on their way over a lane, until a deadline; `late` when it is over."""

    lane: _Lane
    batches: list[Batch]
    deadline: float = math.inf
    late: bool = False


class Node:
    """One server. `opening` connects to it; `address` is what messages call it."""

    def __init__(self, address: str, opening: Opening, habits: Habits, layout: Layout = ALONE) -> None:
        self.address = address
        self._habits, self._layout, self._counts = habits, layout, habits.counts
        self._idle = [_Lane(Link(opening), next(habits.names)) for _ in range(habits.in_flight)]
        self._debts = Debts()
        self._queue = Queue(self._debts, layout.slot)
        self._flights: dict[asyncio.Task[None], _Flight] = {}
        self._deadlines = Deadlines(self._look)
        self._breaker = Breaker()
        self._last = ""
        self._probing: asyncio.Task[None] | None = None
        self._flush_due = self._leaving = self._closed = False

    @property
    def usable(self) -> bool:
        """Whether it is asked: the circuit is closed."""
        return self._breaker.closed

    @property
    def opened(self) -> int:
        """How often the circuit opened."""
        return self._breaker.times

    @property
    def waiting(self) -> int:
        """How many requests are in the queue."""
        return len(self._queue)

    def owed(self) -> Owed:
        """The charges and refunds that the store has not answered for yet."""
        owed = self._debts.owed()
        for asked in self._all():
            owed.add(asked.owing())
        return owed

    def ask(self, asked: Asked) -> None:
        """Have a request answered, in time; where nobody can be asked, at once."""
        if self._leaving or not self._breaker.closed or len(self._queue) >= WAITING:
            self._forsake(asked, *self._why_not())
            return
        self._queue.join(asked)
        if asked.deadline < self._deadlines.next:
            self._deadlines.watch(asked.deadline)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def owe(self, batch: Batch) -> None:
        """Have the charges and refunds of a batch that failed made, under its mark, once."""
        loop = asyncio.get_running_loop()
        pause, dropped = self._debts.keep(batch, loop.time())
        self._drop(dropped)
        loop.call_later(pause, self._flush)

    def owe_hits(self, hits: Iterable[Hit]) -> list[Hit]:
        """Have charges and refunds made that were never sent. Returns what there is no room for, and what is lost."""
        dropped = list(hits) if self._closed else self._debts.write(hits)
        self._drop(dropped)
        return dropped

    def failed(self, batch: Batch, error: Exception) -> None:
        """Take note of a batch that failed: its requests fail with it, and its charges are kept."""
        kind = kind_of(error)
        for asked in batch.asked:
            # One exception per caller: each grows a traceback of its own.
            if asked.fail(translated(error, self.address)):
                self._counts.failures[kind or "defect"] += 1
        self.owe(batch)
        if kind in ("unreachable", "read_only"):
            self.distrust()  # a server that was restarted, or replaced, costs one batch, not one per connection
        if kind is not None and self._breaker.failed():
            self._open(kind, error)

    def distrust(self) -> None:
        """Connect anew before the next scripts: another connection broke, or it is another server now."""
        for lane in self._idle:
            lane.link.distrust()

    def hand_over(self) -> tuple[list[Asked], list[Batch], list[Hit]]:
        """Give away what waits here: requests, batches to be sent again, and what was never sent."""
        return self._queue.clear(), *self._debts.hand_over()

    async def close(self, grace: float) -> Owed:
        """Answer what waits, settle within `grace` seconds what is owed, and disconnect. Returns what is still owed."""
        self._leaving = True
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        self._flush()
        while self._flights or (self.owed() and loop.time() < until):
            self._debts.hurry()
            self._flush()
            await (asyncio.wait(self._flights) if self._flights else asyncio.sleep(SHORTEST / 2))
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
        self._deadlines.stop()
        lanes, self._idle = self._idle, []
        for lane in lanes:
            await lane.link.close()
        return self.owed()

    def _why_not(self) -> tuple[str, str]:
        if self._leaving:
            return "closed", "this process is stopping; ask another"
        if not self._breaker.closed:
            return "open", f"it failed {self._breaker.failures} times in a row ({self._last}); a probe goes on asking"
        return "overloaded", f"{WAITING} requests wait for it already; add replicas or look at its load"

    def _forsake(self, asked: Asked, kind: str, advice: str) -> None:
        """Answer without the store, and keep what must be charged."""
        error = StoreUnavailable(f"{kind}: the store {self.address} is not asked: {advice}")
        lost = self.owe_hits(asked.owing())
        if asked.fail(error, lost=bool(lost)):
            self._counts.failures[kind] += 1

    def _drop(self, hits: Sequence[Hit]) -> None:
        if hits:
            if not self._counts.dropped:
                self._habits.tell(f"the store {self.address} cannot be charged for so long that some charges are lost")
            self._counts.dropped.add(hits)

    def _all(self) -> Iterator[Asked]:
        flying = (batch.asked for flight in self._flights.values() for batch in flight.batches)
        return itertools.chain(self._queue, *flying)

    def _look(self, now: float) -> float:
        due = math.inf
        for task, flight in self._flights.items():
            if flight.deadline > now:
                due = min(due, flight.deadline)
            elif not flight.late:
                flight.late = task.cancel()
        for asked in self._all():
            if asked.answer.done():
                continue
            if asked.deadline > now:
                due = min(due, asked.deadline)
            elif asked.fail(translated(TimeoutError(), self.address)):
                self._counts.failures["timeout"] += 1
        return due

    def _flush(self) -> None:
        self._flush_due = False
        loop = asyncio.get_running_loop()
        while self._idle and self._breaker.closed and (batches := self._queue.batches(loop.time())):
            self._fly(self._idle.pop(), batches)

    def _fly(self, lane: _Lane, batches: list[Batch]) -> asyncio.Task[None]:
        flight = _Flight(lane, batches)
        task = asyncio.get_running_loop().create_task(self._run(flight))
        self._flights[task] = flight
        task.add_done_callback(self._flights.pop)
        return task

    async def _run(self, flight: _Flight) -> None:
        lane, batches = flight.lane, flight.batches
        self._mark(lane, batches)
        replies: Sequence[bytes | Exception]
        try:
            if not await lane.link.ready():
                async with asyncio.timeout(max(CONNECTING, self._habits.timeout)):
                    await lane.link.connect()
            flight.deadline = asyncio.get_running_loop().time() + self._habits.timeout
            self._deadlines.watch(flight.deadline)
            replies = await lane.link.call([batch.call() for batch in batches])
        except asyncio.CancelledError:
            if not flight.late:
                raise
            replies = [TimeoutError()] * len(batches)
        except Exception as error:  # noqa: BLE001 - whatever it is, a defect of ours too, nobody may wait for ever
            replies = [error] * len(batches)
        flight.batches, flight.deadline = [], math.inf  # landed
        self._idle.append(lane)
        for batch, reply in zip(batches, replies, strict=True):
            self._take(lane, batch, reply)
        self._flush()

    def _mark(self, lane: _Lane, batches: list[Batch]) -> None:
        counts, number = self._counts, lane.number + 1
        counts.scripts += len(batches)
        for batch in batches:
            batch.sent += 1
            counts.requests += len(batch.asked)
            counts.hits += batch.hits
            if batch.charging and batch.mark is None:
                lane.number = number
                # Those that go alone may share lane and slot, and one may fail where the next does not.
                name = next(self._habits.names) if batch.asked[0].alone else lane.name
                batch.mark = Mark(name + self._layout.place(batch.asked[0].slot), number)

    def _take(self, lane: _Lane, batch: Batch, reply: bytes | Exception) -> None:
        error = reply if isinstance(reply, Exception) else _resolved(batch, reply)
        if error is None:
            if self._breaker.succeeded():
                self._habits.tell(f"the store {self.address} answers again")
            return
        if batch.charging:
            lane.name, lane.number = next(self._habits.names), 0  # The old mark is this batch's alone now.
        if not self._layout.reroute(batch, error):
            self.failed(batch, error)

    def _open(self, kind: str, error: Exception) -> None:
        self._last = kind
        self._habits.tell(f"not asked until it answers a probe: {translated(error, self.address)}")
        why = self._why_not()
        for asked in self._queue.clear():
            self._forsake(asked, *why)
        if self._probing is not None:
            self._probing.cancel()
        self._probing = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        nobody: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        nobody.cancel()
        for pause in pauses():
            await asyncio.sleep(pause)
            if not self._breaker.closed and self._idle:
                probe = Batch()
                probe.add(Asked((), math.inf, nobody, charging=True, slot=self._layout.own()))
                await asyncio.wait([self._fly(self._idle.pop(), [probe])])  # it is not cancelled with us
            if self._breaker.closed:
                return


def _resolved(batch: Batch, reply: bytes) -> Exception | None:
    try:
        batch.resolve(reply)
    except Exception as error:  # noqa: BLE001 - a defect of ours too: nobody may wait for ever
        return error
    return None
