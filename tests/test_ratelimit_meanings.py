"""What check-config says of limits that load, but may not mean what they seem to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.declared import Descriptor, Domain, Limit
from genops_extauth.limit_compiler import compile_tree
from genops_extauth.limit_rules import Settings
from genops_extauth.model import Descriptor as Asked
from genops_extauth.ratelimit_files import parse_file
from genops_extauth.ratelimit_meanings import meanings


def said(text: str, top: str = "") -> list[str]:
    parsed = parse_file("x.yaml", f"domain: d\n{top}\ndescriptors:\n{text}".encode())
    assert parsed.domain is not None, parsed.problems
    return list(meanings([parsed.domain]))


LIMIT = "rate_limit: {unit: day, requests_per_unit: 9}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"- {{key: customer_tier, value: free, {LIMIT}}}", "d.customer_tier_free: is one bucket, for all customers"),
        (f"- {{key: customer_tier, {LIMIT}}}", "d.customer_tier: is one bucket a tier, for all customers together"),
        (f"- {{key: k, shadow_mode: true, {LIMIT}}}", "d.k: is in shadow mode: it counts, and refuses nothing"),
        ("- {key: k, rate_limit: {unit: day, requests_per_unit: 0}}", "d.k: is a limit of 0"),
        (
            "- {key: k, rate_limit: {unit: day, requests_per_unit: 9, charge: response}}",
            "d.k: counts what responses cost",
        ),
        ("- {key: k, value: '*'}\n- {key: k, value: 'a*'}", "d.k_a*: is never met, for k_* matches all"),
        ("- key: p\n  descriptors: [{key: k, value: '*'}, {key: k}]", "d.p.k: is never met, for k_* matches all"),
        ("- {key: 'k*'}\n- {key: k1, value: 'v*'}", "d.k1_v*: is never met, for k* matches all"),
    ],
)
def test_what_is_easily_overlooked_is_said(text: str, sentence: str) -> None:
    """A shared bucket, a limit that never or always refuses, a debt and a shadowed wildcard are said in words."""
    found = said(text)

    assert len(found) == 1
    assert found[0].startswith(sentence)


@pytest.mark.parametrize(
    "text",
    [
        f"- key: customer_tier\n  value: free\n  descriptors:\n  - {{key: customer_id, {LIMIT}}}",
        "- {key: customer_tier, value: free}",
        f"- {{key: path, value: /login, {LIMIT}}}",
        "- {key: k, value: 'a*'}\n- {key: k, value: '*'}\n- {key: k, value: abc}\n- {key: k_a, value: 'b*'}",
        "- {key: k, rate_limit: {unlimited: true}}",
    ],
)
def test_of_what_is_plain_nothing_is_said(text: str) -> None:
    """A bucket a customer, a limit on a path, a white list and wildcards from narrow to wide need no words."""
    assert said(text) == []


def test_where_a_domain_walks_back_nothing_is_shadowed() -> None:
    """With backtracking a wildcard behind a wider one may be met."""
    assert said("- {key: k, value: '*'}\n- {key: k, value: 'a*'}", "backtracking: true") == []


def test_no_more_is_said_than_anybody_reads() -> None:
    """The sentences end after a hundred."""
    assert len(said("".join(f"- {{key: k{n}, shadow_mode: true, {LIMIT}}}\n" for n in range(200)))) == 100


PATTERNS = st.text("ab*_", min_size=1, max_size=4)


@given(PATTERNS.filter(lambda text: "*" in text), PATTERNS, st.text("ab_", max_size=6))
def test_what_is_said_never_to_be_met_is_never_met(first: str, second: str, value: str) -> None:
    """No value meets the second of two wildcards where the first is said to cover it."""
    if first == second or "*" not in second:
        return
    domain = Domain(
        "d",
        (Descriptor("k", first, (Limit(1, "day", name="1"),)), Descriptor("k", second, (Limit(1, "day", name="2"),))),
    )
    match = compile_tree([domain], Settings()).match(b"d", Asked(((b"k", value.encode()),)))

    if meanings([domain]) and match is not None:
        assert match.met[0].rule.limit.name == "1"
