"""One connection to Redis or Valkey that runs our script, and the only place that knows what Redis can raise.

It stands on `redis.asyncio.Connection` without the client around it: one script at a time and connection, no pool, no
health check, no retry. A retry after a connection error could count a request twice, as the script may have run
before the line broke; only NOSCRIPT is asked again, for then it certainly did not run.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import ParseResult, parse_qsl, unquote, urlparse

import hiredis
import redis.exceptions as errors
from redis.asyncio import Connection, UnixDomainSocketConnection

from genops_extauth.model import StoreUnavailable

_SCRIPT = (files("genops_extauth") / "bucket.lua").read_bytes()
# EVALSHA names a script by its SHA-1; nothing is secured by it.
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()

FAULTS: tuple[tuple[type[BaseException], str, str], ...] = (
    (TimeoutError, "timeout", "it did not answer in time; look at its load and the network to it"),
    (errors.TimeoutError, "timeout", "it did not answer in time; look at its load and the network to it"),
    (errors.AuthenticationError, "refused", "check the user and password"),
    (errors.AuthorizationError, "refused", "check the rights of the user"),
    (errors.ExternalAuthProviderError, "refused", "check the user and password"),
    (errors.AuthenticationWrongNumberOfArgsError, "refused", "check the user and password"),
    (errors.NoPermissionError, "refused", "let the user run eval, evalsha, time, mget and set on our keys"),
    (errors.BusyLoadingError, "loading", "it is reading its data; wait until it has"),
    (errors.MaxConnectionsError, "unreachable", "raise its maxclients"),
    (errors.ConnectionError, "unreachable", "check the address, and that it runs"),
    (OSError, "unreachable", "check the address, and that it runs"),
    (errors.OutOfMemoryError, "full", "raise its maxmemory; keep maxmemory-policy noeviction"),
    (errors.ReadOnlyError, "read_only", "it is a replica; use the address of the primary"),
    (errors.AskError, "cluster", "it is part of a cluster; use a single server"),
    (errors.TryAgainError, "cluster", "it is part of a cluster; use a single server"),
    (errors.ClusterError, "cluster", "it is part of a cluster; use a single server"),
    (errors.ClusterCrossSlotError, "cluster", "it is part of a cluster; use a single server"),
    (errors.RedisClusterException, "cluster", "it is part of a cluster; use a single server"),
    (hiredis.HiredisError, "protocol", "what answers there is no Redis; check the address"),
    (errors.InvalidResponse, "protocol", "what answers there is no Redis; check the address"),
    (errors.ResponseError, "error", "it must be a Redis from 7.0 on or a Valkey, with scripting"),
    (errors.RedisError, "error", "the Redis client could not go on"),
)
"""What a failure means: exception, kind (bounded: a metric's label), what to do. The first row that fits counts."""


def kind_of(error: BaseException) -> str | None:
    """The kind of a foreign failure, or None for what is no failure of the store."""
    return next((kind for known, kind, _ in FAULTS if isinstance(error, known)), None)


def translated(error: Exception, address: str) -> Exception:
    """A foreign failure in our words, caused by itself; what is none passes as it is. Redis repeats no password."""
    for known, kind, advice in FAULTS:
        if isinstance(error, known):
            said = f" ({error})" if str(error) else ""
            outage = StoreUnavailable(f"{kind}: the store {address} cannot be used: {advice}{said}")
            outage.__cause__ = error
            return outage
    return error


class Link:
    """One connection, made when first used and again after it broke. `url` may hold a password, `address` does not.

    Raises ValueError for a URL that we do not understand; its message never repeats the URL.
    """

    def __init__(self, url: str, *, password: str | None = None) -> None:
        kind, options, self.address = _parsed(url)
        if password is not None:
            options["password"] = password
        # RESP2 needs no greeting, and without timeouts the connection starts no timers: the caller owns the deadline.
        self._connection = kind(
            protocol=2, driver_info=None, socket_timeout=None, socket_connect_timeout=None, **options
        )

    def __repr__(self) -> str:
        return f"Link({self.address})"

    async def call(self, keys: Sequence[bytes], numbers: bytes) -> bytes:
        """Run ``bucket.lua``. Raises what Redis, hiredis and the socket raise; cancelling closes the connection."""
        tail = (str(len(keys)).encode(), *keys, numbers)
        try:
            return await self._ask(b"EVALSHA", _SHA, *tail)
        except errors.NoScriptError:
            return await self._ask(b"EVAL", _SCRIPT, *tail)

    def distrust(self) -> None:
        """Connect anew before the next call: another connection to this server just broke."""
        if self._connection.is_connected:
            self._connection.mark_for_reconnect()  # type: ignore[no-untyped-call] # redis-py leaves it bare

    async def close(self) -> None:
        """Close the connection, if there is one."""
        await self._connection.disconnect(nowait=True)

    async def _ask(self, *command: bytes) -> bytes:
        connection = self._connection
        # What the server closed while it was idle (restart, its own timeout) reads as end of file: no request is lost.
        stale = connection.should_reconnect()  # type: ignore[no-untyped-call] # redis-py leaves it bare
        if connection.is_connected and (stale or await connection.can_read()):
            await connection.disconnect(nowait=True)
        if not connection.is_connected:
            await self._connect()
        packed = hiredis.pack_command(command)  # type: ignore[arg-type] # its stub says: a tuple of one
        await connection.send_packed_command(packed, check_health=False)
        reply = await connection.read_response(disable_decoding=True)
        if not isinstance(reply, bytes):
            await self.close()
            raise errors.InvalidResponse(f"a {type(reply).__name__} came where bytes were due")
        return reply

    async def _connect(self) -> None:
        try:
            await self._connection.connect()  # type: ignore[no-untyped-call] # redis-py leaves it bare
        except errors.ConnectionError as error:
            # On a unix socket redis-py dresses a refused password up as a failure to connect.
            if isinstance(error.__cause__, errors.RedisError):
                raise error.__cause__ from None
            raise


def _parsed(url: str) -> tuple[type[Connection] | type[UnixDomainSocketConnection], dict[str, Any], str]:
    """The connection's class, its arguments, and an address without secrets."""
    try:
        parts = urlparse(url if "://" in url else f"redis://{url}")
        port = parts.port
    except ValueError:
        raise ValueError("write the store's URL as redis://host:6379/0, the port from 1 to 65535") from None
    options: dict[str, Any] = {"db": _database(parts)}
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    if parts.scheme == "unix" and parts.path and not parts.hostname:
        options["path"] = unquote(parts.path)
        return UnixDomainSocketConnection, options, f"unix://{options['path']}"
    if parts.scheme != "redis" or not parts.hostname or parts.netloc.endswith(":"):
        raise ValueError("write the store's URL as redis://host:6379/0 or unix:///path/to/redis.sock")
    options["host"], options["port"] = unquote(parts.hostname), 6379 if port is None else port
    return Connection, options, f"redis://{options['host']}:{options['port']}/{options['db']}"


def _database(parts: ParseResult) -> int:
    """From the path of redis://host/0, or ``?db=0``, which is all that a unix URL has room for."""
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    path = "" if parts.scheme == "unix" else parts.path.strip("/")
    text = query.pop("db", path) or "0"
    if query or parts.fragment or not text.isdecimal():
        raise ValueError(
            "the store's URL may name a database, a number, and nothing else: redis://host:6379/0, unix:///path?db=0"
        )
    return int(text)
