"""Which server is the primary, by the word of its sentinels; asked for each new connection, and once a second.

A failover makes the old primary close its connections or refuse writes, and each of these has them made anew. Where
the old primary was cut off from everybody but us, only the sentinels know: hence the question once a second.
"""

import asyncio
import contextlib
from collections.abc import Callable

import redis.exceptions as errors

from genops_extauth.redis_link import AnyConnection, connected, opened
from genops_extauth.store_address import Host, Target

PAUSE = 1.0
"""Seconds between two questions: sentinels take several to agree on a failover."""

PATIENCE = 0.3
"""Seconds for a sentinel to answer before the next one is asked: three fit into the time of a new connection."""


class Sentinels:
    """The sentinels of `target`. `moved` is called, with the new primary's address, when it is another server."""

    def __init__(self, target: Target, moved: Callable[[str], None]) -> None:
        self._target, self._moved = target, moved
        self._hosts = list(target.hosts)
        self._known: Host | None = None
        self._watching: asyncio.Task[None] | None = None

    async def connect(self) -> AnyConnection:
        """Connect to the primary. Raises what Redis, hiredis and the socket raise."""
        host = await self.primary()
        connection = await connected(self._target, host)
        if await _role(connection) != b"master":
            await connection.disconnect(nowait=True)
            raise errors.ReadOnlyError(f"the sentinels name {host}, which is no primary yet")
        self._known = host
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        return connection

    async def primary(self) -> Host:
        """Where the primary is, by the first sentinel that knows; the next time it is asked first."""
        failure: Exception = errors.ConnectionError(f"no sentinel knows a primary named {self._target.master}")
        for sentinel in tuple(self._hosts):
            try:
                async with asyncio.timeout(PATIENCE):
                    found = await self._ask(sentinel)
            except (errors.RedisError, OSError) as error:
                failure = error
                continue
            if found is not None:
                self._hosts.remove(sentinel)
                self._hosts.insert(0, sentinel)
                return found
        raise failure

    async def close(self) -> None:
        """Ask no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def _ask(self, sentinel: Host) -> Host | None:
        login = {"password": self._target.sentinel_password}
        connection = await opened(sentinel, None, self._target.tls, login)
        try:
            await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._target.master)
            found = await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)
        return None if found is None else Host(found[0].decode(), int(found[1]))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(errors.RedisError, OSError):  # whoever needs a connection is told
                found = await self.primary()
                if found != self._known:
                    self._known = found
                    self._moved(str(found))


async def _role(connection: AnyConnection) -> bytes:
    await connection.send_command("ROLE")
    try:
        return bytes((await connection.read_response())[0])
    except errors.NoPermissionError:
        return b"master"  # We may not know; a replica refuses the first write.
