"""Route and identity -> decision: what passes, which headers are set and stripped, and what a refusal looks like.

Three rules hold on every path through this module, the anonymous one included:

1. What we do not set we remove. The upstream trusts ``x-genops-*`` and the GenOps SDK's family blindly, so a client's
   copy must never arrive. Removal wants exact names, so each spelling seen is listed: WSGI, CGI and PHP fold ``_`` (and
   some ``.``) into ``-``, which makes ``x_genops_team`` the same variable there (CVE-2025-64484, CVE-2026-54763,
   CVE-2026-88011).
2. Set and remove are disjoint: Envoy removes last, and would delete what it has just set.
3. An exemption is one exact method and one exact canonical path. Never a prefix, a query, or a User-Agent
   (CVE-2025-54576, CVE-2026-34457).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from genops_extauth.model import Allowed, Denied, Grant, Identity, Reason, Request, Verdict

ATTRIBUTES = ("team", "project", "customer_id", "customer_tier", "cost_center")
"""The governance attributes, in the order in which their headers are set."""

HEADER_OF = MappingProxyType({name: f"x-genops-{name.replace('_', '-')}" for name in ATTRIBUTES})

RESERVED_PREFIX = "x-genops-"
SDK_HEADERS = ("x-customer-id", "x-user-id", "x-tenant-id", "x-trace-id")
"""What the GenOps SDK's own middleware reads as identity (its Flask, FastAPI and Django integrations)."""

RESERVED = (
    *HEADER_OF.values(),
    *(
        RESERVED_PREFIX + name
        for name in ("customer", "environment", "feature", "session-id", "user-id", "workload-id")
    ),
    *SDK_HEADERS,
)
"""Removed wherever not set, seen or not: a gateway may hide headers from us (``allowed_headers``) that it forwards."""

# Every character of a field name that is neither letter nor digit (RFC 9110, 5.6.2): some CGI servers fold them all.
_FOLD = str.maketrans(dict.fromkeys("!#$%&'*+.^_`|~", "-"))
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
# Envoy's own ids are UUIDs; 128 leaves room for others and is far below any header limit.
_REQUEST_ID = re.compile(rb"[0-9A-Za-z._~+/=:@-]{1,128}")


@dataclass(frozen=True, slots=True)
class Denial:
    """What a refused client is told.

    `status` is HTTP's, `code` is google.rpc.Code's, `error` the stable code of the JSON body, `message` its sentence.
    `challenge` is the WWW-Authenticate field (RFC 6750, 3), empty where there is none.
    """

    status: int
    code: int
    error: str
    message: str
    challenge: str = ""


_MALFORMED = Denial(400, 3, "invalid_request", "The request is not well formed.")
_UNAUTHENTICATED = Denial(401, 16, "unauthenticated", "A bearer token is required.", 'Bearer realm="genops"')
# One answer for every way in which a token can be bad: which check it failed helps an attacker and nobody else.
_INVALID_TOKEN = Denial(
    401, 16, "invalid_token", "The bearer token is not valid.", 'Bearer realm="genops", error="invalid_token"'
)
_FORBIDDEN = Denial(403, 7, "forbidden", "The identity may not use this service.")
_UNAVAILABLE = Denial(503, 14, "unavailable", "The request cannot be authorized right now; try again.")
_INTERNAL = Denial(500, 13, "internal_error", "The request could not be authorized.")

