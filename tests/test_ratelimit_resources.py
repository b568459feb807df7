"""RateLimitConfig resources mean what files mean."""

from typing import Any

import pytest

from ads_server import discovery_response, limits, rate_limit_config
from genops_extauth.declared import Descriptor, Domain, Limit
from genops_extauth.ratelimit_files import parse_file
from genops_extauth.ratelimit_resources import declared
from genops_extauth.xds_messages import read_response

FILE = b"""
domain: d
descriptors:
  - key: a
    value: b*
    shadow_mode: true
    quota_mode: true
    detailed_metric: true
    rate_limit: {unit: week, requests_per_unit: 9}
    metadata: {text: "1", number: 1.5, flag: false, none: null, list: [1.5, {a: b}], map: {}}
    descriptors:
      - key: c
        rate_limit: {unlimited: true, name: n, replaces: [{name: o}, {name: p}]}
      - key: e
"""
RESOURCE = {
    "name": "d.yaml",
    "domain": "d",
    "descriptors": [
        {
            "key": "a",
            "value": "b*",
            "shadow_mode": True,
            "quota_mode": True,
            "detailed_metric": True,
            "rate_limit": {"unit": "WEEK", "requests_per_unit": 9},
            "metadata": {
                "text": "1",
                "number": 1.5,
                "flag": False,
                "none": None,
                "list": [1.5, {"a": "b"}],
                "map": {},
            },
            "descriptors": [
                {
                    "key": "c",
                    "rate_limit": {"unlimited": True, "name": "n", "replaces": [{"name": "o"}, {"name": "p"}]},
                },
                {"key": "e"},
            ],
        }
    ],
}


def read(*resources: bytes, merge_domains: bool = False) -> tuple[tuple[Domain, ...], tuple[str, ...]]:
    return declared(read_response(discovery_response("1", resources)).resources, merge_domains=merge_domains)


def test_same_as_file() -> None:
    """A resource declares what the file that says the same declares."""
    assert read(rate_limit_config(RESOURCE)) == ((parse_file("d.yaml", FILE).domain,), ())


@pytest.mark.parametrize("unit", ["SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "YEAR"])
def test_units(unit: str) -> None:
    """Every unit of the message is one of a file."""
    descriptor = {"key": "k", "rate_limit": {"unit": unit, "requests_per_unit": 2**32 - 1}}
    (domain,), problems = read(rate_limit_config({"domain": "d", "descriptors": [descriptor]}))

    assert problems == ()
    assert domain.descriptors == (Descriptor("k", limits=(Limit(2**32 - 1, unit.lower()),)),)  # type: ignore[arg-type] # a Unit


@pytest.mark.parametrize(
    ("descriptor", "problem"),
    [
        ({"value": "v"}, "descriptors[0].key: n: descriptor has empty key; "),
        ({"key": "k", "rate_limit": {}}, "descriptors[0].rate_limit.unit: n: invalid rate limit unit ''; "),
        ({"key": "k", "rate_limit": {"unit": 99}}, "descriptors[0].rate_limit.unit: n: invalid rate limit unit '99'; "),
        (
            {"key": "k", "rate_limit": {"unit": "DAY", "unlimited": True}},
            "descriptors[0].rate_limit.unit: n: should not specify rate limit unit when unlimited",
        ),
        (
            {"key": "k", "rate_limit": {"unlimited": True, "replaces": [{}]}},
            "descriptors[0].rate_limit.replaces[0].name: n: should not have an empty replaces entry",
        ),
        (
            {"key": "k", "rate_limit": {"unlimited": True, "name": "a", "replaces": [{"name": "a"}]}},
            "descriptors[0].rate_limit.replaces[0].name: n: replaces should not contain name of same descriptor",
        ),
        ({"key": "k", "metadata": {"a": float("inf")}}, "descriptors[0].metadata.a: n: error parsing metadata: "),
    ],
)
def test_problems(descriptor: dict[str, Any], problem: str) -> None:
    """What a file may not say, a resource may not, and is told in the same words, without a line."""
    _, (told,) = read(rate_limit_config({"name": "n", "domain": "d", "descriptors": [descriptor]}))

    assert told.startswith(problem)


def test_no_domain() -> None:
    """A resource names its domain."""
    _, (told,) = read(rate_limit_config({"name": "n"}))

    assert told.startswith("domain: n: config file cannot have empty domain; ")


def test_many_problems() -> None:
    """As many problems are told as a person reads."""
    config = rate_limit_config({"domain": "d", "descriptors": [{"value": str(value)} for value in range(90)]})
    _, told = read(config, config)

    assert len(told) == 101
    assert told[-1] == "these are 100 problems; there may be more"


def test_deep() -> None:
    """As deep as a message can nest, its descriptors are declared."""
    descriptor: dict[str, Any] = {"key": "k", "rate_limit": {"unit": "DAY", "requests_per_unit": 1}}
    for _ in range(96):
        descriptor = {"key": "k", "descriptors": [descriptor]}
    (domain,), problems = read(rate_limit_config({"domain": "d", "descriptors": [descriptor]}))

    assert problems == ()
    depth, descriptors = 0, domain.descriptors
    while descriptors:
        depth, descriptors = depth + 1, descriptors[0].descriptors
    assert depth == 97


def test_order() -> None:
    """Domains come in the order of the resources."""
    domains, problems = read(limits("b", 1), limits("a", 2))

    assert problems == ()
    assert [domain.name for domain in domains] == ["b", "a"]
