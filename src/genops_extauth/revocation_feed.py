"""Keeps a process's list of what is revoked as the store has it, by asking twice a second what changed.

Rules
-----
- What is revoked is refused everywhere `PERIOD` and one answer of the store later: within a second while it answers.
- While it does not, or after it lost its data, what is known stays refused: an entry leaves by being removed, or when
  its time is over, and never because somebody pulled a plug.
- At the start nothing is known. `ready` says when requests can be answered all the same (docs/decisions/0014).
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from genops_extauth.model import StoreUnavailable
from genops_extauth.revocation_store import RevocationStore
from genops_extauth.revocations import Denylist, Entry

PERIOD = 0.5
"""Seconds between two questions. With a second for all, it leaves half of one for the answer."""


class FeedStatistics(NamedTuple):
    """How the list is.

    `age_seconds` is since it was last known to be complete, or since the start where it never was. `failures` counts
    questions without an answer.
    """

    entries: int
    age_seconds: float
    failures: int
    complete: bool


class Feed:
    """Fills `known` from `store` while `run` runs. `wall` is seconds since the epoch, `monotonic` measures durations.

    `max_wait` is for how many seconds it is not `ready` without an answer. `tell` hears when the store stops answering,
    with the reason, and with None when it answers again.
    """

    def __init__(
        self,
        store: RevocationStore,
        known: Denylist,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        max_wait: float,
        tell: Callable[[StoreUnavailable | None], None],
    ) -> None:
        self._store, self._known = store, known
        self._wall, self._monotonic, self._tell = wall, monotonic, tell
        self._started = self._complete_at = monotonic()
        self._ready_at = self._started + max_wait
        self._position = 0
        self._complete = self._away = False
        self._failures = 0

    @property
    def ready(self) -> bool:
        """Whether the list was read once, or was waited for long enough."""
        return self._complete or self._monotonic() >= self._ready_at

    def statistics(self) -> FeedStatistics:
        """Return the present figures."""
        return FeedStatistics(len(self._known), self._monotonic() - self._complete_at, self._failures, self._complete)

    async def run(self) -> None:
        """Ask, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD)

    async def look(self) -> None:
        """Ask once; drop what is over, whatever the answer."""
        try:
            await self._read()
        except StoreUnavailable as error:
            self._failures += 1
            if not self._away:
                self._away = True
                self._tell(error)
        else:
            if self._away:
                self._away = False
                self._tell(None)
        self._known.expire(self._wall())

    async def _read(self) -> None:
        asked_at, whole = self._monotonic(), False
        while not whole:
            self._position, found, whole = await self._store.changes(self._position)
            for handle, end in found:
                if end is None:
                    self._known.remove(handle)
                else:
                    self._known.add(Entry(handle, end))
        # It is as old as the question: what was revoked while the answer was on its way is not in it.
        self._complete, self._complete_at = True, asked_at