DENIALS: Mapping[Reason, Denial] = MappingProxyType(
    {
        Reason.REQUEST_MALFORMED: _MALFORMED,
        Reason.REQUEST_INCONSISTENT: _MALFORMED,
        Reason.CREDENTIALS_MISSING: _UNAUTHENTICATED,
        Reason.CREDENTIALS_AMBIGUOUS: _INVALID_TOKEN,
        Reason.CREDENTIALS_UNSUPPORTED: _UNAUTHENTICATED,
        Reason.TOKEN_TOO_LARGE: _INVALID_TOKEN,
        Reason.TOKEN_MALFORMED: _INVALID_TOKEN,
        Reason.TOKEN_HEADER_REFUSED: _INVALID_TOKEN,
        Reason.TOKEN_ALGORITHM_REFUSED: _INVALID_TOKEN,
        Reason.TOKEN_CLAIMS_MALFORMED: _INVALID_TOKEN,
        Reason.TOKEN_ISSUER_UNKNOWN: _INVALID_TOKEN,
        Reason.TOKEN_AUDIENCE_WRONG: _INVALID_TOKEN,
        Reason.TOKEN_EXPIRED: _INVALID_TOKEN,
        Reason.TOKEN_NOT_YET_VALID: _INVALID_TOKEN,
        Reason.TOKEN_KEY_UNKNOWN: _INVALID_TOKEN,
        Reason.TOKEN_SIGNATURE_WRONG: _INVALID_TOKEN,
        Reason.ATTRIBUTE_MISSING: _FORBIDDEN,
        Reason.ATTRIBUTE_UNUSABLE: _FORBIDDEN,
        Reason.TIER_NOT_GRANTED: _FORBIDDEN,
        Reason.KEYS_UNAVAILABLE: _UNAVAILABLE,
        Reason.INTERNAL: _INTERNAL,
    }
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Who must show what.

    `open_routes` are the exact (method, path) pairs that need no identity. `required` attributes must be present once
    `defaults` are applied.
    """

    open_routes: frozenset[tuple[str, str]] = frozenset()
    required: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)

    def is_open(self, request: Request) -> bool:
        """Whether the request needs no identity."""
        return (request.method, request.path) in self.open_routes

    def authorize(self, request: Request, grant: Grant, new_id: Callable[[], str]) -> Verdict:
        """Decide on a request whose credentials have been dealt with: `grant` is its identity's, or `NOBODY`.

        This is the one place where a request is allowed. It runs for every request; only `grants` may be remembered.
        """
        if not request.consistent:
            return Denied(Reason.REQUEST_INCONSISTENT)
        if not request.path.startswith("/") or not _TOKEN.fullmatch(request.method):
            return Denied(Reason.REQUEST_MALFORMED, "method or path")
        if grant.identity is None:
            if not self.is_open(request):
                return Denied(Reason.CREDENTIALS_MISSING)
        elif missing := self._missing(grant.identity):
            return Denied(Reason.ATTRIBUTE_MISSING, missing)
        try:
            aliases = _aliases_of(request.names or "\n".join(request.headers))
        except ValueError as error:
            return Denied(Reason.REQUEST_MALFORMED, str(error))
        kept = _REQUEST_ID.fullmatch(request.headers.get("x-request-id", b""))
        return Allowed(grant, aliases, None if kept else new_id())

    def _missing(self, identity: Identity) -> str:
        for name in self.required:
            if name not in identity.attributes and name not in self.defaults:
                return name
        return ""

    def grants(self, identity: Identity) -> Grant:
        """What the upstream is told of an identity: its attributes over the defaults."""
        known = {name: identity.attributes.get(name) or self.defaults.get(name) for name in ATTRIBUTES}
        facts = {name: value for name, value in known.items() if value}
        headers = tuple((HEADER_OF[name], value) for name, value in facts.items())
        taken = {header for header, _ in headers}
        return Grant(identity, headers, tuple(name for name in RESERVED if name not in taken), tuple(facts.items()))


NOBODY = Grant(identity=None, headers=(), removed=RESERVED, metadata=())
"""The grant of a route that needs no identity: everything reserved is stripped."""


def _aliases_of(names: str) -> tuple[str, ...]:
    """`_aliases`, remembered: clients of one kind send the same names again and again.

    Only short lists are: a client that sends new ones each time could otherwise fill the memory with 60 KiB apiece. As
    it is it fills 2 MiB, and makes this as slow as without a memory.
    """
    return _known_aliases(names) if len(names) <= _REMEMBERED else _aliases(names)


def _aliases(names: str) -> tuple[str, ...]:
    """The names, one a line, that fold into a reserved one without being of `RESERVED`, which is dealt with unseen.

    Raises ValueError where one of them is no name of a header (RFC 9110, 5.1).
    """
    folded = {name: name.translate(_FOLD) for name in names.split("\n")}
    aliases = tuple(
        name
        for name, plain in folded.items()
        if name not in RESERVED and (plain.startswith(RESERVED_PREFIX) or plain in SDK_HEADERS)
    )
    if not all(map(_TOKEN.fullmatch, aliases)):
        raise ValueError("the name of a reserved header")
    return aliases


_REMEMBERED = 1024  # characters: some sixty names, three times what browsers and SDKs send
_known_aliases = lru_cache(maxsize=2048)(_aliases)
