"""Bearer token -> Identity, Denied, or UnknownKey.

The order is: what costs nothing first. A token that its plain claims refuse (expired, for another issuer or audience)
costs no signature check, or anyone could burn the sidecar; the refusal says no more than with the signature checked.
The rules of an issuer are looked at after it: whether a forged token met them is nobody's business. PyJWT checks the
signature and nothing else: it reads the clock itself and forgives more than we do (`jose`).

What was found out about a token is kept by the digest of its bytes: identities and refusals, never verdicts, and only
as long as it is true, for the same keys and at `now`. A `Verifier` belongs to one generation of the configuration, so a
reload forgets everything. Bad tokens cannot push out good ones: the two are kept apart.
"""

import hashlib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from genops_extauth.cache import Cache, CacheStatistics
from genops_extauth.claims import Period
from genops_extauth.jose import Signed, parse
from genops_extauth.keyset import KeySet
from genops_extauth.model import Denied, Identity, KeysUnavailable
from genops_extauth.reasons import Reason
from genops_extauth.trust import Issuer, KeySource, said, validity
from genops_extauth.word_sets import WordSets

__all__ = ["MAX_TOKEN_BYTES", "Issuer", "KeySource", "Statistics", "UnknownKey", "Verifier"]

MAX_TOKEN_BYTES = 16 * 1024
"""Envoy takes at most 60 KiB of request headers by default; tokens with many groups reach 8 KiB. It is checked before
anything reads the token."""

_FINDING_BYTES = 400
"""An entry of a cache without its identity: 315 to 392 by tracemalloc over 10,000 entries. Most of it is the key, the
node of the OrderedDict, the finding and its times."""


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


class _Examined(NamedTuple):
    """A finding, and what it costs in bytes."""

    finding: _Finding
    size: int = _FINDING_BYTES


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
        self._words = WordSets()

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
        examined = self._examine(token, now)
        if isinstance(examined, UnknownKey):
            return examined
        finding, size = examined
        cache = self._verified if isinstance(finding.answer, Identity) else self._refused
        cache.put(digest, finding, size)
        return finding.answer

    def statistics(self) -> Statistics:
        """Return the present figures of both caches."""
        return Statistics(self._verified.statistics(), self._refused.statistics())

    def _examine(self, token: bytes, now: float) -> _Examined | UnknownKey:
        signed = parse(token)
        if isinstance(signed, Denied):
            return _refused(signed)
        issuer = self._issuer(signed)
        if isinstance(issuer, Denied):
            return _refused(issuer)
        period = validity(signed, issuer)
        if isinstance(period, Denied):
            return _refused(period)
        return _untimely(period, now) or self._prove(signed, issuer, period)

    def _issuer(self, signed: Signed) -> Issuer | Denied:
        """Find who says to have made the token."""
        name = signed.claims.get("iss")
        if not isinstance(name, str):
            return Denied(Reason.TOKEN_CLAIMS_MALFORMED, "iss")
        return self._issuers.get(name) or Denied(Reason.TOKEN_ISSUER_UNKNOWN)

    def _prove(self, signed: Signed, issuer: Issuer, period: Period) -> _Examined | UnknownKey:
        """Check the signature, and only then believe the claims. The finding is bound to the keys it was made with."""
        keys = issuer.keys.current()
        if keys is None:
            raise KeysUnavailable(
                f"no keys of issuer {issuer.issuer}: never fetched, or too old; see the log of their fetches"
            )
        refusal = _signature_refusal(signed, keys, issuer)
        if isinstance(refusal, UnknownKey):
            return refusal
        answer: Identity | Denied | None = refusal
        size = 0
        if answer is None:
            answer, size = self._identity(signed.claims, issuer, period.expires_at)
        finding = _Finding(answer, period.since, period.until, issuer.keys, keys)
        return _Examined(finding, _FINDING_BYTES + size)

    def _identity(
        self, claims: Mapping[str, object], issuer: Issuer, expires_at: float
    ) -> tuple[Identity | Denied, int]:
        """Make the identity that proven claims say, and estimate its bytes."""
        found = said(claims, issuer)
        if isinstance(found, Denied):
            return found, 0
        scopes, scope_bytes = self._words.share(found.scopes)
        roles, role_bytes = self._words.share(found.roles)
        subject, token_id = str(claims["sub"]), str(claims.get("jti", ""))
        made = Identity(issuer.issuer, subject, found.attributes, expires_at, "jwt", token_id, scopes, roles)
        held = (made, subject, token_id, found.attributes, *found.attributes.values())
        return made, sum(map(sys.getsizeof, held)) + scope_bytes + role_bytes


def _refused(denied: Denied, since: float = -math.inf, until: float = math.inf) -> _Examined:
    return _Examined(_Finding(denied, since, until))


def _untimely(period: Period, now: float) -> _Examined | None:
    if now >= period.until:
        return _refused(Denied(Reason.TOKEN_EXPIRED), since=period.until)
    if now < period.since:
        return _refused(Denied(Reason.TOKEN_NOT_YET_VALID), until=period.since)
    return None


def _signature_refusal(signed: Signed, keys: KeySet, issuer: Issuer) -> Denied | UnknownKey | None:
    # `select` gives only keys that may do the algorithm, so ``none``, and HMAC with a public key, cannot come up.
    candidates = keys.select(signed.kid, signed.algorithm)
    if not candidates and signed.kid not in keys.by_kid:
        return UnknownKey(issuer)
    if not candidates:
        return Denied(Reason.TOKEN_ALGORITHM_REFUSED, "its key is for another algorithm")
    proven = any(key.signed(signed.algorithm, signed.signing_input, signed.signature) for key in candidates)
    return None if proven else Denied(Reason.TOKEN_SIGNATURE_WRONG)
