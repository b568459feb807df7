"""Whom we believe, and what: an issuer's entry, and what it makes of a token's claims."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from genops_extauth import claims as claim
from genops_extauth.claim_rules import Rule
from genops_extauth.jose import Signed
from genops_extauth.keyset import KeySet
from genops_extauth.model import Denied
from genops_extauth.publickey import ALGORITHMS
from genops_extauth.reasons import Reason
from genops_extauth.shared_secrets import MIN_BYTES


class KeySource(Protocol):
    """Where an issuer's keys come from."""

    def current(self) -> KeySet | None:
        """Return the same object until the keys change, or None when they cannot be had. Never waits."""


Profile = Literal["any", "access_token"]
"""What an issuer's tokens are: any JSON Web Tokens, or access tokens as RFC 9068 wants them and nothing else."""


@dataclass(frozen=True, slots=True, eq=False)
class Issuer:
    """Whom we believe, and what.

    `algorithms` are those of public keys or those of a shared secret, as `keys` are, never of both. `claims` maps a
    governance attribute to the path of its claim; `scopes` and `roles` are the paths of those, None where there are
    none. All `rules` must hold. A token that was issued for more than `max_lifetime` seconds is refused. `tiers` are
    those it may grant, None any. `leeway` is in seconds. `customer_prefix` goes before every ``customer_id``, so that
    two issuers never mint the same customer. Raises `ValueError` when it would accept a token meant for somebody else.
    """

    issuer: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    keys: KeySource
    claims: Mapping[str, tuple[str, ...]]
    scopes: tuple[str, ...] | None = ("scope",)
    roles: tuple[str, ...] | None = ("roles",)
    rules: tuple[Rule, ...] = ()
    profile: Profile = "any"
    max_lifetime: float | None = None
    tiers: frozenset[str] | None = None
    customer_prefix: str = ""
    leeway: float = 30.0

    def __post_init__(self) -> None:
        if not self.audiences or "" in self.audiences:
            raise ValueError(
                f"issuer {self.issuer}: audiences must name this gateway, or any token of the issuer passes"
            )
        # With both, a public key could be given out as the secret of a token's choice (CVE-2022-29217).
        if not self.algorithms or not any(self.algorithms <= kind for kind in (ALGORITHMS, MIN_BYTES.keys())):
            public, shared = ", ".join(sorted(ALGORITHMS)), ", ".join(MIN_BYTES)
            raise ValueError(f"issuer {self.issuer}: algorithms must be some of {public}, or else some of {shared}")


class Said(NamedTuple):
    """What a proven token says of its subject, as far as its issuer may."""

    attributes: dict[str, str]
    scopes: frozenset[str]
    roles: frozenset[str]


def _algorithm_refusal(signed: Signed, issuer: Issuer) -> Denied | None:
    return None if signed.algorithm in issuer.algorithms else Denied(Reason.TOKEN_ALGORITHM_REFUSED)


def _profile_refusal(signed: Signed, issuer: Issuer) -> Denied | None:
    if issuer.profile == "any":
        return None
    if signed.type != "at+jwt":  # an ID token says as much, and is for the client (RFC 9068 section 4)
        return Denied(Reason.TOKEN_HEADER_REFUSED, "typ is not at+jwt")
    return claim.access_token_refusal(signed.claims)


_PLAIN_CHECKS: tuple[Callable[[Signed, Issuer], Denied | None], ...] = (
    _algorithm_refusal,
    lambda signed, _: claim.subject_refusal(signed.claims),
    lambda signed, issuer: claim.audience_refusal(signed.claims, issuer.audiences),
    lambda signed, _: claim.id_refusal(signed.claims),
    _profile_refusal,
)


def validity(signed: Signed, issuer: Issuer) -> claim.Period | Denied:
    """Compare what is plain to see, without a signature, with what the entry demands; tell when the token holds."""
    for check in _PLAIN_CHECKS:
        refusal = check(signed, issuer)
        if refusal is not None:
            return refusal
    period = claim.period(signed.claims, issuer.leeway)
    if isinstance(period, Denied) or issuer.max_lifetime is None:
        return period
    refusal = claim.lifetime_refusal(period, issuer.max_lifetime)
    return period if refusal is None else refusal


def said(claims: Mapping[str, object], issuer: Issuer) -> Said | Denied:
    """Read what proven claims say."""
    for position, rule in enumerate(issuer.rules):
        if not rule.holds(claims):
            return Denied(Reason.TOKEN_RULE_UNMET, f"rules[{position}]")
    attributes = claim.attributes(claims, issuer.claims, {"customer_id": issuer.customer_prefix})
    if isinstance(attributes, Denied):
        return attributes
    tier = attributes.get("customer_tier")
    if tier is not None and issuer.tiers is not None and tier not in issuer.tiers:
        return Denied(Reason.TIER_NOT_GRANTED)
    scopes = frozenset[str]() if issuer.scopes is None else claim.scopes(claims, issuer.scopes)
    if isinstance(scopes, Denied):
        return scopes
    roles = frozenset[str]() if issuer.roles is None else claim.roles(claims, issuer.roles)
    return roles if isinstance(roles, Denied) else Said(attributes, scopes, roles)
