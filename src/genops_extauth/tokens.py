"""Bearer token -> Identity, Denied, or UnknownKey.

The order is: what costs nothing first. A token that its plain claims refuse (expired, for another issuer or audience)
costs no signature check, or anyone could burn the sidecar; the refusal says no more than with the signature checked.
PyJWT checks the signature and nothing else: it reads the clock itself and forgives more than we do (`jose`).

What was found out about a token is kept by the digest of its bytes: identities and refusals, never verdicts, and only
as long as it is true, for the same keys and at `now`. A `Verifier` belongs to one generation of the configuration, so a
reload forgets everything. Bad tokens cannot push out good ones: the two are kept apart.
"""

import hashlib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jwt

from genops_extauth import claims as claim
from genops_extauth.cache import Cache, CacheStatistics
from genops_extauth.jose import Signed, parse
from genops_extauth.keyset import KeySet
from genops_extauth.model import Denied, Identity, KeysUnavailable, Reason
from genops_extauth.publickey import ALGORITHMS, Key

MAX_TOKEN_BYTES = 16 * 1024
"""Envoy takes at most 60 KiB of request headers by default; tokens with many groups reach 8 KiB. It is checked before
anything reads the token."""

_FINDING_BYTES = 400
"""An entry of a cache without its identity: 315 to 392 by tracemalloc over 10,000 entries. Most of it is the key, the
node of the OrderedDict, the finding and its times."""


class KeySource(Protocol):
    """Where an issuer's keys come from."""

    def current(self) -> KeySet | None:
        """Return the same object until the keys change, or None when they cannot be had. Never waits."""


@dataclass(frozen=True, slots=True, eq=False)
class Issuer:
    """Whom we believe, and what.

    `claims` maps a governance attribute to the path of its claim. `tiers` are those it may grant, None any. `leeway` is
    in seconds. `customer_prefix` goes before every ``customer_id``, so that two issuers never mint the same customer.
    Raises `ValueError` when it would accept a token meant for somebody else.
    """

    issuer: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    keys: KeySource
    claims: Mapping[str, tuple[str, ...]]
    tiers: frozenset[str] | None = None
    customer_prefix: str = ""
    leeway: float = 30.0

    def __post_init__(self) -> None:
        if not self.audiences or "" in self.audiences:
            raise ValueError(
                f"issuer {self.issuer}: audiences must name this gateway, or any token of the issuer passes"
            )
        if not self.algorithms or not self.algorithms <= ALGORITHMS:
            raise ValueError(f"issuer {self.issuer}: algorithms must be some of {', '.join(sorted(ALGORITHMS))}")


@dataclass(frozen=True, slots=True)
class UnknownKey:
    """No current key of `issuer` has the token's kid: ask for fresh keys and try again."""

    issuer: Issuer


@dataclass(frozen=True, slots=True)
class Statistics:
    """Both caches of a `Verifier`."""

    verified: CacheStatistics
    refused: CacheStatistics


class _Finding(NamedTuple):
    """What is known of a token, and when it is true: from `since` until just before `until`, and with these keys."""

    answer: Identity | Denied
    since: float = -math.inf
    until: float = math.inf
    source: KeySource | None = None
    keys: KeySet | None = None

    def holds(self, now: float) -> bool:
        return self.since <= now < self.until and (self.source is None or self.source.current() is self.keys)


