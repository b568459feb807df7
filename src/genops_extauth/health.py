"""What is told to those who ask whether requests may come: gRPC health by service name, and readiness.

Identity and rate limiting stand apart: ext_authz is ready as soon as Check can decide, rate limiting once its limits
are known; the empty name and ``/readyz`` once all is that is served. An outage of the store makes nothing unready: rate
limiting serves on in its degraded mode (`outage`), and a gateway that went elsewhere would find nothing better.
"""

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from genops_extauth.http_face import Readiness
from genops_extauth.model import StoreUnavailable

_PERIOD = 0.5  # seconds between two looks; a gateway's own health check rarely comes more often than every second

_DEGRADED = "degraded: limits are kept in this process, within store.outage's allowance"


class Health:
    """Watches what decisions need.

    `keys_ready` tells whether tokens of some issuer can be checked, `limits_ready` whether limits are known; None is of
    what is not served, and never in the way. `ping` asks the store, raising `StoreUnavailable`. `serve` is told of each
    change: whether identity, and whether rate limiting, is ready.
    """

    def __init__(
        self,
        keys_ready: Callable[[], bool] | None,
        limits_ready: Callable[[], bool] | None,
        ping: Callable[[], Awaitable[None]],
        serve: Callable[[bool, bool], Awaitable[None]],
        log: FilteringBoundLogger,
    ) -> None:
        self._keys_ready = keys_ready
        self._limits_ready = limits_ready
        self._ping = ping
        self._serve = serve
        self._log = log
        self._identity: bool | None = None
        self._limits: bool | None = None
        self._store: bool | None = None
        self._stopping = False

    def readiness(self) -> Readiness:
        """Return what ``/readyz`` says."""
        identity, limits = _ready(self._keys_ready), _ready(self._limits_ready)
        known = "ready" if self._store else _DEGRADED
        components = {}
        if self._keys_ready is not None:
            components["identity"] = (
                "ready" if identity else "no keys of any issuer, or the list of what is revoked was not read yet"
            )
        if self._limits_ready is not None:
            components["rate_limit"] = known if limits else "no limits were given yet"
        if self._stopping:
            components["process"] = "stopping"
        return Readiness(identity and limits and not self._stopping, components)

    def stopping(self) -> None:
        """Say from now on that no request should come."""
        self._stopping = True

    async def look(self) -> None:
        """Look once, and tell of what changed."""
        before, trouble = (self._identity, self._limits), await self._trouble()
        self._identity, self._limits = _ready(self._keys_ready), _ready(self._limits_ready)
        if before != (self._identity, self._limits):
            await self._serve(self._identity, self._limits)
        self._tell_of_store(trouble)
        if self._keys_ready is None:
            return
        if self._identity and not before[0]:
            self._log.info("identity_ready")
        elif before[0] and not self._identity:
            self._log.error("identity_not_ready", consequence="every token is answered 503")

    def _tell_of_store(self, trouble: str) -> None:
        before, self._store = self._store, not trouble
        if trouble and before is not False:
            self._log.error("store_unavailable", detail=trouble, consequence=_DEGRADED)
        elif before is False and not trouble:
            self._log.info("store_available")

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


def _ready(asked: Callable[[], bool] | None) -> bool:
    return asked is None or asked()
