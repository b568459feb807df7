"""A peer's certificate -> Identity, Denied, or None: what mutual TLS proved to the gateway, or to a proxy before it.

Rules
-----
- The gateway checked the certificate: its authority, its signature, the peer's key. Here its names are read, and its
  end is looked at again, for a connection outlives a certificate.
- The connection's own peer is who asks, unless it is a trusted hop: a proxy that asks for others, and says for whom in
  ``x-forwarded-client-cert``. Then the header alone counts. The hop's own certificate never does: it would make every
  client that has none the hop itself. From anybody else the header is what a client wrote, and is not looked at.
- A certificate whose names are not configured is None, "not mine": in a mesh every request has one. One that is
  malformed, or over, is refused.
- What a certificate says is remembered by its digest, who may do what never is.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from genops_extauth import claims, peer_names
from genops_extauth.cache import Cache
from genops_extauth.model import Denied, Identity, Request
from genops_extauth.peer_names import Names, NamesError
from genops_extauth.reasons import Reason
from genops_extauth.spiffe import Pattern

ISSUER = "certificate"
"""The issuer of identities by certificate: revocations of their subjects name it."""

HEADER = "x-forwarded-client-cert"

_MOST_BYTES = 16 * 1024
"""Of a certificate in URL encoding, or the header. With an RSA key of 4096 bits and ten names it is 4 KiB; Envoy takes
60 KiB of headers."""

_UNDATED = 86_400.0
"""Seconds that an identity holds whose certificate is not passed on: a day, which is what workloads' certificates live
(Istio 24 h, SPIRE 1 h). It ends with its connection anyway."""

_ENTRY_BYTES = 2_048
"""Of the cache: an identity with its attributes, each of 256 bytes at most, and the key."""

_CAPACITY = 8 * 1024 * 1024
"""Bytes of the cache: 4,096 certificates in use at a time."""


@dataclass(frozen=True, slots=True)
class DnsPattern:
    """A DNS name in lower case; ``*.`` in front stands for one whole label (RFC 9525, 6.3)."""

    name: str

    def matches(self, name: str) -> bool:
        """Whether a name is of this pattern."""
        label, _, rest = name.partition(".")
        return name == self.name or (label != "" and rest != "" and f"*.{rest}" == self.name)


@dataclass(frozen=True, slots=True)
class Rule:
    """Who a certificate with such a name is. What named segments of a SPIFFE id stand for joins the `attributes`."""

    name: Pattern | DnsPattern
    attributes: Mapping[str, str] = field(default_factory=dict)
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()

    def subject(self, names: Names) -> tuple[str, Mapping[str, str]] | None:
        """The name that the rule is about, with what it says; None where there is no such name."""
        if isinstance(self.name, DnsPattern):
            return next(((name, {}) for name in names.dns if self.name.matches(name)), None)
        found = None if names.spiffe is None else self.name.match(names.spiffe)
        return None if found is None else (str(names.spiffe), found)


@dataclass(frozen=True, slots=True)
class Hops:
    """Proxies that say for whom they ask: by their address, or by the principal of their own certificate."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    principals: frozenset[str] = frozenset()

    def include(self, address: str, principal: str) -> bool:
        """Whether a peer is one of them."""
        if principal in self.principals:
            return True
        try:
            parsed = ip_address(address)
        except ValueError:
            return False  # a unix socket has no address
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self.networks)


_Reader = Callable[[bytes], Names]
"""Reads what says which certificate the caller has. Raises `NamesError`."""


class _Answer(NamedTuple):
    """What is known of a certificate, up to some second."""

    found: Identity | Denied | None
    until: float = math.inf


class PeerCertificates:
    """Tells who a peer is: by the first of `rules` that one of its names is of. A `gate.Authenticator`."""

    def __init__(self, rules: Sequence[Rule], hops: Hops = Hops(), *, capacity: int = _CAPACITY) -> None:
        self._rules = tuple(rules)
        self._cache: Cache[_Answer] = Cache(capacity)
        # Parsing an address takes two microseconds, and most requests come from a few.
        self._trusted = lru_cache(maxsize=1024)(hops.include)

    def presented(self, request: Request) -> bool:
        """Whether something says which certificate the caller has."""
        return self._said(request) is not None

    async def authenticate(
        self,
        request: Request,
        wall: Callable[[], float],
        remaining: Callable[[], float | None],  # noqa: ARG002 - as `gate.Authenticator`: it never waits
    ) -> Identity | Denied | None:
        """Tell who the caller's certificate says that it is; None where there is none, or its names are nobody's."""
        said = self._said(request)
        return None if said is None else self._known(*said, wall())

    def _said(self, request: Request) -> tuple[_Reader, bytes] | None:
        """What says which certificate the caller has, with how to read it."""
        peer = request.peer
        if self._trusted(peer.address, peer.principal):
            header = request.headers.get(HEADER)
            if header is None:
                return None
            return (_repeated if HEADER in request.repeated else peer_names.of_forwarded), header
        if peer.certificate:
            return peer_names.of_certificate, peer.certificate.encode()
        return (peer_names.of_principal, peer.principal.encode()) if peer.principal else None

    def _known(self, read: _Reader, text: bytes, now: float) -> Identity | Denied | None:
        if len(text) > _MOST_BYTES:
            return Denied(Reason.CERTIFICATE_MALFORMED, f"more than {_MOST_BYTES} bytes")
        # By its kind too: one text could be read in two ways, and only one of them is right here.
        key = hashlib.sha256(read.__name__.encode() + b" " + text).digest()
        known = self._cache.get(key)
        if known is None or now >= known.until:
            known = self._judged(read, text, now)
            self._cache.put(key, known, _ENTRY_BYTES)
        return known.found

    def _judged(self, read: _Reader, text: bytes, now: float) -> _Answer:
        try:
            names = read(text)
        except NamesError as error:
            return _Answer(Denied(Reason.CERTIFICATE_MALFORMED, str(error)))
        if now >= names.until:
            return _Answer(Denied(Reason.CERTIFICATE_EXPIRED, "its time is over"))
        for rule in self._rules:
            subject = rule.subject(names)
            if subject is not None:
                until = names.until if names.until < math.inf else now + _UNDATED
                return _Answer(_identity(rule, *subject, until), until)
        return _Answer(None, names.until)


def _identity(rule: Rule, subject: str, named: Mapping[str, str], until: float) -> Identity | Denied:
    # As with claims: a segment that cannot be a header value is refused, never mended.
    found = claims.attributes({**rule.attributes, **named}, {name: (name,) for name in (*rule.attributes, *named)}, {})
    if isinstance(found, Denied):
        return found
    return Identity(ISSUER, subject, found, until, "certificate", "", rule.scopes, rule.roles)


def _repeated(_: bytes) -> Names:
    raise NamesError(f"{HEADER} twice")
