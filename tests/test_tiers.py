"""What ``tiers`` declare, and how they live with files of the same domain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.declared import Descriptor, Domain, Limit
from genops_extauth.limit_compiler import LimitsError, compile_tree
from genops_extauth.limit_rules import Settings
from genops_extauth.limits import Match, Tree
from genops_extauth.model import Descriptor as Asked
from genops_extauth.tiers import Tiers

LIMITS = {"free": Limit(100, "hour", name="free"), "premium": Limit(10_000, "hour", name="premium")}
TIERS = Tiers("genops", LIMITS, "free", Limit(60, "minute", name="anonymous"))


def tree(*domains: Domain, tag: str | None = None) -> Tree:
    return compile_tree(domains, Settings(tag=tag), TIERS)


TREE = tree()


def match(*entries: tuple[bytes, bytes], of: Tree = TREE, domain: bytes = b"genops") -> Match | None:
    return of.match(domain, Asked(entries))


def told(met: Match | None) -> tuple[str, bytes, bool]:
    assert met is not None
    return met.met[0].rule.limit.name, met.met[0].key, met.defaulted


def test_a_customer_meets_the_limit_of_its_tier() -> None:
    """(customer_tier, customer_id) is one bucket a customer, sized by the tier, its key readable."""
    met = match((b"customer_tier", b"premium"), (b"customer_id", b"acme"))

    assert told(met) == ("premium", b"genops:{genops|customer_tier=premium|customer_id=acme}:tb3600", False)


@pytest.mark.parametrize(
    "entries",
    [
        [(b"customer_tier", b"platinum"), (b"customer_id", b"acme")],
        [(b"customer_tier", b""), (b"customer_id", b"acme")],
        [(b"customer_tier", b"Premium"), (b"customer_id", b"acme")],
        [(b"customer_tier", b"\xff"), (b"customer_id", b"acme")],
        [(b"customer_id", b"acme")],
    ],
)
@pytest.mark.parametrize("tag", [None, "customer_id", "customer_tier"])
def test_an_unknown_or_missing_tier_is_the_default_tier(entries: list[tuple[bytes, bytes]], tag: str | None) -> None:
    """An unknown or missing tier meets the bucket and the series of the default tier, and is marked to be counted."""
    tagged = tree(tag=tag)
    met, plain = match(*entries, of=tagged), match((b"customer_tier", b"free"), (b"customer_id", b"acme"), of=tagged)

    assert told(met) == (*told(plain)[:2], True)
    assert met is not None
    assert plain is not None
    assert met.series == plain.series == ("genops", "customer_tier_free", "customer_id")


@pytest.mark.parametrize("key", [b"remote_address", b"masked_remote_address"])
def test_an_address_meets_the_anonymous_limit(key: bytes) -> None:
    """An address is one bucket; so is a network, for who owns one has addresses without end."""
    assert told(match((key, b"2001:db8::1"))) == ("anonymous", b"genops:{genops|%b=2001:db8::1}:tb60" % key, False)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [(b"customer_tier", b"free")],
        [(b"path", b"/")],
        [(b"customer_tier", b"free"), (b"customer_id", b"a"), (b"path", b"/")],
    ],
)
def test_what_lands_on_no_limit_is_not_limited(entries: list[tuple[bytes, bytes]]) -> None:
    """A descriptor shorter, longer or other than a limit's path meets none."""
    assert match(*entries) is None


def test_another_domain_is_not_limited() -> None:
    """A domain that nothing speaks of is not known, and meets no limit."""
    assert match((b"customer_id", b"acme"), domain=b"other") is None
    assert not TREE.knows(b"other")
    assert TREE.knows(b"genops")


@given(st.lists(st.binary(max_size=80), min_size=2, max_size=6, unique=True))
def test_two_customers_never_share_a_key(customers: list[bytes]) -> None:
    """Different customers have different keys, whatever bytes their names are made of."""
    met = [match((b"customer_tier", b"free"), (b"customer_id", name)) for name in customers]

    assert len({told(each)[1] for each in met}) == len(customers)


