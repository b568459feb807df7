"""Connections to Redis or Valkey, and one that runs our script.

They stand on `redis.asyncio.Connection` without the client around it: no pool, no health check, no retry. A retry
after a connection error could count a request twice, as the script may have run before the line broke; only NOSCRIPT
is asked again, for then it certainly did not run.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import hiredis
import redis.exceptions as errors
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection

from genops_extauth.store_address import Host, Target, Tls

_SCRIPT = (files("genops_extauth") / "bucket.lua").read_bytes()
# EVALSHA names a script by its SHA-1; nothing is secured by it.
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()
_ASKING = hiredis.pack_command((b"ASKING",))

AnyConnection = Connection | UnixDomainSocketConnection
Opening = Callable[[], Awaitable[AnyConnection]]
"""Makes a new connection. Raises what Redis, hiredis and the socket raise."""


class Call(NamedTuple):
    """One run of ``bucket.lua``. `asking`: on a node that is only just taking over the keys' slot (ASK)."""

    keys: Sequence[bytes]
    arguments: Sequence[bytes]
    asking: bool = False


class Link:
    """One connection, made by `opening` when first used, and again after it broke; it runs scripts."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._connection: AnyConnection | None = None
        self._stale = False

    async def ready(self) -> bool:
        """Whether it is connected, as far as can be told without asking."""
        connection = self._connection
        if connection is None or self._stale or not connection.is_connected:
            return False
        # What the server closed while it was idle (restart, its own timeout) reads as end of file.
        waiting: bool = await connection.can_read()
        return not waiting

    async def connect(self) -> None:
        """Connect anew. Raises what Redis, hiredis and the socket raise."""
        await self.close()
        self._connection, self._stale = await self._opening(), False

    async def call(self, calls: Sequence[Call]) -> list[bytes | Exception]:
        """Run ``bucket.lua``, once for each call, and tell the reply or the error of each. It must be connected.

        Raises what breaks the connection; cancelling closes it.
        """
        connection = self._connection
        if connection is None:
            raise errors.ConnectionError("not connected")
        await send(connection, [_packed(call, b"EVALSHA", _SHA) for call in calls])
        replies = [await self._reply(connection, call) for call in calls]
        for number, reply in enumerate(replies):
            if isinstance(reply, errors.NoScriptError):
                await send(connection, [_packed(calls[number], b"EVAL", _SCRIPT)])
                replies[number] = await self._reply(connection, calls[number])
        return replies

    def distrust(self) -> None:
        """Connect anew before the next call: another connection to this server just broke, or it is another server."""
        self._stale = True

    async def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _reply(self, connection: AnyConnection, call: Call) -> bytes | Exception:
        if call.asking:
            await connection.read_response()
        try:
            reply: object = await connection.read_response(disable_decoding=True)
        except errors.ResponseError as error:
            return error
        if isinstance(reply, bytes):
            return reply
        await self.close()
        raise errors.InvalidResponse(f"a {type(reply).__name__} came where bytes were due")


async def send(connection: AnyConnection, commands: Sequence[bytes]) -> None:
    """Send what is packed. Raises what breaks the connection."""
    try:
        await connection.send_packed_command(commands, check_health=False)
    except RuntimeError as error:
        # That is how uvloop puts it that the connection broke a moment ago, and nobody has read of it yet.
        raise errors.ConnectionError(str(error)) from error


def _packed(call: Call, verb: bytes, script: bytes) -> bytes:
    command = (verb, script, str(len(call.keys)).encode(), *call.keys, *call.arguments)
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # its stub says: a tuple of one
    return _ASKING + packed if call.asking else packed


async def connected(target: Target, host: Host | None = None) -> AnyConnection:
    """Connect to `target`, or to this `host` of it. Raises what Redis, hiredis and the socket raise."""
    where = host or (target.hosts[0] if target.path is None else None)
    login = {"username": target.user or None, "password": target.password, "db": target.database}
    return await opened(where, target.path, target.tls, login)


async def opened(host: Host | None, path: str | None, tls: Tls | None, login: Mapping[str, Any]) -> AnyConnection:
    """Connect to a host, or to the unix socket at `path`, and log in."""
    # RESP2 needs no greeting, and without timeouts the connection starts no timers: the caller owns the deadline.
    options = {**login, "protocol": 2, "driver_info": None, "socket_timeout": None, "socket_connect_timeout": None}
    connection: AnyConnection
    if host is None:
        connection = UnixDomainSocketConnection(path=path or "", **options)
    elif tls is None:
        connection = Connection(host=host.name, port=host.port, **options)
    else:
        # Files are read: not on the event loop. Anew each time, so that a rotated certificate is the next one's.
        context = await asyncio.to_thread(_context, tls)
        connection = _SecureConnection(context, tls.server_name, host=host.name, port=host.port, **options)
    try:
        await connection.connect()  # type: ignore[no-untyped-call] # redis-py leaves it bare
    except errors.ConnectionError as error:
        await connection.disconnect(nowait=True)
        raise _behind(error) from None
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


def _behind(error: errors.ConnectionError) -> Exception:
    """What redis-py dresses up as a failure to connect: a failed handshake; on a unix socket a refused password."""
    for inner in (error.__cause__, error.__context__):
        if isinstance(inner, errors.RedisError | ssl.SSLError):
            return inner
    return error


class _SecureConnection(SSLConnection):
    """`redis.asyncio.SSLConnection` with a context of ours, and with another server name where one is given."""

    def __init__(self, context: ssl.SSLContext, server_name: str | None, **options: Any) -> None:  # noqa: ANN401 - as redis-py
        super().__init__(**options)
        self._secured = {"ssl": context, **({"server_hostname": server_name} if server_name else {})}

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {"host": self.host, "port": self.port, **self._secured}


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError as error:
        raise ssl.SSLError(f"cannot use its files: {error.strerror}") from None
    return context