class Verifier:
    """Verifies the tokens of `issuers`. Remembers up to `cache_bytes` of good tokens and `refused_bytes` of bad ones.

    Raises `ValueError` when two entries are for one issuer.
    """

    def __init__(
        self, issuers: Iterable[Issuer], *, cache_bytes: int = 64 * 2**20, refused_bytes: int = 8 * 2**20
    ) -> None:
        self._issuers: dict[str, Issuer] = {}
        for issuer in issuers:
            if issuer.issuer in self._issuers:
                raise ValueError(f"issuer {issuer.issuer} stands twice: make one entry of them")
            self._issuers[issuer.issuer] = issuer
        self._verified: Cache[_Finding] = Cache(cache_bytes)
        self._refused: Cache[_Finding] = Cache(refused_bytes)

    def verify(self, token: bytes, now: float) -> Identity | Denied | UnknownKey:
        """Tell whose token this is at `now`, in seconds since the epoch.

        Raises `KeysUnavailable` when the answer hangs on keys that cannot be had, for a known token too.
        """
        if len(token) > MAX_TOKEN_BYTES:
            return Denied(Reason.TOKEN_TOO_LARGE)
        digest = hashlib.sha256(token).digest()
        for cache in (self._verified, self._refused):
            known = cache.get(digest)
            if known is not None:
                if known.holds(now):
                    return known.answer
                cache.forget(digest)
        finding = self._examine(token, now)
        if isinstance(finding, UnknownKey):
            return finding
        cache = self._verified if isinstance(finding.answer, Identity) else self._refused
        cache.put(digest, finding, _cost(finding.answer))
        return finding.answer

    def statistics(self) -> Statistics:
        """Return the present figures of both caches."""
        return Statistics(self._verified.statistics(), self._refused.statistics())

    def _examine(self, token: bytes, now: float) -> _Finding | UnknownKey:
        signed = parse(token)
        if isinstance(signed, Denied):
            return _Finding(signed)
        issuer = self._issuer(signed)
        if isinstance(issuer, Denied):
            return _Finding(issuer)
        period = claim.period(signed.claims, issuer.leeway)
        if isinstance(period, Denied):
            return _Finding(period)
        return _untimely(period, now) or _prove(signed, issuer, period)

    def _issuer(self, signed: Signed) -> Issuer | Denied:
        """Find who says to have made the token, and compare what is plain to see with what its entry demands."""
        name, subject = signed.claims.get("iss"), signed.claims.get("sub")
        if not isinstance(name, str):
            return Denied(Reason.TOKEN_CLAIMS_MALFORMED, "iss")
        issuer = self._issuers.get(name)
        if issuer is None:
            return Denied(Reason.TOKEN_ISSUER_UNKNOWN)
        if signed.algorithm not in issuer.algorithms:
            return Denied(Reason.TOKEN_ALGORITHM_REFUSED)
        if not isinstance(subject, str) or not subject:
            return Denied(Reason.TOKEN_CLAIMS_MALFORMED, "sub")
        refusal = claim.audience_refusal(signed.claims, issuer.audiences)
        return issuer if refusal is None else refusal


def _untimely(period: claim.Period, now: float) -> _Finding | None:
    if now >= period.until:
        return _Finding(Denied(Reason.TOKEN_EXPIRED), since=period.until)
    if now < period.since:
        return _Finding(Denied(Reason.TOKEN_NOT_YET_VALID), until=period.since)
    return None


def _prove(signed: Signed, issuer: Issuer, period: claim.Period) -> _Finding | UnknownKey:
    """Check the signature, and only then believe the claims. The finding is bound to the keys it was made with."""
    keys = issuer.keys.current()
    if keys is None:
        raise KeysUnavailable(
            f"no keys of issuer {issuer.issuer}: never fetched, or too old; see the log of their fetches"
        )
    candidates = keys.select(signed.kid, signed.algorithm)
    if not candidates and signed.kid not in keys.by_kid:
        return UnknownKey(issuer)
    answer: Identity | Denied
    if not candidates:
        answer = Denied(Reason.TOKEN_ALGORITHM_REFUSED, "its key is for another algorithm")
    elif not any(_signature_holds(signed, key) for key in candidates):
        answer = Denied(Reason.TOKEN_SIGNATURE_WRONG)
    else:
        answer = _identity(signed.claims, issuer, period.expires_at)
    return _Finding(answer, period.since, period.until, issuer.keys, keys)


def _signature_holds(signed: Signed, key: Key) -> bool:
    # `select` gave a key that may do this algorithm, so ``none`` and HMAC cannot be named here. prepare_key is PyJWT's
    # own check that the key's type and curve are the algorithm's.
    try:
        algorithm = jwt.get_algorithm_by_name(signed.algorithm)
        return algorithm.verify(signed.signing_input, algorithm.prepare_key(key.public), signed.signature) is True
    except Exception:  # noqa: BLE001 - whatever a library makes of hostile bytes, it was not a good signature
        return False


def _identity(claims: Mapping[str, object], issuer: Issuer, expires_at: float) -> Identity | Denied:
    attributes = claim.attributes(claims, issuer.claims, {"customer_id": issuer.customer_prefix})
    if isinstance(attributes, Denied):
        return attributes
    tier = attributes.get("customer_tier")
    if tier is not None and issuer.tiers is not None and tier not in issuer.tiers:
        return Denied(Reason.TIER_NOT_GRANTED)
    return Identity(issuer.issuer, str(claims["sub"]), attributes, expires_at)


def _cost(answer: Identity | Denied) -> int:
    """Estimate what an entry costs in bytes: 1 to 4% over the truth for tokens of 4 attributes."""
    if isinstance(answer, Denied):
        return _FINDING_BYTES
    held = (answer, answer.subject, answer.attributes, *answer.attributes.values())
    return _FINDING_BYTES + sum(map(sys.getsizeof, held))
