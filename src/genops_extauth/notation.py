"""The small notations of the configuration: durations, rates, addresses, store URLs.

Each function reads one text and returns its value, or raises ValueError whose message says what to write instead. No
message quotes the text: a store URL can hold a password, and who shows the value decides whether it may be shown.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import get_args
from urllib.parse import unquote

from genops_extauth.model import Unit

PERIODS: Mapping[Unit, int] = MappingProxyType(
    {
        "second": 1,
        "minute": 60,
        "hour": 3600,
        "day": 86_400,
        "week": 604_800,
        "month": 2_592_000,
        "year": 31_536_000,
    }
)
"""Seconds. Months have 30 days and years 365, as in envoyproxy/ratelimit (src/utils/utilities.go)."""

MAX_REQUESTS = 2**32 - 1
"""``requests_per_unit`` is a uint32 in Envoy's RateLimitResponse."""

_MAX_SOCKET_PATH = 107  # bytes: Linux' sun_path has 108, the last of them zero (unix(7))

_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?", re.ASCII)
_DURATION_WEIGHTS = (3600, 60, 1, 0.001)
_RATE = re.compile(r"(0|[1-9]\d{0,9})/([a-z]+)", re.ASCII)
_COUNT = re.compile(r"0|[1-9]\d{0,9}", re.ASCII)
_TCP = re.compile(r"(?P<host>\[[^\[\]]+\]|[A-Za-z0-9._-]+):(?P<port>0|[1-9]\d{0,4})", re.ASCII)
_REDIS = re.compile(
    r"redis://(?:(?P<user>[^:@/?#\s]*)(?::(?P<password>[^@/?#\s]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?(?:/(?P<db>\d{1,4})?)?",
    re.ASCII,
)
_UNIX_STORE = re.compile(r"unix://(?P<path>/[^@?#\s]+)(?:\?db=(?P<db>\d{1,4}))?", re.ASCII)
# What people bring from elsewhere, and what to write instead.
_OTHER_STORES = (
    (
        "rediss:",
        "TLS to the store is not supported yet: write redis://HOST:PORT and keep the connection on a private network",
    ),
    (
        "redis+sentinel:",
        "Sentinel is not supported yet: write redis://HOST:PORT of the primary, or of a proxy before it",
    ),
    ("redis+cluster:", "Cluster is not supported yet: write redis://HOST:PORT of a single Redis or Valkey"),
    ("valkey:", "write redis://HOST:PORT; Valkey speaks the same protocol"),
    ("/", "write unix:// before the path of a socket, for example unix:///run/valkey.sock"),
)


def duration(text: str) -> float:
    """Seconds of ``250ms``, ``30s``, ``5m``, ``1h30m``, ``24h``: Go's style, in whole numbers, largest unit first."""
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        hint = "a number needs its unit" if _COUNT.fullmatch(text) else "not a duration"
        raise ValueError(f"{hint}: write for example 250ms, 30s, 5m, 1h30m or 24h")
    return float(
        sum(int(part) * weight for part, weight in zip(found.groups(), _DURATION_WEIGHTS, strict=True) if part)
    )


def count(text: str) -> int:
    """Read a whole number from 0 to `MAX_REQUESTS`."""
    if not _COUNT.fullmatch(text) or int(text) > MAX_REQUESTS:
        raise ValueError(f"must be a whole number from 0 to {MAX_REQUESTS}, without leading zeros, signs or separators")
    return int(text)


def boolean(text: str) -> bool:
    """``true`` or ``false``, as YAML 1.2 has them: ``on`` and ``yes`` are text."""
    if text not in ("true", "false"):
        raise ValueError("write true or false")
    return text == "true"


@dataclass(frozen=True, slots=True)
class Rate:
    """`requests` per `unit`; 0 admits nothing."""

    requests: int
    unit: Unit

    def __str__(self) -> str:
        return f"{self.requests}/{self.unit}"

    @property
    def period(self) -> int:
        """The unit in seconds."""
        return PERIODS[self.unit]


