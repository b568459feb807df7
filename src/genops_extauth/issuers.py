"""Issuers of tokens, as configured: whom to believe, with which keys, and what each may say."""

from collections.abc import Iterator
from itertools import combinations
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, SecretBytes, ValidationInfo, model_validator

from genops_extauth.claim_sections import Claims, Rule
from genops_extauth.fields import (
    CheckError,
    Complaint,
    Duration,
    Name,
    Prefix,
    Section,
    Visible,
    between,
    distinct,
    setting,
    sources,
)
from genops_extauth.issuer_keys import Jwks, Keys, Variable
from genops_extauth.keyset import KeySetError, from_pem
from genops_extauth.notation import duration
from genops_extauth.publickey import ALGORITHMS
from genops_extauth.secure_uri import discovery_uri
from genops_extauth.shared_secrets import MIN_BYTES, Secret, SecretError, from_bytes
from genops_extauth.sources import SourceError
from genops_extauth.strict_yaml import Step

__all__ = ["AnyIssuer", "Claims", "Issuer", "Jwks", "Keys", "Rule", "SecretIssuer", "conflicts", "placed"]

_OVERLAP = (
    "this issuer could mint the customers of {}: with several issuers write one prefix each, none of them the "
    "beginning of another, for example acme: and partner:"
)
_SHARED = (
    "entry [{}] has the same: whoever makes the one's tokens could make the other's; give each a secret of its own"
)


def _public(name: str) -> str:
    if name.startswith("HS"):
        raise ValueError(
            "HMAC has one secret for both sides: whoever can verify could sign; use RS256, ES256 or EdDSA, or for an "
            "issuer without a key pair an entry of identity.hmac"
        )
    if name not in ALGORITHMS:
        raise ValueError(f"no such algorithm; there are {', '.join(sorted(ALGORITHMS))}")
    return name


def _shared(name: str) -> str:
    if name not in MIN_BYTES:
        raise ValueError(f"a secret is for {', '.join(MIN_BYTES)} alone; public keys belong under identity.jwt")
    return name


