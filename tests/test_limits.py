"""Which bucket a descriptor hits, and how its key is spelt."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from genops_extauth.bucket import shape
from genops_extauth.limits import Match, Rule, tier_tree
from genops_extauth.model import CurrentLimit, Unit


def rule(requests: int, unit: Unit = "hour", period: int = 3600) -> Rule:
    return Rule(CurrentLimit(requests, unit), shape(requests, period), period)


FREE, PREMIUM, ANONYMOUS = rule(100), rule(10_000), rule(60, "minute", 60)
TREE = tier_tree("genops", {"free": FREE, "premium": PREMIUM}, "free", ANONYMOUS, "genops")


def match(*entries: tuple[str, str], domain: bytes = b"genops") -> Match | None:
    return TREE.match(domain, [(key.encode(), value.encode()) for key, value in entries])


def test_a_customer_meets_the_limit_of_its_tier() -> None:
    """(customer_tier, customer_id) is one bucket a customer, sized by the tier, its key readable."""
    met = match(("customer_tier", "premium"), ("customer_id", "acme"))

    assert met == Match(PREMIUM, b"genops:{genops|customer_tier=premium|customer_id=acme}:tb3600", defaulted=False)


@pytest.mark.parametrize(
    "entries",
    [
        [("customer_tier", "platinum"), ("customer_id", "acme")],
        [("customer_tier", ""), ("customer_id", "acme")],
        [("customer_tier", "Premium"), ("customer_id", "acme")],
        [("customer_id", "acme")],
    ],
)
def test_an_unknown_or_missing_tier_is_the_default_tier(entries: list[tuple[str, str]]) -> None:
    """An unknown or missing tier meets the bucket of the default tier, and is marked so that it can be counted."""
    met = match(*entries)

    assert met == Match(FREE, b"genops:{genops|customer_tier=free|customer_id=acme}:tb3600", defaulted=True)


def test_an_address_meets_the_anonymous_limit() -> None:
    """A remote_address descriptor is one bucket an address."""
    assert match(("remote_address", "2001:db8::1")) == Match(
        ANONYMOUS, b"genops:{genops|remote_address=2001:db8::1}:tb60", defaulted=False
    )


def test_a_network_meets_the_anonymous_limit() -> None:
    """A masked_remote_address descriptor is one bucket a network, for who owns one has addresses without end."""
    met = match(("masked_remote_address", "2001:db8::/64"))

    assert met == Match(ANONYMOUS, b"genops:{genops|masked_remote_address=2001:db8::/64}:tb60", defaulted=False)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [("customer_tier", "free")],
        [("path", "/")],
        [("customer_tier", "free"), ("customer_id", "a"), ("path", "/")],
    ],
)
def test_what_lands_on_no_rule_is_not_limited(entries: list[tuple[str, str]]) -> None:
    """A descriptor shorter, longer or other than a rule meets none."""
    assert match(*entries) is None


def test_another_domain_is_not_limited() -> None:
    """A domain that no rule speaks of meets none."""
    assert match(("customer_id", "acme"), domain=b"other") is None


@given(st.lists(st.binary(max_size=80), min_size=2, max_size=6, unique=True))
def test_two_customers_never_share_a_key(customers: list[bytes]) -> None:
    """Different customers have different keys, whatever bytes their names are made of."""
    met = [TREE.match(b"genops", [(b"customer_tier", b"free"), (b"customer_id", name)]) for name in customers]
    keys = [found.key for found in met if found]

    assert len(set(keys)) == len(customers)


@given(st.binary(max_size=200))
def test_a_key_is_printable_and_has_one_hash_tag(name: bytes) -> None:
    """A key is printable ASCII, and a customer cannot close or open the braces that choose its Cluster slot."""
    met = TREE.match(b"genops", [(b"customer_id", name)])
    assert met is not None

    assert all(0x20 < byte < 0x7F for byte in met.key)
    assert met.key.count(b"{") == met.key.count(b"}") == 1


def test_a_long_name_is_replaced_by_a_digest() -> None:
    """A value over 64 bytes is replaced by a digest, so that a key stays short and its owner private."""
    met = match(("customer_id", "a" * 65))

    assert met is not None
    assert len(met.key) < 120
    assert b"aaa" not in met.key


@given(st.binary(), st.binary())
def test_a_tier_and_a_customer_never_merge(tier: bytes, customer: bytes) -> None:
    """No choice of tier and customer meets another pair's bucket, except that unknown tiers are the default tier."""
    assume(tier not in {b"free", b"premium"})
    met = TREE.match(b"genops", [(b"customer_tier", tier), (b"customer_id", customer)])
    plain = TREE.match(b"genops", [(b"customer_tier", b"free"), (b"customer_id", customer)])

    assert met is not None
    assert plain is not None
    assert met.key == plain.key


def test_the_limit_is_not_in_the_key() -> None:
    """Raising a limit keeps what was spent: the key does not hold it."""
    raised = tier_tree("genops", {"free": rule(100), "premium": rule(99_999)}, "free", ANONYMOUS, "genops")
    entries = [(b"customer_tier", b"premium"), (b"customer_id", b"acme")]
    keys = [met.key for tree in (TREE, raised) if (met := tree.match(b"genops", entries))]

    assert all(before == after for before, after in pairwise(keys))
    assert len(keys) == 2