@given(st.binary(max_size=200), st.sampled_from([None, "customer_id"]))
def test_a_key_is_printable_and_has_one_hash_tag(name: bytes, tag: str | None) -> None:
    """A key is printable ASCII, and a customer cannot close or open the braces that choose its Cluster slot."""
    _, key, _ = told(match((b"customer_id", name), of=tree(tag=tag)))

    assert all(0x20 < byte < 0x7F for byte in key)
    assert key.count(b"{") == key.count(b"}") == 1


def test_the_limit_is_not_in_the_key() -> None:
    """Raising a limit keeps what was spent: the key does not hold it."""
    raised = compile_tree([], Settings(), Tiers("genops", {**LIMITS, "premium": Limit(99_999, "hour")}, "free"))
    entries = [(b"customer_tier", b"premium"), (b"customer_id", b"acme")]

    assert told(match(*entries, of=raised))[1] == told(match(*entries))[1]


def test_a_file_may_add_to_the_tiers_domain() -> None:
    """Descriptors of other entries in the tiers' own domain stand beside the tiers, however alike their names are."""
    others = (
        Descriptor("path", "/v1*", limits=(Limit(5, "second", name="path"),)),
        Descriptor("customer", limits=(Limit(5, "second"),)),
        Descriptor("customer_id_hash", limits=(Limit(5, "second"),)),
    )
    both = tree(Domain("genops", others))

    assert told(match((b"path", b"/v1/x"), of=both)) == ("path", b"genops:{genops|path=/v1/x}:tb1", False)
    assert told(match((b"customer_id", b"acme"), of=both)) == told(match((b"customer_id", b"acme")))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("customer_tier", "free"),
        ("customer_tier", "gold"),
        ("customer_id", ""),
        ("remote_address", ""),
        ("masked_remote_address", "10.*"),
        ("*", ""),
        ("customer*", "x"),
        ("customer_id_a*", ""),
    ],
)
def test_a_file_may_not_speak_of_the_tiers_entries(key: str, value: str) -> None:
    """What a file says of the tiers' own entries, by name or by a star, is refused with the file and what to do."""
    file = Domain("genops", (Descriptor(key, value, limits=(Limit(1, "hour"),)),), source="a.yaml")

    with pytest.raises(LimitsError, match=r"^a\.yaml: the descriptor .* write it in another domain"):
        tree(file)


def test_the_tiers_are_of_their_own_domain_only() -> None:
    """In another domain a file may speak of the tiers' entries, and means what it says: there is no default tier."""
    free = Descriptor("customer_tier", "free", limits=(Limit(1, "hour", name="file"),))
    both = tree(Domain("other", (free,)))

    for entries in ((b"customer_tier", b"gold"), (b"customer_id", b"acme")):
        assert both.match(b"other", Asked((entries,))) is None
    found = both.match(b"other", Asked(((b"customer_tier", b"free"),)))
    assert found is not None
    assert (found.met[0].rule.limit.name, found.met[0].key) == ("file", b"genops:{other|customer_tier=free}:tb3600")
    assert told(match((b"customer_id", b"acme"), of=both)) == told(match((b"customer_id", b"acme")))


def test_without_an_anonymous_limit_a_file_may_limit_addresses() -> None:
    """Entries that the tiers leave alone are a file's to limit."""
    file = Domain("genops", (Descriptor("remote_address", limits=(Limit(7, "hour", name="file"),)),))
    mixed = compile_tree([file], Settings(), Tiers("genops", LIMITS, "free"))

    assert told(match((b"remote_address", b"::1"), of=mixed))[0] == "file"


def test_the_dump_has_each_tier_once() -> None:
    """/rlconfig shows the tiers' limits, and not those that stand in for unknown ones."""
    assert [line.split(",")[0] for line in TREE.lines()] == [
        "genops.customer_tier_free.customer_id: unit=HOUR requests_per_unit=100",
        "genops.customer_tier_premium.customer_id: unit=HOUR requests_per_unit=10000",
        "genops.remote_address: unit=MINUTE requests_per_unit=60",
        "genops.masked_remote_address: unit=MINUTE requests_per_unit=60",
    ]
