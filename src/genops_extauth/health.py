"""What is told to those who ask whether requests may come: gRPC health by service name, and readiness.

Identity and rate limiting stand apart: a store outage must not take authentication down. So the empty name, ``/readyz``
and ext_authz are ready as soon as Check can decide; only the rate limit service's own name follows the store.
"""

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from genops_extauth.http_face import Readiness
from genops_extauth.model import StoreUnavailable

_PERIOD = 0.5  # seconds between two looks; a gateway's own health check rarely comes more often than every second


class Health:
    """Watches what decisions need.

    `keys_ready` tells whether tokens of some issuer can be checked; `ping` asks the store, raising `StoreUnavailable`.
    `serve` is told of each change: whether identity, and whether rate limiting, is served.
    """

    def __init__(
        self,
        keys_ready: Callable[[], bool],
        ping: Callable[[], Awaitable[None]],
        serve: Callable[[bool, bool], Awaitable[None]],
        log: FilteringBoundLogger,
    ) -> None:
        self._keys_ready = keys_ready
        self._ping = ping
        self._serve = serve
        self._log = log
        self._identity: bool | None = None
        self._limits: bool | None = None
        self._stopping = False

    def readiness(self) -> Readiness:
        """Return what ``/readyz`` says."""
        identity = self._keys_ready()
        components = {
            "identity": "ready" if identity else "no keys of any issuer",
            "rate_limit": "ready" if self._limits else "the store cannot be used",
        }
        if self._stopping:
            components["process"] = "stopping"
        return Readiness(identity and not self._stopping, components)

    def stopping(self) -> None:
        """Say from now on that no request should come."""
        self._stopping = True

    async def look(self) -> None:
        """Look once, and tell of what changed."""
        before = (self._identity, self._limits)
        self._identity, trouble = self._keys_ready(), await self._trouble()
        self._limits = not trouble
        if before == (self._identity, self._limits):
            return
        await self._serve(self._identity, self._limits)
        if before[1] != self._limits and trouble:
            self._log.error(
                "store_unavailable", detail=trouble, consequence="identity works; rate limits cannot decide"
            )
        elif before[1] is False:
            self._log.info("store_available")
        if self._identity and not before[0]:
            self._log.info("identity_ready")
        elif before[0] and not self._identity:
            self._log.error("identity_not_ready", consequence="every token is answered 503")

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD)
            await self.look()

    async def _trouble(self) -> str:
        try:
            await self._ping()
        except StoreUnavailable as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - a defect in looking must not end what is looked at
            self._log.error("internal_error", error=type(error).__name__, exc_info=error)
            return "internal error"
        return ""
