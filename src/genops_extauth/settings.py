"""The configuration as one frozen object: its sections, and what must hold between them.

`Config` is built from text (`strict_yaml`) with a `Sources` as validation context. `config.load` does that, and is what
everybody else calls.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from fractions import Fraction
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from genops_extauth import notation
from genops_extauth.certificate_section import CertificateIdentity
from genops_extauth.declared import Domain
from genops_extauth.fields import CheckError, Complaint, Name, Section, frozen, sources
from genops_extauth.identity_section import Identity
from genops_extauth.issuers import placed
from genops_extauth.limit_compiler import LimitsError, compile_tree
from genops_extauth.limit_rules import Settings
from genops_extauth.limit_sections import Limit, RateLimits
from genops_extauth.limits import Tree
from genops_extauth.route_sections import Routes
from genops_extauth.route_sections import conflicts as route_conflicts
from genops_extauth.sections import DEFAULT_TIER, Governance, Log, Server
from genops_extauth.store_sections import Store
from genops_extauth.tiers import Tiers

_NOBODY = (
    "there is nobody to believe: write one issuer with its audiences and keys here, or set JWT_PUBLIC_KEY, "
    "ALLOWED_ISSUERS and ALLOWED_AUDIENCES in the environment"
)


def _some_tier(tiers: Mapping[str, Limit]) -> Mapping[str, Limit]:
    if not tiers:
        raise ValueError("name at least one tier, for example free: {limit: 100/hour}")
    return frozen(tiers)


def _seed_tiers() -> Mapping[str, Limit]:
    rates = {DEFAULT_TIER: "100/hour", "standard": "1000/hour", "premium": "10000/hour"}
    return MappingProxyType({name: Limit(limit=notation.rate(text)) for name, text in rates.items()})


class Config(Section):
    """Everything that is configured."""

    server: Server = Field(default_factory=Server)
    log: Log = Field(default_factory=Log)
    store: Store = Field(default_factory=Store)
    identity: Identity = Field(default_factory=Identity)
    governance: Governance = Field(default_factory=Governance)
    tiers: Annotated[Mapping[Name, Limit], AfterValidator(_some_tier)] = Field(
        default_factory=_seed_tiers,
        description="The rate limit of each customer, by the customer's tier.",
        json_schema_extra={"default": {name: {"limit": str(tier.limit)} for name, tier in _seed_tiers().items()}},
    )
    rate_limits: RateLimits = Field(default_factory=RateLimits)
    routes: Routes = Field(
        default=(), description="What is demanded of which requests; the first that matches decides."
    )

    @property
    def default_tier(self) -> str:
        """The tier of customers whose own is missing or unknown.

        Where every token must name its tier there is no default, and the slowest tier limits the rest.
        """
        return self.governance.defaults.get("customer_tier") or min(self.tiers, key=self.pace)

    @property
    def tiers_rule(self) -> bool:
        """Whether `tiers` limit anybody: where other limits are given, only if they are written down beside them."""
        limits = self.rate_limits
        return "tiers" in self.model_fields_set or (limits.directory is None and limits.xds is None)

    def tree(self, given: Iterable[Domain] = ()) -> Tree:
        """Compile all limits, those that a management server has `given` too. Raises `LimitsError`."""
        limits, outage = self.rate_limits, self.store.outage
        tiers = {name: limit.declared(name) for name, limit in self.tiers.items()}
        anonymous = limits.anonymous.declared("anonymous")
        return compile_tree(
            [*limits.domains, *given],
            Settings(
                prefix=self.store.key_prefix,
                tag=self.store.hash_tag,
                near_limit_ratio=limits.near_limit_ratio,
                allowance_share=Fraction(outage.allowance).limit_denominator(1_000_000),
                open_after=outage.then == "open",
            ),
            Tiers(limits.domain, tiers, self.default_tier, anonymous) if self.tiers_rule else None,
        )

    def pace(self, tier: str) -> tuple[float, int, str]:
        """How much a tier may ask for, to compare it with others."""
        limit = self.tiers[tier].limit
        return limit.requests / limit.period, limit.requests, tier

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        ignored = sources(info).ignored
        complaints = [complaint for needs, check in _CHECKS if not needs & ignored for complaint in check(self)]
        if complaints:
            raise CheckError(*complaints)
        return self


def _somebody_to_believe(config: Config) -> Iterator[Complaint]:
    if not config.identity.methods and "identity" in config.server.services:
        yield ("identity", "jwt"), _NOBODY


def _required_can_be_had(config: Config) -> Iterator[Complaint]:
    for path, issuer in placed(config.identity.jwt, config.identity.hmac):
        for name in config.governance.required:
            if name not in issuer.claims.paths:
                yield ("identity", *path, "claims", name), "governance.required has it: name its claim"
    for place, entry in enumerate(_certificates(config)):
        for name in config.governance.required:
            if name not in entry.named:
                path = ("identity", "certificates", "identities", place, "attributes", name)
                yield path, "governance.required has it: write it here, or as {NAME} in the SPIFFE id"


def _granted_tiers_exist(config: Config) -> Iterator[Complaint]:
    for path, issuer in placed(config.identity.jwt, config.identity.hmac):
        for position, name in enumerate(issuer.tiers or ()):
            if name not in config.tiers:
                yield ("identity", *path, "tiers", position), _no_tier(name, config)
    for place, entry in enumerate(_certificates(config)):
        name = entry.attributes.get("customer_tier", "")
        if name and name not in config.tiers:
            path = ("identity", "certificates", "identities", place, "attributes", "customer_tier")
            yield path, _no_tier(name, config)
    keys = config.identity.api_keys
    for position, name in enumerate(keys.tiers or () if keys is not None else ()):
        if name not in config.tiers:
            yield ("identity", "api_keys", "tiers", position), _no_tier(name, config)


def _certificates(config: Config) -> tuple[CertificateIdentity, ...]:
    certificates = config.identity.certificates
    return () if certificates is None else certificates.identities


def _routes_can_be_met(config: Config) -> Iterator[Complaint]:
    for path, message in route_conflicts(config.routes, config.identity.methods, config.tiers):
        yield ("routes", *path), message


def _default_tier_exists(config: Config) -> Iterator[Complaint]:
    tier = config.governance.defaults.get("customer_tier")
    if tier is not None and tier not in config.tiers:
        hint = "write here the tier of tokens that name none, or require customer_tier"
        yield ("governance", "defaults", "customer_tier"), f"{_no_tier(tier, config)}; {hint}"


def _silence_grants_no_more(config: Config) -> Iterator[Complaint]:
    """The default tier must be none that an issuer may not grant, and is better than all that it may."""
    default, keys = config.governance.defaults.get("customer_tier"), config.identity.api_keys
    entries = [(path, issuer.tiers) for path, issuer in placed(config.identity.jwt, config.identity.hmac)]
    entries += [(("api_keys",), keys.tiers)] if keys is not None else []
    for path, granted in entries:
        known = [name for name in granted or () if name in config.tiers]
        if (
            default is not None
            and default in config.tiers
            and known
            and max(map(config.pace, known)) < config.pace(default)
        ):
            message = f"naming none grants {default}, the default, which is more: choose another, or grant it here too"
            yield ("identity", *path, "tiers"), message


def _limits_compile(config: Config) -> Iterator[Complaint]:
    if config.governance.defaults.get("customer_tier") not in (None, *config.tiers):
        return  # Told already; there is no default tier to compile.
    try:
        config.tree()
    except LimitsError as error:
        yield ("rate_limits", "directory"), str(error)


def _no_tier(name: str, config: Config) -> str:
    close = get_close_matches(name, config.tiers, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(config.tiers)}"
    return f"no tier is named {name}; {hint}"


_CHECKS: tuple[tuple[frozenset[str], Callable[[Config], Iterator[Complaint]]], ...] = (
    (frozenset({"identity", "server"}), _somebody_to_believe),
    (frozenset({"identity", "governance"}), _required_can_be_had),
    (frozenset({"identity", "tiers"}), _granted_tiers_exist),
    (frozenset({"identity", "tiers", "routes"}), _routes_can_be_met),
    (frozenset({"governance", "tiers"}), _default_tier_exists),
    (frozenset({"identity", "governance", "tiers"}), _silence_grants_no_more),
    (frozenset({"governance", "tiers", "rate_limits", "store"}), _limits_compile),
)
"""What must hold between sections, with the sections that each check reads."""
