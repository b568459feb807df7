"""What Redis can raise, and what it means: the one place that knows."""

import ssl

import hiredis
import redis.exceptions as errors

from genops_extauth.model import StoreUnavailable

_LATE = ("timeout", "it did not answer in time; look at its load and the network to it")
_AWAY = ("unreachable", "check the address, and that it runs")
_LOGIN = ("refused", "check the user and password")
_RIGHTS = (
    "refused",
    "let the user run eval, evalsha, time, mget, get, set and del on our keys, and @hash and @sortedset",
)
_FULL = ("full", "raise its maxmemory; keep maxmemory-policy noeviction")
_REPLICA = ("read_only", "it is a replica; use the address of the primary")
_CLUSTER = ("cluster", "it is part of a cluster: write redis+cluster://HOST:PORT")
_DOWN = ("cluster", "its cluster is down or is moving keys; look at CLUSTER INFO")
_STRANGER = ("protocol", "what answers there is no Redis; check the address")

FAULTS: tuple[tuple[type[BaseException], str, str], ...] = (
    (TimeoutError, *_LATE),
    (errors.TimeoutError, *_LATE),
    (errors.AuthenticationError, *_LOGIN),
    (errors.AuthorizationError, *_LOGIN),
    (errors.ExternalAuthProviderError, *_LOGIN),
    (errors.AuthenticationWrongNumberOfArgsError, *_LOGIN),
    (errors.NoPermissionError, *_RIGHTS),
    (ssl.SSLError, "tls", "check store.tls: ca_file, server_name, cert_file and key_file"),
    (errors.BusyLoadingError, "loading", "it is reading its data; wait until it has"),
    (errors.MaxConnectionsError, "unreachable", "raise its maxclients"),
    (errors.MasterDownError, *_REPLICA),
    (errors.ClusterDownError, *_DOWN),
    (errors.TryAgainError, *_DOWN),
    (errors.ConnectionError, *_AWAY),
    (OSError, *_AWAY),
    (errors.OutOfMemoryError, *_FULL),
    (errors.ReadOnlyError, *_REPLICA),
    (errors.AskError, *_CLUSTER),
    (errors.ClusterError, *_CLUSTER),
    (errors.ClusterCrossSlotError, *_CLUSTER),
    (errors.RedisClusterException, *_CLUSTER),
    (hiredis.HiredisError, *_STRANGER),
    (errors.InvalidResponse, *_STRANGER),
    (errors.ResponseError, "error", "it must be a Redis from 6.2 on or a Valkey, with scripting"),
    (errors.RedisError, "error", "the Redis client could not go on"),
)
"""What a failure means: exception, kind (bounded: a metric's label), what to do. The first row that fits counts."""

_SAID = (
    ("READONLY", *_REPLICA),
    ("OOM ", *_FULL),
    ("MISCONF", "read_only", "it cannot save its data, and so takes none; look at its disk and its log"),
    ("NOREPLICAS", "read_only", "it has fewer replicas than its min-replicas-to-write, and so takes nothing"),
    ("BUSY", "timeout", "a script of somebody else holds it up; look at its slow log"),
    ("ACL failure", *_RIGHTS),
    ("executing the script can't", *_RIGHTS),
)
"""The same for errors known by their words: the client has no class for them, or 6.2 wrapped a script's in its own."""


def kind_of(error: BaseException) -> str | None:
    """The kind of a foreign failure, or None for what is no failure of the store."""
    found = _known(error)
    return None if found is None else found[0]


def translated(error: Exception, address: str) -> Exception:
    """A foreign failure in our words, caused by itself; what is none passes as it is. Redis repeats no password."""
    found = _known(error)
    if found is None:
        return error
    said = f" ({error})" if str(error) else ""
    outage = StoreUnavailable(f"{found[0]}: the store {address} cannot be used: {found[1]}{said}")
    outage.__cause__ = error
    return outage


def _known(error: BaseException) -> tuple[str, str] | None:
    if isinstance(error, errors.ResponseError):
        for words, kind, advice in _SAID:
            if words in str(error):
                return kind, advice
    return next(((kind, advice) for known, kind, advice in FAULTS if isinstance(error, known)), None)
