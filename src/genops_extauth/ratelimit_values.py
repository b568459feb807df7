"""Values as envoyproxy/ratelimit reads them from its environment, rewritten as our configuration writes them.

It reads them with kelseyhightower/envconfig, and so as Go does: ``strconv.ParseBool``, ``ParseInt`` in base 0,
``ParseFloat`` and ``time.ParseDuration``. Each function returns what stands for the same value in our file, or raises
ValueError whose message says what to write instead. No message quotes the text, which may hold a secret.
"""

import math
import re
from collections.abc import Mapping
from fractions import Fraction

from genops_extauth.strict_yaml import Plain

_BOOLEANS: Mapping[str, str] = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), "true"),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), "false"),
}
_MILLISECONDS: Mapping[str, Fraction] = {
    "ns": Fraction(1, 1_000_000),
    "us": Fraction(1, 1000),
    "\u00b5s": Fraction(1, 1000),  # the micro sign and the letter mu: Go reads both
    "\u03bcs": Fraction(1, 1000),
    "ms": Fraction(1),
    "s": Fraction(1000),
    "m": Fraction(60_000),
    "h": Fraction(3_600_000),
}
_LEVELS: Mapping[str, str] = {
    **dict.fromkeys(("panic", "fatal", "error"), "error"),
    **dict.fromkeys(("warn", "warning"), "warning"),
    "info": "info",
    **dict.fromkeys(("debug", "trace"), "debug"),
}
_LONGEST = (2**63 - 1) // 1_000_000  # milliseconds: Go counts nanoseconds in an int64, 292 years of them
_LARGEST_NUMBER = 10**9  # what `notation.duration` takes of a unit is less
_PART = re.compile(r"(\d{1,19}(?:\.\d{0,12})?|\.\d{1,12})(ns|us|\u00b5s|\u03bcs|ms|s|m|h)", re.ASCII)


def text(value: str) -> str:
    """Any text is what it says."""
    return value


def boolean(value: str) -> str:
    """``1``, ``t``, ``T``, ``TRUE``, ``true``, ``True`` and their opposites."""
    if value not in _BOOLEANS:
        raise ValueError("write true or false")
    return _BOOLEANS[value]


def integer(value: str) -> str:
    """A whole number in Go's notation: ``8081``, ``0x1f91``, ``10_000``."""
    try:
        return str(int(value, 0))
    except ValueError:
        raise ValueError("write a whole number") from None


def number(value: str) -> str:
    """A number, rounded to six decimals."""
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError("write a number, for example 0.8")
    return f"{found:.6f}".rstrip("0").rstrip(".")


def duration(value: str) -> str:
    """``150us``, ``1.5h``, ``1m30s``, ``0``: rounded up to milliseconds, the least that our file has.

    Where those are more than nine digits, eleven days, it is rounded up to seconds.
    """
    unsigned = value.removeprefix("+")
    parts = _PART.findall(unsigned)
    if not unsigned or (unsigned != "0" and "".join(map("".join, parts)) != unsigned):
        raise ValueError("write a duration, for example 250ms, 10s or 1m30s")
    whole = math.ceil(sum(Fraction(amount) * _MILLISECONDS[unit] for amount, unit in parts))
    if whole > _LONGEST:
        raise ValueError("is longer than Go's durations are: write a shorter one, for example 24h")
    if whole >= _LARGEST_NUMBER:
        hours, rest = divmod(whole, 3_600_000)
        return f"{hours}h{-(-rest // 1000)}s"
    return f"{whole}ms" if whole % 1000 else f"{whole // 1000}s"


def pairs(value: str, sign: str = ":") -> dict[str, Plain]:
    """``k1:v1,k2:v2``; a value may hold the `sign` too."""
    found: dict[str, Plain] = {}
    for item in filter(str.strip, value.split(",")):
        key, given, held = item.partition(sign)
        if not given or not key.strip():
            raise ValueError(f"write pairs, for example a{sign}b,c{sign}d")
        found[key.strip()] = held.strip()
    return found


def level(value: str) -> str:
    """The levels of logrus (its ParseLevel), by ours."""
    found = _LEVELS.get(value.lower())
    if found is None:
        raise ValueError("write debug, info, warn or error")
    return found


def log_format(value: str) -> str:
    """``json``, or text."""
    return "json" if value.lower() == "json" else "console"


def config_type(value: str) -> str:
    """``FILE`` or ``GRPC_XDS_SOTW``."""
    if value not in ("FILE", "GRPC_XDS_SOTW"):
        raise ValueError("write FILE or GRPC_XDS_SOTW")
    return value


def target(value: str) -> str:
    """The address in a gRPC target (its doc/naming.md)."""
    return value.removeprefix("dns:").removeprefix("///")


def listening(value: str) -> str:
    """``:9090`` is on every address of the machine, as Go's net.Listen reads it."""
    return f"0.0.0.0{value}" if value.startswith(":") else value  # noqa: S104 - it is what was asked for


def one(value: str) -> list[Plain]:
    """A list of one."""
    return [value]


def properties(value: str) -> dict[str, Plain]:
    """``k=v,...``."""
    return pairs(value, "=")


def headers(value: str) -> dict[str, Plain]:
    """``k:v,...``, names in lower case, as grpc-go sends them."""
    return {name.lower(): held for name, held in pairs(value).items()}


def prefix(value: str) -> str:
    """A prefix of keys; a colon follows it anyway."""
    return value.removesuffix(":")


def some_bytes(value: str) -> str:
    """Whether a size is more than nothing."""
    return "false" if integer(value) == "0" else "true"
