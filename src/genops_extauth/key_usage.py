"""When keys were last used: noted on the request path in memory, and written behind it, once a minute."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from genops_extauth.model import StoreUnavailable

PERIOD = 60.0
"""Seconds between two writings: who asks whether a key is still in use asks for days."""

_MAX_KEYS = 100_000
"""Noted between two writings; 10 MB. What is more is noted the next time that it is used."""


class Usage:
    """Notes uses, and hands them to `write` as seconds since the epoch by id."""

    def __init__(self, write: Callable[[Mapping[str, int]], Awaitable[None]]) -> None:
        self._write = write
        self._noted: dict[str, float] = {}

    def note(self, key_id: str, now: float) -> None:
        """Note that a key was used now, in seconds since the epoch."""
        if key_id in self._noted or len(self._noted) < _MAX_KEYS:
            self._noted[key_id] = now

    async def flush(self) -> None:
        """Write what was noted; where the store is away it is kept for the next time."""
        noted, self._noted = self._noted, {}
        try:
            if noted:
                await self._write({key_id: int(at) for key_id, at in noted.items()})
        except StoreUnavailable:
            self._noted = noted | self._noted

    async def tend(self, failed: Callable[[Exception], None]) -> None:
        """Write once in a while, and a last time when cancelled. `failed` is told of a defect of ours."""
        try:
            while True:
                await asyncio.sleep(PERIOD)
                try:
                    await self.flush()
                except Exception as error:  # noqa: BLE001 - when a key was last used is not worth the process
                    failed(error)
        finally:
            with suppress(asyncio.CancelledError):
                await self.flush()
