"""The headers that only we may set: which they are, and under which other names a client could send them.

The upstream trusts ``x-genops-*`` and the GenOps SDK's family blindly, so a client's copy must never arrive: what we do
not set we remove. Removal wants exact names, so each spelling seen is listed: WSGI, CGI and PHP fold ``_`` (and some
``.``) into ``-``, which makes ``x_genops_team`` the same variable there (CVE-2025-64484, CVE-2026-54763,
CVE-2026-88011).
"""

import re
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

ATTRIBUTES = (
    "team",
    "project",
    "customer_id",
    "customer_tier",
    "cost_center",
    "environment",
    "feature",
    "user_id",
    "session_id",
    "workload_id",
)
"""The governance attributes, in the order in which their headers are set."""

RESERVED_PREFIX = "x-genops-"
HEADER_OF = MappingProxyType({name: RESERVED_PREFIX + name.replace("_", "-") for name in ATTRIBUTES})

SDK_HEADER_OF = MappingProxyType({"x-customer-id": "customer_id", "x-user-id": "user_id", "x-tenant-id": "customer_id"})
"""What the GenOps SDK's own middleware reads (its Flask, FastAPI and Django integrations): a tenant is a customer."""

SDK_HEADERS = (*SDK_HEADER_OF, "x-trace-id")
"""Those, and one that it believes and we have nothing to say about."""

RESERVED = (*HEADER_OF.values(), f"{RESERVED_PREFIX}customer", *SDK_HEADERS)
"""Removed wherever not set, seen or not: a gateway may hide headers from us (``allowed_headers``) that it forwards."""

# Every character of a field name that is neither letter nor digit (RFC 9110, 5.6.2): some CGI servers fold them all.
_FOLD = str.maketrans(dict.fromkeys("!#$%&'*+.^_`|~", "-"))
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, 5.6.2: what a field name is, and a method."""

_REMEMBERED = 1024  # characters: some sixty names, three times what browsers and SDKs send


class Seen(NamedTuple):
    """What the names of a request's headers show.

    `aliases` fold into a reserved name, or into that of the API key, and are to be removed too. `connection`: there is
    a Connection field, whose value has to be looked at.
    """

    aliases: tuple[str, ...]
    connection: bool


def look(names: str, key_header: str | None = None) -> Seen:
    """Look through names, one a line. `key_header` is that of API keys, where there is one.

    Clients of one kind send the same names again and again, so they are remembered, but only short lists: a client
    that sends new ones each time could otherwise fill the memory with 60 KiB apiece. As it is it fills 2 MiB, and makes
    this as slow as without a memory. Raises ValueError where a name to be removed is no name of a header.
    """
    return _known(names, key_header) if len(names) <= _REMEMBERED else _look(names, key_header)


def _look(names: str, key_header: str | None) -> Seen:
    listed = names.split("\n")
    folded_key = None if key_header is None else key_header.translate(_FOLD)
    aliases = tuple(
        name
        for name, folded in zip(listed, names.translate(_FOLD).split("\n"), strict=True)
        if (_is_reserved(folded) or folded == folded_key) and name not in RESERVED and name != key_header
    )
    if not all(map(TOKEN.fullmatch, aliases)):
        raise ValueError("the name of a reserved header")
    return Seen(aliases, "connection" in listed)


_known = lru_cache(maxsize=2048)(_look)


def _is_reserved(folded: str) -> bool:
    return folded.startswith(RESERVED_PREFIX) or folded in SDK_HEADERS


def nominates(connection: bytes) -> bool:
    """Whether a Connection field names a header that we set (RFC 9110, 7.6.1).

    The next hop would take ours for the client's connection's, and drop it before the service sees it
    (GHSA-w9mr-28mw-j8hg). Envoy has dealt with such a field before it asks; other gateways leave it to us.
    """
    options = connection.decode("latin-1").lower().translate(_FOLD).split(",")
    return any(_is_reserved(name) or name == "x-request-id" for name in map(str.strip, options))
