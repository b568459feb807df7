"""What a route demands: of the identity, of the page that asks, of the AI request in the body."""

import re
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from genops_extauth import body_rules, routes
from genops_extauth.fields import Attribute, AttributeValue, Name, Positive, Section, T, Visible, distinct, frozen

_SCOPE = re.compile(r"[!#-\[\]-~]{1,256}")  # RFC 6749, 3.3
_MODEL = re.compile(r"[!-)+-~]{0,255}[!-~]")  # visible ASCII, a star at the end only
_TIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}|\*")  # as `fields.Name`
# RFC 6454, 6.2: browsers write it in lower case. Those of apps have schemes of their own: capacitor://localhost.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")
_DEFAULT_PORT = re.compile(r"https://.*:443|http://.*:80")


def _scope(name: str) -> str:
    if not _SCOPE.fullmatch(name):
        raise ValueError('a scope is visible ASCII, without spaces, " and \\: write each as an item of its own')
    return name


def _model(name: str) -> str:
    if not _MODEL.fullmatch(name):
        raise ValueError(
            "a model is visible ASCII, with a * at most at its end: gpt-4o, or small-* for all that begin so"
        )
    return name


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text) or _DEFAULT_PORT.fullmatch(text):
        raise ValueError(
            "write an origin as browsers send it, in lower case, without path and default port, and no wildcard: "
            "https://app.example.com"
        )
    return text


def some(values: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse a list that is empty, or names something twice."""
    if not values:
        raise ValueError("an empty list matches nothing: name something, or leave it out")
    return distinct(values)


def _some_tier(mapping: Mapping[str, T]) -> Mapping[str, T]:
    if not mapping:
        raise ValueError("name a tier, or * for all that have no entry")
    return frozen(mapping)


def _tier(name: str) -> str:
    if not _TIER.fullmatch(name):
        raise ValueError("write the name of a tier, or * for all that have no entry")
    return name


Tier = Annotated[str, AfterValidator(_tier)]


class Require(Section):
    """What an identity must have. Values are compared whole."""

    scopes: Annotated[tuple[Annotated[str, AfterValidator(_scope)], ...], AfterValidator(some)] | None = Field(
        default=None, description="Scopes, all of which it must have."
    )
    roles: Annotated[tuple[Visible, ...], AfterValidator(some)] | None = Field(
        default=None, description="Roles, one of which it must have."
    )
    tiers: Annotated[tuple[Name, ...], AfterValidator(some)] | None = Field(
        default=None, description="Tiers, one of which must be the customer's, by default or by its credential."
    )
    attributes: Annotated[
        Mapping[Attribute, Annotated[tuple[AttributeValue, ...], AfterValidator(some)]], AfterValidator(frozen)
    ] = Field(default_factory=dict, description="Attributes, each with the values that will do.")

    def compiled(self) -> routes.Requirements:
        """Return what `policy` compares with."""
        values = {name: frozenset(allowed) for name, allowed in self.attributes.items()}
        tiers, roles = frozenset(self.tiers or ()), frozenset(self.roles or ())
        return routes.Requirements(frozenset(self.scopes or ()), roles, tiers, frozen(values))


class Cors(Section):
    """Whose pages may ask whether they may ask (CORS)."""

    origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], AfterValidator(some)] = Field(
        description="Origins whose preflights pass without a credential, compared byte by byte."
    )


class Body(Section):
    """What the AI request in a body may ask for. The gateway must pass bodies on."""

    models: (
        Annotated[
            Mapping[Tier, Annotated[tuple[Annotated[str, AfterValidator(_model)], ...], AfterValidator(some)]],
            AfterValidator(_some_tier),
        ]
        | None
    ) = Field(
        default=None, description="The models of each tier; * stands for tiers without an entry, which have none."
    )
    max_tokens: Annotated[Mapping[Tier, Positive], AfterValidator(_some_tier)] | None = Field(
        default=None, description="How many tokens a tier may ask for; * stands for tiers without an entry."
    )
    token_fields: Annotated[tuple[body_rules.TokenField, ...], AfterValidator(some)] = Field(
        default=body_rules.TOKEN_FIELDS,
        description="Where there is max_tokens, one of these must be in the body: those that the service obeys.",
    )

    @model_validator(mode="after")
    def _some_rule(self) -> Self:
        if self.models is None and self.max_tokens is None:
            raise ValueError("write models or max_tokens, or leave body out")
        return self

    def compiled(self) -> body_rules.BodyRules:
        """Return the rules."""
        models = {tier: body_rules.models(names) for tier, names in (self.models or {}).items()}
        return body_rules.BodyRules(frozen(models), self.max_tokens or {}, self.token_fields)