def _algorithms(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("an empty list verifies nothing: name what the issuer signs with, for example [RS256]")
    return distinct(names)


def _audiences(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError(
            "an empty list would accept the issuer's tokens for every other service (RFC 7519, 4.1.3): "
            "name the audience that stands in tokens for this one"
        )
    return distinct(names)


class AnyIssuer(Section):
    """Who makes tokens, and what it may say, however it signs them."""

    issuer: Visible = Field(description="The `iss` of its tokens, compared byte by byte.")
    audiences: Annotated[tuple[Visible, ...], AfterValidator(_audiences)] = Field(
        description="The `aud` values that mean this service; a token must hold one of them."
    )
    claims: Claims = Field(default_factory=Claims, description="Which claim holds what.")
    profile: Literal["any", "access_token"] = Field(
        default="any", description="access_token takes nothing but access tokens by RFC 9068 (typ at+jwt)."
    )
    # An issuer whose key was stolen, or that makes a slip, must not hand out tokens for ever. Access tokens last an
    # hour at most places; the upper bound catches a slip of the unit.
    max_lifetime: Annotated[Duration, between("1s", "8760h")] | None = Field(
        default=None, description="The longest from iat, which must then be there, to exp; by default any."
    )
    rules: tuple[Rule, ...] = Field(default=(), description="What its tokens must say besides; all rules must hold.")
    tiers: tuple[Name, ...] | None = Field(
        default=None,
        description="The tiers that it may grant. May be left out, for all tiers, where only one issuer signs.",
    )
    customer_prefix: Prefix = Field(
        default="", description="Put before its customers' ids, so that two issuers never mint the same customer."
    )
    leeway: Annotated[Duration, between("0s", "5m")] = setting(
        duration, "30s", "How far its clock may be off when exp, nbf and iat are checked."
    )


class Issuer(AnyIssuer):
    """One issuer of JSON Web Tokens that has a key pair."""

    # RS256 is what OpenID Connect makes every issuer offer (Core 1.0, 15.1). A longer default would let a key be used
    # with an algorithm that its issuer never meant it for (RFC 8725, 3.1).
    algorithms: Annotated[tuple[Annotated[str, AfterValidator(_public)], ...], AfterValidator(_algorithms)] = Field(
        default=("RS256",), description=f"What its tokens may be signed with: {', '.join(sorted(ALGORITHMS))}."
    )
    keys: Keys = Field(description="Where its public keys are.")

    @model_validator(mode="after")
    def _discoverable(self) -> Self:
        if self.keys.discovery:
            try:
                discovery_uri(self.issuer)
            except ValueError as error:
                raise CheckError((("issuer",), f"is to be asked for its keys: {error}")) from None
        return self

    @model_validator(mode="after")
    def _usable_key(self) -> Self:
        if self.keys.pem is not None and self.keys.static is not None:
            try:
                from_pem(self.keys.pem, frozenset(self.algorithms))
            except KeySetError as error:
                raise CheckError((("keys", self.keys.static), str(error))) from None
        return self


class SecretIssuer(AnyIssuer):
    """One issuer of JSON Web Tokens that shares a secret with us, and so could be anybody who knows it."""

    algorithms: Annotated[tuple[Annotated[str, AfterValidator(_shared)], ...], AfterValidator(_algorithms)] = Field(
        default=("HS256",), description=f"What its tokens may be signed with: {', '.join(MIN_BYTES)}."
    )
    secret_file: str | None = Field(
        default=None, description="A file that holds the secret; a line break at its end is none of it."
    )
    secret_env: Variable | None = Field(default=None, description="An environment variable that holds the secret.")
    _secret: SecretBytes = PrivateAttr(SecretBytes(b""))

    @property
    def place(self) -> str:
        """The name of the field that the secret comes from."""
        return "secret_file" if self.secret_env is None else "secret_env"

    @property
    def secret(self) -> Secret:
        """The secret, as read at load."""
        return from_bytes(self._secret.get_secret_value(), self.algorithms)

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        if (self.secret_file is None) == (self.secret_env is None):
            raise ValueError("write exactly one of secret_file, secret_env")
        try:
            if self.secret_env is not None:
                found = sources(info).variable(self.secret_env).encode(errors="surrogateescape")
            else:
                found = sources(info).file(str(self.secret_file))
            # Editors end a file with a line break, and so do many who make a Kubernetes Secret of one.
            self._secret = SecretBytes(found.removesuffix(b"\n").removesuffix(b"\r"))
            from_bytes(self._secret.get_secret_value(), self.algorithms)
        except (SourceError, SecretError) as error:
            raise CheckError(((self.place,), str(error))) from None
        return self


def one_signer(issuer: AnyIssuer, other: AnyIssuer) -> bool:
    """Whether two issuers are pinned to one public key: who holds its private half speaks for both whatever we do."""
    return (
        isinstance(issuer, Issuer)
        and isinstance(other, Issuer)
        and issuer.keys.pem is not None
        and issuer.keys.pem == other.keys.pem
    )


def placed(jwt: tuple[Issuer, ...], hmac: tuple[SecretIssuer, ...]) -> tuple[tuple[tuple[Step, ...], AnyIssuer], ...]:
    """Every issuer with its path below ``identity``."""
    public = [(("jwt", index), entry) for index, entry in enumerate(jwt)]
    return (*public, *((("hmac", index), entry) for index, entry in enumerate(hmac)))


def conflicts(jwt: tuple[Issuer, ...], hmac: tuple[SecretIssuer, ...] = ()) -> Iterator[Complaint]:
    """What keeps issuers from being told apart; paths are relative to ``identity``."""
    entries = placed(jwt, hmac)
    for ((kind, index), one), (path, other) in combinations(entries, 2):
        where = f"entry [{index}]" if kind == path[0] else f"identity.{kind}[{index}]"
        if one.issuer == other.issuer:
            yield (*path, "issuer"), f"the same issuer stands in {where}; join the two"
        elif not one_signer(one, other):
            a, b = one.customer_prefix, other.customer_prefix
            if a.startswith(b) or b.startswith(a):
                yield (*path, "customer_prefix"), _OVERLAP.format(where)
    for (first, one), (second, other) in combinations(enumerate(hmac), 2):
        if one.secret.value == other.secret.value:
            yield ("hmac", second, other.place), _SHARED.format(first)
    for path, issuer in entries:
        if issuer.tiers is None and not all(one_signer(issuer, other) for _, other in entries if other is not issuer):
            yield (*path, "tiers"), "with several issuers write which tiers each may grant, for example [free]"
