"""Names of hosts, as requests have them and as routes do."""

import re
from ipaddress import AddressValueError, IPv6Address

_LONGEST = 253  # RFC 1035, 2.3.4, as text

_NAME = r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*+"
_AUTHORITY = re.compile(rf"({_NAME}|\[[0-9a-f:.]{{2,45}}\])\.?(?::\d*)?", re.ASCII)
_PATTERN = re.compile(rf"(?:\*\.)?{_NAME}")


def host_of(authority: str) -> str:
    """Find the host in an authority (RFC 9110, 4.2.3): in lower case, without its port and the dot of the root.

    It is empty where there is none, or what stands there is none that a route could have.
    """
    if len(authority) > _LONGEST + len(".:65535") or not authority.isascii():  # U+212A would become a k
        return ""
    found = _AUTHORITY.fullmatch(authority.lower())
    if found is None:
        return ""
    return _literal(found[1]) if found[1].startswith("[") else found[1]


def _literal(text: str) -> str:
    try:
        return f"[{IPv6Address(text[1:-1])}]"
    except AddressValueError:
        return ""


def host_pattern(text: str) -> str:
    """Read ``api.example.com``, ``*.example.com`` (one label or more before it) or ``[2001:db8::1]``.

    Raises ValueError, whose message says what to write instead.
    """
    lower = text.lower()
    if text.isascii() and len(text) <= _LONGEST:
        if _PATTERN.fullmatch(lower):
            return lower
        if lower.startswith("[") and (literal := host_of(lower)) and lower.endswith("]"):
            return literal
    raise ValueError(
        "write a host without port: api.example.com, *.example.com for all below it, an IPv6 address as [2001:db8::1]"
    )
