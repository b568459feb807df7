"""What the store keeps of credentials: the records of API keys, and what is revoked. It outlives every reload."""

import asyncio
from collections.abc import Callable

from genops_extauth.gate import Clocks
from genops_extauth.key_guesses import Guesses
from genops_extauth.key_lookup import Lookup
from genops_extauth.key_store import KeyStore
from genops_extauth.key_usage import Usage
from genops_extauth.model import StoreUnavailable
from genops_extauth.revocation_feed import PERIOD, Feed, FeedStatistics
from genops_extauth.revocation_store import RevocationStore
from genops_extauth.revocations import Denylist
from genops_extauth.store_client import Client


class CredentialStore:
    """Credentials behind `client`, under keys that begin with `prefix`.

    `max_wait` is for how many seconds, at the start, the list of what is revoked is waited for. `tell` hears when the
    store stops telling of it, with the reason, and with None when it tells again.
    """

    def __init__(
        self,
        client: Client,
        prefix: str,
        clocks: Clocks,
        *,
        max_wait: float,
        tell: Callable[[StoreUnavailable | None], None],
    ) -> None:
        keys = KeyStore(client, prefix)
        self.lookup = Lookup(keys.get, clocks.monotonic)
        self.usage = Usage(keys.note)
        self.guesses = Guesses(clocks.monotonic)
        self.revoked = Denylist()
        """What the store's list holds, as far as is known."""
        store = RevocationStore(client, prefix)
        self.feed = Feed(
            store, self.revoked, wall=clocks.wall, monotonic=clocks.monotonic, max_wait=max_wait, tell=tell
        )
        self.listens = False
        """Whether the list of what is revoked is asked for."""

    @property
    def ready(self) -> bool:
        """Whether the list of what is revoked was read once, or waited for long enough, or is not asked for."""
        return not self.listens or self.feed.ready

    def statistics(self) -> FeedStatistics | None:
        """Return the figures of the list of what is revoked; None where it is not asked for."""
        return self.feed.statistics() if self.listens else None

    async def run(self, failed: Callable[[Exception], None]) -> None:
        """Keep up with the store, until cancelled. `failed` is told of a defect of ours: it ends nothing else."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.usage.tend(failed))
            tasks.create_task(self._listen(failed))

    async def _listen(self, failed: Callable[[Exception], None]) -> None:
        while True:
            try:
                if self.listens:
                    await self.feed.look()
            except Exception as error:  # noqa: BLE001 - were it to end here, nobody would hear of a revocation again
                failed(error)
            await asyncio.sleep(PERIOD)

    async def close(self) -> None:
        """End what is under way."""
        await self.lookup.close()
