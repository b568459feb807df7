"""The identity section: whom to believe, with which keys, and what each issuer may say."""

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PlainValidator, PrivateAttr, ValidationInfo, WithJsonSchema, model_validator

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
from genops_extauth.keyset import KeySetError, from_pem
from genops_extauth.notation import duration
from genops_extauth.policy import ATTRIBUTES
from genops_extauth.publickey import ALGORITHMS
from genops_extauth.secure_uri import require_secure
from genops_extauth.sources import SourceError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_SEGMENTS = 8  # steps; issuers nest custom claims 1 to 3 deep (Keycloak: resource_access.CLIENT.roles)

_OVERLAP = (
    "this issuer could mint the customers of entry [{}]: with several issuers write one prefix each, none of them the "
    "beginning of another, for example acme: and partner:"
)


def _jwks_uri(uri: str) -> str:
    require_secure(uri)
    return uri


def _algorithm(name: str) -> str:
    if name.startswith("HS"):
        raise ValueError("HMAC has one secret for both sides: whoever can verify could sign; use RS256, ES256 or EdDSA")
    if name not in ALGORITHMS:
        raise ValueError(f"no such algorithm; there are {', '.join(sorted(ALGORITHMS))}")
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


def _variable(name: str) -> str:
    # A key pasted here by mistake would otherwise be shown as the name of a variable that is not set.
    if not _VARIABLE.fullmatch(name):
        raise ValueError("write the name of an environment variable, for example JWT_PUBLIC_KEY")
    return name


def claim_path(value: object) -> tuple[str, ...]:
    """``realm.team`` or ``[https://acme.com/tier]``: the steps to a claim. Raises ValueError."""
    if isinstance(value, str):
        if "/" in value:
            raise ValueError('a claim whose name has dots or slashes is written as a list: ["https://acme.com/tier"]')
        value = value.split(".")
    if not isinstance(value, list | tuple) or not all(isinstance(step, str) and step for step in value):
        raise ValueError("write a claim's name, dots between the steps to a nested one, or a list of the steps")
    if not 1 <= len(value) <= _MAX_SEGMENTS:
        raise ValueError(f"a claim is 1 to {_MAX_SEGMENTS} steps away")
    return tuple(value)


