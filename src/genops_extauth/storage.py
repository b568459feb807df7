"""What stands between the gate and the store, put together: each part spares the next one a question.

denials   a refusal is repeated until it could be otherwise
leases    what a limit allows is taken ahead
outage    there is an answer while there is no store
store     Redis or Valkey: ours, another, behind sentinels, or a cluster; limits per second may have their own

All of them have the one operation of `gate.Store`.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from genops_extauth import store_choice, store_sections
from genops_extauth.denials import Denials
from genops_extauth.embedded import EmbeddedValkey
from genops_extauth.gate import Store
from genops_extauth.leases import Leases
from genops_extauth.outage import Outage
from genops_extauth.redis_habits import habits
from genops_extauth.store_address import Kind, Target, target
from genops_extauth.store_choice import PerSecondStore, store_at
from genops_extauth.telemetry import Telemetry

_PERIOD = 1.0
"""Seconds between two looks at what is leased and owed."""

_LAST_WORDS = 2.0
"""Seconds, at the end, for handing over what is owed to a store that does not take it at once."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The chain: `front` is what the gate asks. `address` tells where the buckets are, without secrets.

    `target` is the store itself, for what is no bucket.
    """

    front: Store
    address: str
    target: Target
    _store: store_choice.Store
    _leases: Leases
    _outage: Outage
    _denials: Denials | None
    _telemetry: Telemetry

    async def ping(self) -> None:
        """Ask the store whether it counts. Raises StoreUnavailable."""
        await self._store.ping()

    async def tend(self) -> None:
        """Give back what was leased for long enough, and hand over what is owed; until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD)
            await self._leases.expire()
            await self._outage.settle()

    async def close(self) -> None:
        """Give back, hand over, disconnect; say what was lost."""
        await self._leases.close()
        await self._outage.settle()
        owed = await self._store.close(_LAST_WORDS)
        if owed:
            self._telemetry.charges_lost(owed)

    def readings(self) -> Mapping[str, float]:
        """Return the figures of `metrics.STORE_READINGS`."""
        outage, leases, store = self._outage.statistics(), self._leases.statistics(), self._store.statistics()
        return {
            "outage": float(outage.away),
            "outage_granted": outage.granted,
            "outage_refused": outage.refused,
            "owed_tokens": store.owed.charges + store.owed.refunds,
            "charges_lost_tokens": store.dropped.charges,
            "leased_tokens": leases.stranded,
            "denials_repeated": 0 if self._denials is None else self._denials.statistics().repeated,
        }


async def open_storage(
    config: store_sections.Store, folder: Path, telemetry: Telemetry, stack: AsyncExitStack
) -> Storage:
    """Put the chain of a configuration together; `folder` is that of its file. Leaving `stack` closes it.

    Raises `embedded.EmbeddedValkeyError` where a store of our own cannot be started.
    """
    main = config.target(folder)
    if main.kind is Kind.EMBEDDED:
        main = await _embedded(main, telemetry, stack)
    store = opened(config, folder, main, telemetry.store_said)
    outage = Outage(store, time.monotonic, failed=telemetry.store_failed)
    leases = Leases(outage, time.monotonic)
    denials = Denials(leases, time.monotonic) if config.denial_cache else None
    storage = Storage(denials or leases, store.address, main, store, leases, outage, denials, telemetry)
    stack.push_async_callback(storage.close)
    return storage


def opened(
    config: store_sections.Store, folder: Path, main: Target, tell: Callable[[str], None] = lambda _: None
) -> store_choice.Store:
    """Return the store of a configuration at `main`, and beside it the one for limits per second, if there is one."""

    def open_one(place: Target) -> store_choice.Store:
        return store_at(place, habits(timeout=config.timeout, prefix=config.key_prefix, tell=tell))

    if config.per_second is None:
        return open_one(main)
    return PerSecondStore(open_one(main), open_one(config.per_second.target(config.tls.options(folder))))


async def _embedded(place: Target, telemetry: Telemetry, stack: AsyncExitStack) -> Target:
    folder = None if place.path is None else Path(place.path)
    valkey = await stack.enter_async_context(EmbeddedValkey(folder))
    tending = asyncio.create_task(valkey.tend(telemetry.store_ended))
    stack.callback(tending.cancel)
    return target(valkey.url)
