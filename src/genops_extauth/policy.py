"""Route and identity -> decision: what passes, and which headers are set and stripped.

Three rules hold on every path through this module, the anonymous one included:

1. What we do not set we remove, in every spelling (`reserved_headers`), and so we do with API keys, which are secrets
   between the client and us: the provider of a model is not to learn them.
2. Set and remove are disjoint: Envoy removes last, and would delete what it has just set.
3. Nobody passes unasked but by one exact method and one exact path, or as the preflight of a known origin. Never by a
   prefix, a query, or a User-Agent (CVE-2025-54576, CVE-2026-34457).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args
from urllib.parse import unquote

from genops_extauth.model import Allowed, Denied, Form, Grant, Identity, Method, Request, Verdict
from genops_extauth.reasons import Reason
from genops_extauth.reserved_headers import ATTRIBUTES, HEADER_OF, RESERVED, SDK_HEADER_OF, TOKEN, look, nominates
from genops_extauth.routes import Requirements, Route, Routes

# Envoy's own ids are UUIDs; 128 leaves room for others and is far below any header limit.
_REQUEST_ID = re.compile(rb"[0-9A-Za-z._~+/=:@-]{1,128}")
# An API key in Authorization, also after a tab or a comma. Tokens of other kinds hold it as good as never.
_BEARER_KEY = re.compile(rb"(?<![0-9A-Za-z])gxk_")
_GRPC = b"application/grpc"
_GRPC_GOES_ON = (b"", b"+", b";")  # application/grpc-web is HTTP's, to Envoy too
_USUAL = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # others are looked at closer


@dataclass(frozen=True, slots=True)
class Policy:
    """Who must show what, and what the upstream is told.

    What is on none of the `routes` needs one of the `accepted` credentials, and nothing else. `required` attributes
    must be there once `defaults` are applied. A tier that is missing, or none of `tiers` where there are any, counts as
    the `default_tier`. `sdk_headers`: whether the SDK's own headers are set too.

    API keys, where there are any, come in `api_key_header` or in the query's `api_key_parameter`, and are never passed
    on. Neither is Authorization, unless `forward_authorization`.
    """

    routes: Sequence[Route] = ()
    required: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    tiers: frozenset[str] = frozenset()
    default_tier: str = ""
    accepted: tuple[Method, ...] = get_args(Method)
    sdk_headers: bool = False
    api_key_header: str | None = None
    api_key_parameter: str | None = None
    forward_authorization: bool = True
    nobody: Grant = field(init=False)
    """The grant of whoever passes without an identity: everything reserved is stripped."""
    _table: Routes = field(init=False, repr=False)
    _guarded: tuple[str, ...] = field(init=False, repr=False)
    _needed: tuple[str, ...] = field(init=False, repr=False)
    _bearer_keys: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        credentials = [self.api_key_header] if self.api_key_header is not None else []
        credentials += [] if self.forward_authorization else ["authorization"]
        guarded = tuple(dict.fromkeys((*RESERVED, *credentials)))
        keys = self.api_key_header is not None or self.api_key_parameter is not None
        object.__setattr__(self, "_table", Routes(self.routes, self.accepted))
        object.__setattr__(self, "_guarded", guarded)
        object.__setattr__(self, "_needed", tuple(name for name in self.required if name not in self.defaults))
        object.__setattr__(self, "_bearer_keys", keys and "authorization" not in guarded)
        object.__setattr__(self, "nobody", Grant(identity=None, headers=(), removed=guarded, metadata=()))

    def route(self, request: Request) -> Route:
        """Find the route of a request: the first that matches, or that of everything else."""
        return self._table.find(request)

    def form(self, route: Route, request: Request) -> Form:
        """Tell how a refusal is to be written: as the route says, unless whoever asks speaks gRPC."""
        kind = request.headers.get("content-type", b"")
        speaks_grpc = kind.startswith(_GRPC) and kind[len(_GRPC) : len(_GRPC) + 1] in _GRPC_GOES_ON
        return "grpc" if speaks_grpc else route.denials

    def unasked(self, route: Route, request: Request) -> bool:
        """Whether no credential is looked at, not even a bad one."""
        return not route.asks or (request.method == "OPTIONS" and _is_preflight(route, request))

    def authorize(self, route: Route, request: Request, grant: Grant, new_id: Callable[[], str]) -> Verdict:
        """Decide on a request whose credentials have been dealt with: `grant` is its identity's, or `nobody`.

        This is the one place where a request is allowed. It runs for every request; only `grants` may be remembered.
        """
        identity = grant.identity
        refusal = self._refusal(route, request, identity)
        if refusal is not None:
            return refusal
        headers = request.headers
        try:
            seen = look(request.names or "\n".join(headers), self.api_key_header)
        except ValueError as error:
            return Denied(Reason.REQUEST_MALFORMED, str(error))
        removed = seen.aliases
        if seen.connection and nominates(headers.get("connection", b"")):
            removed += ("connection",)
        # Beside a token there is no key in it. Beside a certificate, and where nobody looks, there may be one.
        may_hold_key = self._bearer_keys and (identity is None or identity.method != "jwt")
        if may_hold_key and _BEARER_KEY.search(headers.get("authorization", b"")):
            removed += ("authorization",)
        parameters = () if self.api_key_parameter is None else _present(self.api_key_parameter, request.query)
        kept = _REQUEST_ID.fullmatch(headers.get("x-request-id", b""))
        return Allowed(grant, removed, None if kept else new_id(), parameters)

    def grants(self, identity: Identity) -> Grant:
        """What the upstream is told of an identity: its attributes over the defaults."""
        known = {name: self._fact(identity, name) for name in ATTRIBUTES}
        facts = {name: value for name, value in known.items() if value}
        headers = {HEADER_OF[name]: value for name, value in facts.items()}
        if self.sdk_headers:
            headers |= {header: facts[name] for header, name in SDK_HEADER_OF.items() if name in facts}
        removed = tuple(name for name in self._guarded if name not in headers)
        return Grant(identity, tuple(headers.items()), removed, tuple(facts.items()))

    def _refusal(self, route: Route, request: Request, identity: Identity | None) -> Denied | None:
        if not request.consistent:
            return Denied(Reason.REQUEST_INCONSISTENT)
        if request.path[:1] != "/" or not (request.method in _USUAL or _is_unusual(request.method)):
            return Denied(Reason.REQUEST_MALFORMED, "method or path")
        if identity is None:
            if request.method == "OPTIONS" and _is_preflight(route, request):
                return None
            unfit = _unfit(route)
        else:
            unfit = self._identity_unfit(route, identity)
        if unfit is None and route.body is not None:
            return route.body.refusal(request, self._tier(identity))
        return unfit

    def _identity_unfit(self, route: Route, identity: Identity) -> Denied | None:
        """What an identity lacks here. Details name what is configured, never what a credential says."""
        if route.refusal is not None:
            return Denied(route.refusal)
        if identity.method not in route.accepts:
            return Denied(Reason.CREDENTIALS_UNSUPPORTED)
        for name in self._needed:
            if name not in identity.attributes:
                return Denied(Reason.ATTRIBUTE_MISSING, name)
        return None if route.requires is None else self._unmet(route.requires, identity)

    def _unmet(self, requires: Requirements, identity: Identity) -> Denied | None:
        if not requires.scopes <= identity.scopes:
            return Denied(Reason.SCOPE_MISSING, min(requires.scopes - identity.scopes))
        if requires.roles and requires.roles.isdisjoint(identity.roles):
            return Denied(Reason.ROLE_MISSING)
        if requires.tiers and self._tier(identity) not in requires.tiers:
            return Denied(Reason.TIER_NOT_ADMITTED)
        for name, values in requires.attributes.items():
            if self._fact(identity, name) not in values:
                return Denied(Reason.ATTRIBUTE_NOT_ADMITTED, name)
        return None

    def _fact(self, identity: Identity, name: str) -> str | None:
        return identity.attributes.get(name) or self.defaults.get(name)

    def _tier(self, identity: Identity | None) -> str:
        tier = None if identity is None else self._fact(identity, "customer_tier")
        return self.default_tier if tier is None or (self.tiers and tier not in self.tiers) else tier


def _is_unusual(method: str) -> bool:
    """Whether it is a method, and none that a service could take for one of the usual: ``post`` is none to a route."""
    return TOKEN.fullmatch(method) is not None and method.upper() not in _USUAL


def _unfit(route: Route) -> Denied | None:
    """What whoever has no identity lacks here."""
    if route.asks and "anonymous" not in route.accepts:
        return Denied(Reason.CREDENTIALS_MISSING)
    return None if route.refusal is None else Denied(route.refusal)


def _present(parameter: str, query: str) -> tuple[str, ...]:
    """The parameter, in each spelling that the query has: gateways remove by the spelling, services decode it."""
    if not query:
        return ()
    names = dict.fromkeys(part.partition("=")[0] for part in query.split("&"))
    return tuple(name for name in names if unquote(name) == parameter)


def _is_preflight(route: Route, request: Request) -> bool:
    """Whether a browser asks if a page of an origin that the route knows may ask (Fetch, CORS-preflight request).

    The method alone proves nothing: many services treat OPTIONS as any other.
    """
    headers = request.headers
    known = headers.get("origin", b"") in route.origins and request.method == "OPTIONS"
    return known and bool(headers.get("access-control-request-method"))
