"""The small notations of the configuration: durations, rates, shares, addresses, paths.

Each function reads one text and returns its value, or raises ValueError whose message says what to write instead. No
message quotes the text: what stands in a wrong place can be a password, and who shows it decides whether it may be.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import get_args

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
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)(%?)", re.ASCII)
_TCP = re.compile(r"(?P<host>\[[^\[\]]+\]|[A-Za-z0-9._-]+):(?P<port>0|[1-9]\d{0,4})", re.ASCII)


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


def share(text: str) -> float:
    """``10%`` or ``0.1``: from 0 to 1, in at most six decimals."""
    found = _SHARE.fullmatch(text)
    value = float(found[1]) / (100 if found[2] else 1) if found else 2.0
    if value > 1:
        raise ValueError("write a share from 0% to 100%, for example 10% or 0.1")
    return value


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
