"""A client for what is rare and may be done twice: API keys, revocations. Each operation is one run of a script.

    client = open_client(target, timeout=1.0)
    found = await client.script(SCRIPT, [b"genops:{apikeys}:records"], [b"id"])
    await client.aclose()

Unlike the stores of buckets it asks again after a connection broke, when the script may have run already: a script that
is given to it must have the same outcome then. It works with all that a `Target` names, but an embedded store, which is
started first and has an address then. One client belongs to one event loop.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import redis.exceptions as errors
from redis.crc import key_slot

from genops_extauth.redis_faults import translated
from genops_extauth.redis_link import AnyConnection, connected, send
from genops_extauth.sentinel import Sentinels
from genops_extauth.store_address import Host, Kind, Target

Reply = bytes | int | None | list["Reply"]
"""What a script answers."""

_CONNECTIONS = 8
"""At once. An operation takes a millisecond; what is more than that waits for its turn."""

_ATTEMPTS = 3
"""Of one operation: after a failover, the first finds the old primary gone, and the second may find none yet."""

_PAUSE = 0.02
"""Seconds before the next attempt. Who waits is a request, for 100 ms in all, or a person."""

_MOVES = 5
"""Nodes of a Cluster to be sent to. While slots move there are two; more, and the nodes disagree."""

_LASTING = (errors.AuthenticationError, errors.AuthorizationError, errors.MaxConnectionsError)
_PASSING = (
    *(errors.ConnectionError, errors.ReadOnlyError, errors.ClusterDownError, errors.TryAgainError),
    OSError,
)


class Client:
    """Runs scripts at `target`, each within `timeout` seconds. Made by `open_client`; it connects when first used."""

    def __init__(self, target: Target, timeout: float) -> None:
        self.address = target.address
        """Where it is, without secrets."""
        self._target, self._timeout = target, timeout
        self._sentinels = Sentinels(target, lambda _: self._pool.distrust()) if target.kind is Kind.SENTINEL else None
        self._pool = _Pool(self._open)
        self._turn = asyncio.Semaphore(_CONNECTIONS)
        self._slots: dict[int, Host] = {}
        self._next = 0

    def __repr__(self) -> str:
        return f"Client({self.address})"

    async def script(self, script: bytes, keys: Sequence[bytes], arguments: Sequence[bytes | int] = ()) -> Reply:
        """Run a script on keys, one at least, that share a slot. Raises `StoreUnavailable` in time."""
        try:
            async with asyncio.timeout(self._timeout), self._turn:
                return await self._repeated(_Run(script, keys, arguments))
        except Exception as error:
            outage = translated(error, self.address)
            if outage is error:
                raise
            raise outage from error

    async def aclose(self) -> None:
        """Disconnect."""
        if self._sentinels is not None:
            await self._sentinels.close()
        await self._pool.close()

    async def _open(self, host: Host | None) -> AnyConnection:
        return await (connected(self._target, host) if self._sentinels is None else self._sentinels.connect())

    async def _repeated(self, run: "_Run") -> Reply:
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._routed(run)
            except _LASTING:
                raise
            except _PASSING:
                self._pool.distrust()
                self._slots.pop(run.slot, None)
                self._next += 1
                await asyncio.sleep(_PAUSE)
        return await self._routed(run)

    async def _routed(self, run: "_Run") -> Reply:
        """Run it where it belongs: a node of a Cluster says where that is."""
        host, asking = self._place(run.slot), False
        for _ in range(_MOVES):
            try:
                async with self._pool.connection(host) as connection:
                    return await run.on(connection, asking=asking)
            except errors.AskError as error:  # MOVED is one, too
                if host is None:
                    raise
                host = Host(error.host or host.name, error.port)
                asking = not isinstance(error, errors.MovedError)
                if not asking:
                    self._slots[run.slot] = host
        raise errors.ClusterDownError("its nodes send us to each other")

    def _place(self, slot: int) -> Host | None:
        """The host to ask; None for the one there is, or that the sentinels name."""
        if self._target.kind is not Kind.CLUSTER:
            return None
        return self._slots.get(slot) or self._target.hosts[self._next % len(self._target.hosts)]


def open_client(target: Target, timeout: float) -> Client:
    """A client of the store at `target`, whose operations take `timeout` seconds at most."""
    if target.kind is Kind.EMBEDDED:
        raise ValueError("an embedded store has no address until it is started: give that")
    return Client(target, timeout)


class _Run(NamedTuple):
    """One run of a script."""

    script: bytes
    keys: Sequence[bytes]
    arguments: Sequence[bytes | int]

    @property
    def slot(self) -> int:
        return key_slot(self.keys[0])

    async def on(self, connection: AnyConnection, *, asking: bool) -> Reply:
        """By its digest; NOSCRIPT says that it did not run, and then it is sent in full."""
        try:
            return await self._sent(connection, "EVALSHA", _sha(self.script), asking=asking)
        except errors.NoScriptError:
            return await self._sent(connection, "EVAL", self.script, asking=asking)

    async def _sent(self, connection: AnyConnection, verb: str, script: bytes, *, asking: bool) -> Reply:
        if asking:
            await send(connection, connection.pack_command("ASKING"))
            await connection.read_response()
        await send(connection, connection.pack_command(verb, script, len(self.keys), *self.keys, *self.arguments))
        reply: Reply = await connection.read_response(disable_decoding=True)
        return reply


@lru_cache(maxsize=64)
def _sha(script: bytes) -> bytes:
    # EVALSHA names a script by its SHA-1; nothing is secured by it.
    return hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()


class _Pool:
    """Connections by host, made by `opening`; those that are not in use wait here."""

    def __init__(self, opening: Callable[[Host | None], Awaitable[AnyConnection]]) -> None:
        self._opening = opening
        self._idle: dict[Host | None, list[AnyConnection]] = {}
        self._dropped: list[AnyConnection] = []
        self._epoch = 0

    @contextlib.asynccontextmanager
    async def connection(self, host: Host | None) -> AsyncIterator[AnyConnection]:
        """A connection for one operation; it is kept for the next one, if that is how far one can go with it."""
        await self._drop()
        epoch, connection = self._epoch, await self._taken(host)
        sound = False
        try:
            yield connection
            sound = True
        except errors.ResponseError:
            sound = True
            raise
        finally:
            # Where it was cancelled its answer is still under way, and would be taken for that of the next operation.
            if sound and epoch == self._epoch and connection.is_connected:
                self._idle.setdefault(host, []).append(connection)
            else:
                await connection.disconnect(nowait=True)

    def distrust(self) -> None:
        """Use no connection again: one broke, or it is another server now."""
        self._epoch += 1
        self._dropped += [connection for idle in self._idle.values() for connection in idle]
        self._idle = {}

    async def close(self) -> None:
        """Disconnect, those too that are in use: after their operation."""
        self.distrust()
        await self._drop()

    async def _drop(self) -> None:
        while self._dropped:
            await self._dropped.pop().disconnect(nowait=True)

    async def _taken(self, host: Host | None) -> AnyConnection:
        idle = self._idle.get(host, [])
        while idle:
            connection = idle.pop()
            # What the server closed while it was idle (restart, its own timeout) reads as end of file.
            if connection.is_connected and not await connection.can_read():
                return connection
            await connection.disconnect(nowait=True)
        return await self._opening(host)