ClaimPath = Annotated[
    tuple[str, ...],
    PlainValidator(claim_path),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


class Jwks(Section):
    """How a JWK Set is fetched and kept.

    The bounds catch slips of the unit: an issuer asked all the time, a stolen key believed for months.
    """

    refresh_interval: Annotated[Duration, between("10s", "24h")] = setting(
        duration, "5m", "How often keys are fetched anew; a withdrawn key works for so long."
    )
    cooldown: Annotated[Duration, between("1s", "1h")] = setting(
        duration, "30s", "The pause after a fetch for an unknown key id, or a failed one, before the next such fetch."
    )
    max_stale: Annotated[Duration, between("1m", "168h")] = setting(
        duration, "24h", "For how long keys work while their issuer cannot be reached."
    )
    fetch_timeout: Annotated[Duration, between("100ms", "1m")] = setting(
        duration, "5s", "The longest that one whole fetch may take."
    )

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        if self.max_stale < self.refresh_interval + self.fetch_timeout:
            message = (
                "keys would expire before they are renewed: write at least refresh_interval and fetch_timeout together"
            )
            raise CheckError((("max_stale",), message))
        return self


class Keys(Section):
    """Where an issuer's public keys are: exactly one place."""

    jwks_uri: Annotated[str, AfterValidator(_jwks_uri)] | None = Field(
        default=None, description="A URL of the issuer's JWK Set: https, or http to loopback."
    )
    public_key_file: str | None = Field(
        default=None, description="A file of PEM public keys or certificates, relative to this file's folder."
    )
    public_key_env: Annotated[str, AfterValidator(_variable)] | None = Field(
        default=None, description="An environment variable that holds PEM public keys."
    )
    jwks: Jwks = Field(default_factory=Jwks, description="How the JWK Set of jwks_uri is fetched and kept.")
    _pem: bytes | None = PrivateAttr(None)

    @property
    def pem(self) -> bytes | None:
        """The PEM text of the file or variable, as read at load; None with `jwks_uri`."""
        return self._pem

    @property
    def static(self) -> str | None:
        """The name of the field that the PEM text comes from."""
        return next((name for name in ("public_key_file", "public_key_env") if getattr(self, name) is not None), None)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        places = (self.jwks_uri, self.public_key_file, self.public_key_env)
        if sum(place is not None for place in places) != 1:
            raise ValueError("write exactly one of jwks_uri, public_key_file, public_key_env")
        if "jwks" in self.model_fields_set and self.jwks_uri is None:
            raise CheckError((("jwks",), "is about jwks_uri; a key from a file or the environment is not fetched"))
        return self

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        """Read while validating, so that a missing file is told together with everything else."""
        if self.static is None:
            return self
        try:
            if self.public_key_file is not None:
                self._pem = sources(info).file(self.public_key_file)
            elif self.public_key_env is not None:
                self._pem = sources(info).variable(self.public_key_env).encode(errors="surrogateescape")
        except SourceError as error:
            raise CheckError(((self.static,), str(error))) from None
        return self


class Claims(Section):
    """Which claim holds which governance attribute; `~` where none does."""

    team: ClaimPath | None = setting(claim_path, "team", "The claim that holds the team.")
    project: ClaimPath | None = setting(claim_path, "project", "The claim that holds the project.")
    customer_id: ClaimPath | None = setting(claim_path, "sub", "The claim that names the customer.")
    customer_tier: ClaimPath | None = setting(claim_path, "tier", "The claim that holds the customer's tier.")
    cost_center: ClaimPath | None = setting(claim_path, "cost_center", "The claim that holds the cost center.")

    @property
    def paths(self) -> Mapping[str, tuple[str, ...]]:
        """The mapped attributes, each with the steps to its claim."""
        found = {name: getattr(self, name) for name in ATTRIBUTES}
        return {name: path for name, path in found.items() if path is not None}


class Issuer(Section):
    """One issuer of JSON Web Tokens, and what it may say."""

    issuer: Visible = Field(description="The `iss` of its tokens, compared byte by byte.")
    audiences: Annotated[tuple[Visible, ...], AfterValidator(_audiences)] = Field(
        description="The `aud` values that mean this service; a token must hold one of them."
    )
    # RS256 is what OpenID Connect makes every issuer offer (Core 1.0, 15.1). A longer default would let a key be used
    # with an algorithm that its issuer never meant it for (RFC 8725, 3.1).
    algorithms: Annotated[tuple[Annotated[str, AfterValidator(_algorithm)], ...], AfterValidator(_algorithms)] = Field(
        default=("RS256",), description=f"What its tokens may be signed with: {', '.join(sorted(ALGORITHMS))}."
    )
    keys: Keys = Field(description="Where its public keys are.")
    claims: Claims = Field(default_factory=Claims, description="Which claim holds which governance attribute.")
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

    @model_validator(mode="after")
    def _usable_key(self) -> Self:
        if self.keys.pem is not None and self.keys.static is not None:
            try:
                from_pem(self.keys.pem, frozenset(self.algorithms))
            except KeySetError as error:
                raise CheckError((("keys", self.keys.static), str(error))) from None
        return self


class Identity(Section):
    """Who may ask."""

    jwt: tuple[Issuer, ...] = Field(default=(), description="The issuers whose JSON Web Tokens are believed.")


def one_signer(issuer: Issuer, other: Issuer) -> bool:
    """Whether two issuers are pinned to one key: who holds its private half speaks for both whatever we do."""
    return issuer.keys.pem is not None and issuer.keys.pem == other.keys.pem


def conflicts(issuers: tuple[Issuer, ...]) -> Iterator[Complaint]:
    """What keeps issuers from being told apart; paths are relative to ``identity.jwt``."""
    for (first, one), (second, other) in combinations(enumerate(issuers), 2):
        if one.issuer == other.issuer:
            yield (second, "issuer"), f"the same issuer stands in entry [{first}]; join the two"
        elif not one_signer(one, other):
            a, b = one.customer_prefix, other.customer_prefix
            if a.startswith(b) or b.startswith(a):
                yield (second, "customer_prefix"), _OVERLAP.format(first)
    for index, issuer in enumerate(issuers):
        if issuer.tiers is None and not all(one_signer(issuer, other) for other in issuers if other is not issuer):
            yield (index, "tiers"), "with several issuers write which tiers each may grant, for example [free]"
