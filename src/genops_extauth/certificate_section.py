"""The section ``identity.certificates``: whose certificates name an identity, and who may speak of others'."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from genops_extauth.fields import (
    Attribute,
    AttributeValue,
    CheckError,
    Complaint,
    DnsName,
    Section,
    Word,
    distinct,
    frozen,
)
from genops_extauth.peer_certificates import DnsPattern, Hops, Rule
from genops_extauth.reserved_headers import ATTRIBUTES
from genops_extauth.spiffe import Pattern, is_spiffe, pattern, spiffe_id

Network = IPv4Network | IPv6Network


def _pattern(value: object) -> Pattern:
    if isinstance(value, Pattern):
        return value
    return pattern(value if isinstance(value, str) else "")


SpiffePattern = Annotated[
    Pattern,
    PlainValidator(_pattern),
    WithJsonSchema({"type": "string", "examples": ["spiffe://prod.example/ns/{team}/sa/*"]}),
]


def _hop(value: object) -> Network | str:
    """A network, or the principal of a proxy's certificate."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    text = value if isinstance(value, str) else ""
    if is_spiffe(text):
        return str(spiffe_id(text))
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(
            "write the proxies' network or address, for example 10.1.2.0/24, or the SPIFFE id of their certificate"
        ) from None
    if network.prefixlen == 0:
        raise ValueError("this is everybody: whoever sends the header would be whom it names")
    return network


Hop = Annotated[
    Network | str,
    PlainValidator(_hop),
    WithJsonSchema({"type": "string", "examples": ["10.1.2.0/24", "spiffe://prod.example/ns/edge/sa/gateway"]}),
]


class CertificateIdentity(Section):
    """Who a certificate with such a name is."""

    spiffe: SpiffePattern | None = Field(
        default=None,
        description="Its SPIFFE id; in the path, `*` stands for one segment and `{team}` for one that is the team.",
    )
    dns: DnsName | None = Field(default=None, description="One of its DNS names; `*.` in front stands for one label.")
    attributes: Annotated[Mapping[Attribute, AttributeValue], AfterValidator(frozen)] = Field(
        default_factory=dict, validate_default=True, description="Its governance attributes."
    )
    scopes: Annotated[tuple[Word, ...], AfterValidator(distinct)] = Field(default=(), description="Its scopes.")
    roles: Annotated[tuple[Word, ...], AfterValidator(distinct)] = Field(default=(), description="Its roles.")

    @property
    def name(self) -> Pattern | DnsPattern:
        """What its certificates have in common."""
        return self.spiffe if self.spiffe is not None else DnsPattern((self.dns or "").lower())

    @property
    def named(self) -> frozenset[str]:
        """The attributes that every such certificate has."""
        return frozenset(self.attributes) | frozenset(self.spiffe.names if self.spiffe is not None else ())

    def rule(self) -> Rule:
        """The same for `peer_certificates`."""
        return Rule(self.name, self.attributes, frozenset(self.scopes), frozenset(self.roles))

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if (self.spiffe is None) == (self.dns is None):
            raise ValueError("write exactly one of spiffe, dns")
        if self.spiffe is not None and (complaints := [*_misnamed(self.spiffe, self.attributes)]):
            raise CheckError(*complaints)
        return self


def _misnamed(written: Pattern, attributes: Mapping[str, str]) -> Iterator[Complaint]:
    for name in written.names:
        if name not in ATTRIBUTES:
            yield ("spiffe",), f"no governance attribute is named so; there are {', '.join(ATTRIBUTES)}"
        elif name == "customer_tier":
            # Whoever chooses a workload's name would choose what it costs.
            yield ("spiffe",), "a tier is granted, not claimed: write * here, and customer_tier in attributes"
        elif name in attributes:
            yield ("attributes", name), "is in the SPIFFE id too; keep one of the two"


class Certificates(Section):
    """Callers that show a certificate to the gateway."""

    xfcc_from: Annotated[tuple[Hop, ...], AfterValidator(distinct)] = Field(
        default=(),
        description="Proxies before the gateway whose x-forwarded-client-cert is believed: networks, or SPIFFE ids.",
    )
    identities: tuple[CertificateIdentity, ...] = Field(
        description="Who a certificate is, by its names; the first entry that fits counts."
    )

    def rules(self) -> tuple[Rule, ...]:
        """The identities for `peer_certificates`."""
        return tuple(entry.rule() for entry in self.identities)

    def hops(self) -> Hops:
        """The proxies for `peer_certificates`."""
        networks = tuple(hop for hop in self.xfcc_from if not isinstance(hop, str))
        return Hops(networks, frozenset(hop for hop in self.xfcc_from if isinstance(hop, str)))

    @model_validator(mode="after")
    def _each_counts(self) -> Self:
        if not self.identities:
            raise CheckError((("identities",), "name at least one, or leave certificates out"))
        names = [entry.name for entry in self.identities]
        again = [at for at, name in enumerate(names) if name in names[:at]]
        if again:
            raise CheckError(*((("identities", at), "an entry before it has this name: never reached") for at in again))
        return self
