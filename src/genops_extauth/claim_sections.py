"""The sections about claims: where they are in a token, and what they must be."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from genops_extauth import claim_rules
from genops_extauth.fields import CheckError, Section, distinct, setting

_MAX_SEGMENTS = 8  # steps; issuers nest custom claims 1 to 3 deep (Keycloak: resource_access.CLIENT.roles)


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


def _scalar(value: object) -> claim_rules.Literal:
    """``true`` and ``false`` are the booleans, everything else is text: 42 is "42", whatever stands in the token."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError("write one value here, not a list or a mapping")  # noqa: TRY004 - pydantic wants ValueError
    return {"true": True, "false": False}.get(value, value)


Scalar = Annotated[claim_rules.Literal, PlainValidator(_scalar), WithJsonSchema({"type": ["string", "boolean"]})]


def _values(values: tuple[claim_rules.Literal, ...]) -> tuple[claim_rules.Literal, ...]:
    if not values:
        raise ValueError("an empty list is never met: name a value")
    return distinct(values)


class Claims(Section):
    """Which claim holds which governance attribute, and what a token may do; `~` where none does."""

    team: ClaimPath | None = setting(claim_path, "team", "The claim that holds the team.")
    project: ClaimPath | None = setting(claim_path, "project", "The claim that holds the project.")
    customer_id: ClaimPath | None = setting(claim_path, "sub", "The claim that names the customer.")
    customer_tier: ClaimPath | None = setting(claim_path, "tier", "The claim that holds the customer's tier.")
    cost_center: ClaimPath | None = setting(claim_path, "cost_center", "The claim that holds the cost center.")
    environment: ClaimPath | None = Field(default=None, description="The claim that holds the environment.")
    feature: ClaimPath | None = Field(default=None, description="The claim that holds the feature.")
    user_id: ClaimPath | None = Field(default=None, description="The claim that names the user, of a customer's many.")
    session_id: ClaimPath | None = Field(default=None, description="The claim that names the session.")
    workload_id: ClaimPath | None = Field(default=None, description="The claim that names the workload.")
    scopes: ClaimPath | None = setting(
        claim_path, "scope", "The claim that holds what a token was granted: words with spaces between, or a list."
    )
    roles: ClaimPath | None = setting(claim_path, "roles", "The claim that holds the roles: a list, or one name.")

    @property
    def paths(self) -> Mapping[str, tuple[str, ...]]:
        """The mapped attributes, each with the steps to its claim."""
        found = {name: getattr(self, name) for name in type(self).model_fields if name not in ("scopes", "roles")}
        return {name: path for name, path in found.items() if path is not None}


class Rule(Section):
    """What a claim must be; a token whose claim is missing, or of another type, is refused."""

    claim: ClaimPath = Field(description="The claim.")
    equals: Scalar | None = Field(default=None, description="It is this text; true and false are booleans.")
    in_: Annotated[tuple[Scalar, ...], AfterValidator(_values)] | None = Field(
        default=None, alias="in", description="It is one of these."
    )
    contains: Scalar | None = Field(default=None, description="It is a list, and this is in it.")
    matches: str | None = Field(
        default=None, description="It is a text, and all of it matches this regular expression (RE2)."
    )

    @property
    def rule(self) -> claim_rules.Rule:
        """What it means. Raises `claim_rules.PatternError`."""
        if self.matches is not None:
            return claim_rules.matches(self.claim, self.matches)
        if self.contains is not None:
            return claim_rules.contains(self.claim, self.contains)
        return claim_rules.one_of(self.claim, (self.in_ or ()) if self.equals is None else (self.equals,))

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        if sum(test is not None for test in (self.equals, self.in_, self.contains, self.matches)) != 1:
            raise ValueError("write exactly one of equals, in, contains, matches")
        try:
            self.rule  # noqa: B018 - for what it raises
        except claim_rules.PatternError as error:
            raise CheckError((("matches",), str(error))) from None
        return self