def rate(text: str) -> Rate:
    """``100/hour``: requests per unit, second to year."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError("not a rate: write requests/unit, for example 100/hour")
    requests = count(found[1])
    for unit in PERIODS:
        if unit == found[2]:
            return Rate(requests, unit)
    raise ValueError(f"unit must be {', '.join(get_args(Unit)[:-1])} or year; write for example 100/hour")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address. `host` is a name or an IP address without brackets; `port` 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A unix socket by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


def tcp_address(text: str) -> Address:
    """``127.0.0.1:8080``, ``[::1]:8080``, ``localhost:8080``."""
    found = _TCP.fullmatch(text)
    if found is None or int(found["port"]) > 65_535:  # noqa: PLR2004 - a port has 16 bits
        raise ValueError(
            "not an address: write HOST:PORT, for example 127.0.0.1:8080 or [::1]:8080; "
            "0.0.0.0:8080 listens on every IPv4 interface"
        )
    return Address(_host(found["host"]), int(found["port"]))


def _host(host: str) -> str:
    try:
        if host.startswith("["):
            return str(IPv6Address(host[1:-1]))
        if re.fullmatch(r"[\d.]+", host):
            return str(IPv4Address(host))
    except ValueError:
        raise ValueError("its host is not an IP address: write for example 127.0.0.1 or [::1]") from None
    return host


def listen_address(text: str) -> Address | UnixPath:
    """A TCP address, or ``unix:/absolute/path``."""
    if not text.startswith("unix:"):
        return tcp_address(text)
    path = re.sub(r"^/{2,}", "/", text.removeprefix("unix:"))
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise ValueError("write an absolute path, for example unix:/run/genops/grpc.sock")
    if len(path.encode()) > _MAX_SOCKET_PATH:
        raise ValueError(f"a unix socket's path has at most {_MAX_SOCKET_PATH} bytes: choose a shorter one")
    return UnixPath(path)


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where the store is. `url` holds no password; `password` is what the text had, never shown."""

    url: str
    password: str | None


def store_url(text: str) -> StoreUrl:
    """``embedded:``, ``redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]``, ``unix:///PATH[?db=N]``, or a bare ``HOST:PORT``.

    The bare form is that of envoyproxy/ratelimit's REDIS_URL.
    """
    if text == "embedded:":
        return StoreUrl(text, None)
    for start, hint in _OTHER_STORES:
        if text.startswith(start):
            raise ValueError(hint)
    if _UNIX_STORE.fullmatch(text):
        return StoreUrl(text, None)
    found = _REDIS.fullmatch(text if "://" in text else f"redis://{text}")
    if found is None or int(found["port"] or 0) > 65_535:  # noqa: PLR2004 - a port has 16 bits
        raise ValueError(
            "not a store: write embedded:, redis://HOST:PORT, unix:///PATH or HOST:PORT; "
            "in a URL, write the characters @ / ? # of a password as %40 %2F %3F %23"
        )
    user = f"{found['user']}@" if found["user"] else ""
    url = f"redis://{user}{found['host']}:{found['port'] or 6379}/{found['db'] or 0}"
    return StoreUrl(url, unquote(found["password"]) if found["password"] else None)


def exact_path(text: str) -> str:
    r"""Check an origin-form path that has one spelling only; it is returned unchanged.

    An exemption is compared byte by byte. Whatever another component could read differently (a dot segment, an escape,
    a path parameter, ``\``) would exempt one path here and serve another there.
    """
    if not text.startswith("/"):
        raise ValueError("must start with /")
    if "?" in text or "#" in text:
        raise ValueError("write the path without query and fragment; they are ignored when requests are compared")
    if not re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,=:@/-]*", text):  # RFC 3986, 3.3: pchar without escapes and ;
        raise ValueError(
            "has a character with more than one reading (% ; \\ a space, or not ASCII): only exact paths are exempt"
        )
    if "//" in text or {".", ".."} & set(text.split("/")):
        raise ValueError("is not canonical: write it without //, . and ..")
    return text
