"""The section identity.certificates."""

from typing import Any

import pytest
from pydantic import ValidationError

from genops_extauth.certificate_section import Certificates
from genops_extauth.peer_certificates import DnsPattern, Rule
from genops_extauth.spiffe import pattern

WORKLOADS = "spiffe://prod.example/ns/{team}/sa/*"
CLIENT: dict[str, Any] = {"dns": "Client.example.com", "attributes": {"team": "search"}, "roles": ["batch"]}


def wrong(section: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Certificates.model_validate(section)
    return str(caught.value)


def test_what_is_written_is_what_counts() -> None:
    """Entries become rules in their order, and proxies networks or principals."""
    section = Certificates.model_validate(
        {
            "xfcc_from": ["10.1.2.0/24", "2001:db8::1", "spiffe://prod.example/ns/edge/sa/gateway"],
            "identities": [{"spiffe": WORKLOADS, "attributes": {"project": "x"}, "scopes": ["llm"]}, CLIENT],
        }
    )
    assert section.rules() == (
        Rule(pattern(WORKLOADS), {"project": "x"}, frozenset({"llm"})),
        Rule(DnsPattern("client.example.com"), {"team": "search"}, roles=frozenset({"batch"})),
    )
    assert [entry.named for entry in section.identities] == [{"team", "project"}, {"team"}]
    assert section.hops().include("10.1.2.3", "")
    assert section.hops().include("2001:db8::1", "")
    assert section.hops().include("192.0.2.1", "spiffe://prod.example/ns/edge/sa/gateway")
    assert not section.hops().include("10.1.3.3", "spiffe://prod.example/ns/edge/sa/other")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "Field required"),
        ({"identities": []}, "name at least one"),
        ({"identities": [{}]}, "exactly one of spiffe, dns"),
        ({"identities": [{"spiffe": WORKLOADS, "dns": "a.example"}]}, "exactly one of spiffe, dns"),
        ({"identities": [{"spiffe": "prod.example/ns/ml"}]}, "write a SPIFFE id"),
        ({"identities": [{"spiffe": ["x"]}]}, "write a SPIFFE id"),
        ({"identities": [{"spiffe": "spiffe://prod.example/ns/{namespace}"}]}, "no governance attribute"),
        ({"identities": [{"spiffe": "spiffe://prod.example/ns/{customer_tier}"}]}, "granted, not claimed"),
        ({"identities": [{"spiffe": WORKLOADS, "attributes": {"team": "x"}}]}, "is in the SPIFFE id too"),
        ({"identities": [{"dns": "a b"}]}, "must be a DNS name"),
        ({"identities": [CLIENT, CLIENT | {"dns": "client.EXAMPLE.com"}]}, "never reached"),
        ({"identities": [CLIENT], "xfcc_from": ["0.0.0.0/0"]}, "this is everybody"),
        ({"identities": [CLIENT], "xfcc_from": ["::/0"]}, "this is everybody"),
        ({"identities": [CLIENT], "xfcc_from": ["10.1.2.3/8"]}, "write the proxies' network"),
        ({"identities": [CLIENT], "xfcc_from": ["gateway"]}, "write the proxies' network"),
        ({"identities": [CLIENT], "xfcc_from": ["spiffe://prod.example/*"]}, "no SPIFFE id"),
    ],
)
def test_what_is_wrong_is_said(section: dict[str, Any], message: str) -> None:
    """Each mistake is met with what to write instead."""
    assert message in wrong(section)
