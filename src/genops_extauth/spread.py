"""A group of hits over several places: stores, or slots of a Cluster, of which each answers for its own part.

It is not atomic. The places are asked one after another, in the order of the hits; as soon as one refuses, or cannot
be asked, the others are only looked at, and what was taken is refunded. So a refused group takes nothing in the end,
and nobody is granted more than there is; but until the refund is made, others may be refused by what it held. Charges
and refunds are made in any case, as in one place.

A caller who goes away changes nothing: the group is completed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from genops_extauth.hits import Answer, Hit, Level, Origin, Role
from genops_extauth.model import StoreUnavailable

Ask = Callable[[Sequence[Hit], float | None], Awaitable[Answer]]
"""Does all that a group of hits asks for, within so many seconds. Raises StoreUnavailable."""


class Part(NamedTuple):
    """One place, and which of the group's hits are its."""

    ask: Ask
    numbers: Sequence[int]


class Spread:
    """Asks groups part by part."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def ask(self, hits: Sequence[Hit], parts: Sequence[Part], within: float | None) -> Answer:
        """Do all that `hits` ask for. Raises StoreUnavailable where a part does; then nothing was taken."""
        return await asyncio.shield(self._started(_spread(hits, parts, within)))

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._running:
            await asyncio.wait(self._running)

    def _started(self, asking: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
        task = asyncio.get_running_loop().create_task(asking)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # who has gone away asks for it no more


async def _spread(hits: Sequence[Hit], parts: Sequence[Part], within: float | None) -> Answer:
    left = _left(within)
    levels: dict[int, Level] = {}
    origins: list[Origin] = []
    taken: list[Part] = []
    failure: StoreUnavailable | None = None
    refused = False
    for part in parts:
        numbers = [number for number in part.numbers if failure is None or _settles(hits[number])]
        if not numbers:
            continue
        group = [_as_part(hits[number], only_look=refused) for number in numbers]
        try:
            answer = await part.ask(group, left())
        except StoreUnavailable as error:
            failure, refused = failure or error, True
            continue
        levels |= zip(numbers, answer.levels, strict=True)
        origins.append(answer.origin)
        if answer.granted and not refused:
            took = [number for number in numbers if levels[number].fits and _takes(hits[number])]
            taken.append(Part(part.ask, took))
        refused = refused or not answer.granted
    quotas = [levels[number].fits for number, hit in enumerate(hits) if hit.role is Role.QUOTA and number in levels]
    granted = not refused and (not quotas or any(quotas))
    if not granted:
        levels |= await _given_back(hits, taken, levels, left)
    if failure is not None:
        raise failure
    origin = next((each for each in origins if each is not Origin.STORE), Origin.STORE)
    return Answer(granted, tuple(levels[number] for number in range(len(hits))), origin)


def _left(within: float | None) -> Callable[[], float | None]:
    if within is None:
        return lambda: None
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    return lambda: max(0.0, end - loop.time())


def _as_part(hit: Hit, *, only_look: bool) -> Hit:
    """What is asked in one place: whether quotas refuse is known only when all were asked."""
    if hit.role is Role.QUOTA:
        hit = hit._replace(role=Role.MAY)
    return hit._replace(look=True) if only_look and hit.role < Role.CHARGE else hit


def _takes(hit: Hit) -> bool:
    return hit.role < Role.CHARGE and not hit.look


def _settles(hit: Hit) -> bool:
    return hit.role >= Role.CHARGE and not hit.look


async def _given_back(
    hits: Sequence[Hit], taken: Sequence[Part], levels: dict[int, Level], left: Callable[[], float | None]
) -> dict[int, Level]:
    """Refund what was taken. Returns how the levels are then."""
    refunds = [[hits[number]._replace(role=Role.REFUND) for number in part.numbers] for part in taken]
    answers = await asyncio.gather(
        *(part.ask(group, left()) for part, group in zip(taken, refunds, strict=True) if group), return_exceptions=True
    )
    found: dict[int, Level] = {}
    for part, answer in zip([part for part in taken if part.numbers], answers, strict=True):
        if isinstance(answer, Answer) and answer.origin is Origin.STORE:
            found |= zip(part.numbers, answer.levels, strict=True)
        else:
            for number in part.numbers:  # It will be made: by then there is so much more.
                level = levels[number]
                found[number] = level._replace(remaining=level.remaining + hits[number].cost)
    return found
