"""A store in memory for tests of what stands before one: the reference, on a clock that tests move, able to fail."""

import asyncio
from collections.abc import Callable, Sequence

from buckets import NOW, SECOND
from genops_extauth.hits import Answer, Book, Hit, Level, Origin, Role
from genops_extauth.model import StoreUnavailable


class Clock:
    """Moved by hand; monotonic in seconds, and the store's in microseconds."""

    def __init__(self) -> None:
        self.us = 0

    def __call__(self) -> float:
        return self.us / SECOND

    @property
    def store(self) -> int:
        return NOW + self.us


class MemoryStore:
    """A `Store`. `fails` says of each group whether it finds no store.

    Then it changes nothing, but that its charges and refunds are `owed`, and made before the next that finds one; where
    the store does not keep them, they are lost.
    """

    def __init__(
        self, clock: Clock, *, fails: Callable[[Sequence[Hit]], bool] = lambda _: False, keeps: bool = True
    ) -> None:
        self.clock = clock
        self.fails = fails
        self.keeps = keeps
        self.book = Book()
        self.owed: list[Hit] = []
        self.done: list[tuple[tuple[Hit, ...], Answer]] = []

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:  # noqa: ARG002 - the protocol's
        await asyncio.sleep(0)  # as every store it takes its time, in which others ask
        if self.fails(hits):
            return self._fail(hits)
        owed, self.owed = self.owed, []
        for hit in owed:
            self._do((hit,))
        answer = self._do(hits)
        await asyncio.sleep(0)
        return answer

    def made(self, key: bytes, *roles: Role) -> int:
        """The tokens of all hits in `roles` on `key` that were made."""
        return sum(
            hit.cost
            for hits, answer in self.done
            for hit, level in zip(hits, answer.levels, strict=True)
            if hit.key == key and hit.role in roles and not hit.look
            if hit.role >= Role.CHARGE or (answer.granted and level.fits)
        )

    def _do(self, hits: Sequence[Hit]) -> Answer:
        answer = self.book.transact(hits, self.clock.store)
        self.done.append((tuple(hits), answer))
        return answer

    def _fail(self, hits: Sequence[Hit]) -> Answer:
        if self.keeps:
            self.owed += [hit for hit in hits if hit.role >= Role.CHARGE and not hit.look]
            if all(hit.role >= Role.CHARGE for hit in hits):
                return Answer(True, (Level(True, 0, 0),) * len(hits), Origin.ALLOWANCE)  # noqa: FBT003 - as redis_batch
        raise StoreUnavailable("unreachable: the test says so")


def away(_: Sequence[Hit]) -> bool:
    return True


def back(_: Sequence[Hit]) -> bool:
    return False
