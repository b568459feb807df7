from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counted import Service, limit, unlimited
from genops_extauth.bucket import bucket
from genops_extauth.hits import Origin, Role
from genops_extauth.limit_counters import BOUNDS, OTHER, LimitCounters
from genops_extauth.quota import Modes

K = ("d", "k")


@pytest.mark.parametrize(
    ("requests", "first", "then", "counted"),
    [
        (15, 10, 1, {"total_hits": 1, "within_limit": 1}),
        (15, 10, 3, {"total_hits": 3, "within_limit": 3, "near_limit": 1}),
        (15, 15, 1, {"total_hits": 1, "over_limit": 1}),
        (20, 16, 3, {"total_hits": 3, "within_limit": 3, "near_limit": 3}),
        (20, 15, 7, {"total_hits": 7, "over_limit": 2, "near_limit": 4}),
        (20, 0, 1000, {"total_hits": 1000, "over_limit": 980, "near_limit": 4}),
        (0, 0, 2, {"total_hits": 2, "over_limit": 2}),
    ],
)
def test_shares(requests: int, first: int, then: int, counted: dict[str, int]) -> None:
    """Of a request that crosses its limit only the excess is over it, and near it is what lies from the ratio on."""
    service = Service()
    service.ask((K, limit(requests), first))
    before = service.counts(*K)
    service.ask((K, limit(requests), then))
    after = service.counts(*K)
    gained = {name: count - before.get(name, 0) for name, count in after.items()}
    assert {name: count for name, count in gained.items() if count} == counted


@dataclass
class Upstream:
    """envoyproxy/ratelimit's accounting, branch by branch, of one counter that refused hits do not reach."""

    limit: int
    near: int
    used: int = 0
    near_limit: int = 0
    over_limit: int = 0
    within_limit: int = 0
    total_hits: int = 0

    def hit(self, hits: int) -> None:
        before, after = self.used, self.used + hits
        self.total_hits += hits
        if after > self.limit:
            if before >= self.limit:
                self.over_limit += hits
            else:
                self.over_limit += after - self.limit
                self.near_limit += self.limit - max(self.near, before)
            return
        if after > self.near:
            self.near_limit += hits if before >= self.near else after - self.near
        self.within_limit += hits
        self.used = after


@given(requests=st.integers(0, 50), hits=st.lists(st.integers(0, 20), max_size=20), ratio=st.integers(0, 100))
def test_as_upstream(requests: int, hits: list[int], ratio: int) -> None:
    """Whatever is asked is counted as envoyproxy/ratelimit counts it, except that refused hits use nothing up."""
    upstream = Upstream(requests, requests * ratio // 100)
    service, rule = Service(), limit(requests, near=upstream.near)
    service.ask((K, rule, 0))
    for cost in hits:
        service.ask((K, rule, cost))
        upstream.hit(cost)
    names = ("total_hits", "over_limit", "near_limit", "within_limit")
    expected = {name: count for name in names if (count := getattr(upstream, name))}
    assert service.counts(*K) == expected


def test_burst() -> None:
    """Of a bucket that holds more or less than its limit's requests, what it holds is the limit that is counted by."""
    service = Service()
    rule = replace(limit(100, near=4), meter=bucket(100, 3600, 5))
    for _ in range(6):
        service.ask((K, rule, 1))
    assert service.counts(*K) == {"total_hits": 6, "within_limit": 5, "near_limit": 1, "over_limit": 1}


def test_refused_by_another() -> None:
    """A hit that fits counts as within its limit though another one refuses the request, and uses nothing up."""
    service = Service()
    for _ in range(2):
        service.ask((K, limit(10), 9), (("d", "none"), limit(0), 1))
    assert service.counts(*K) == {"total_hits": 18, "within_limit": 18, "near_limit": 2}
    assert service.counts("d", "none") == {"total_hits": 2, "over_limit": 2}
    service.ask((K, limit(10), 10))
    assert service.counts(*K)["within_limit"] == 28


def test_same_bucket_twice() -> None:
    """A hit that does not fit, because those before it in its request take what there is, is over the limit whole."""
    service = Service()
    service.ask((K, limit(10), 6), (K, limit(10), 6))
    counts = service.counts(*K)
    assert counts["total_hits"] == 12
    assert counts["within_limit"] == counts["over_limit"] == 6


def test_shadow() -> None:
    """Over a limit in shadow mode, hits count as over the limit and as passed in shadow mode."""
    service = Service()
    for _ in range(2):
        service.ask((K, limit(1, shadow=True), 1))
    assert service.counts(*K) == {
        "total_hits": 2,
        "within_limit": 1,
        "near_limit": 1,
        "over_limit": 1,
        "shadow_mode": 1,
    }


def test_look() -> None:
    """A request that only looks counts nothing, but for what it was refused."""
    service = Service()
    service.ask((K, limit(1), 0), look=True)
    service.ask((K, limit(1), 1), look=True)
    assert service.counts(*K) == {}
    service.ask((K, limit(1), 1), role=Role.CHARGE)
    service.ask((K, limit(1), 0), look=True)
    service.ask((K, limit(1), 1), look=True)
    assert service.counts(*K) == {"total_hits": 1, "within_limit": 1, "near_limit": 1, "over_limit": 1}


def test_charge() -> None:
    """A charge is never over the limit, even where it goes into debt, nor where its request is refused otherwise."""
    service = Service()
    service.ask((K, limit(10), 4), role=Role.CHARGE)
    service.ask((K, limit(10), 40), role=Role.CHARGE)
    assert service.counts(*K) == {"total_hits": 44, "within_limit": 44, "near_limit": 2}


def test_refund() -> None:
    """What is given back is counted apart, and nowhere else."""
    service = Service()
    service.ask((K, limit(50), 5))
    service.ask((K, limit(50), 3), role=Role.REFUND)
    assert service.counts(*K) == {"total_hits": 5, "within_limit": 5, "total_negative_hits": 3}


def test_remembered() -> None:
    """A refusal that was only remembered counts all its hits as over the limit, and as refused by the local cache."""
    service = Service()
    service.ask((K, limit(5), 3))
    service.ask((K, limit(5), 4), (("d", "roomy"), limit(100), 4), origin=Origin.MEMORY)
    expected = {"total_hits": 7, "within_limit": 3, "over_limit": 4, "over_limit_with_local_cache": 4}
    assert service.counts(*K) == expected
    assert service.counts("d", "roomy") == {"total_hits": 4, "within_limit": 4}


def test_several_limits() -> None:
    """The limits of one descriptor have a series each, named by what tells their buckets apart."""
    rules = [limit(10, suffix=b"tb1"), limit(250, suffix=b"fw86400")]
    counters = LimitCounters()
    counters.configured([b"d"], [(K, rules)], Modes())
    assert dict(counters.limits()) == {("d", "k", "tb1"): 10, ("d", "k", "fw86400"): 250}


def test_configured() -> None:
    """What is configured has its series from the start, however many there are, and its limit follows a reload."""
    counters = LimitCounters(most=0)
    service = Service(counters)
    counters.configured([b"d"], [(K, [limit(5)]), (("d", "free"), [unlimited()])], Modes())
    assert service.counts(*K) == {}
    assert counters.limits() == [(K, 5)]
    counters.configured([b"d"], [(K, [limit(7)])], Modes())
    service.ask((K, limit(7), 1))
    assert counters.limits() == [(K, 7)]
    assert service.counts(*K) == {"total_hits": 1, "within_limit": 1}
    assert counters.folded == 0


def test_folded() -> None:
    """Beyond the most, series count together as `other` in their domain: none is lost, and how many met it is told."""
    counters = LimitCounters(most=3)
    service = Service(counters)
    counters.configured([b"d"], [(K, [limit(5)])], Modes())
    for name in ("a", "b", "c", "e", "f", "a", "k"):
        service.ask((("d", name), limit(9), 2))
    service.ask((("d2", "z"), limit(9), 1))
    assert [series for series, _ in counters.series()] == [
        *(K, ("d", "a"), ("d", "b"), ("d", "c")),
        *(("d", OTHER), ("d2", OTHER)),
    ]
    assert service.counts("d", OTHER) == {"total_hits": 4, "within_limit": 4}
    assert service.counts("d", "a") == {"total_hits": 4, "within_limit": 4}
    assert counters.folded == 3
    assert dict(counters.limits()).keys() == {K, ("d", "a"), ("d", "b"), ("d", "c")}


def test_reloads() -> None:
    """Former series keep their counts and lose their limit; the oldest go where reloads left more than the most."""
    counters = LimitCounters(most=2)
    service = Service(counters)
    for name in ("a", "b", "c", "e"):
        counters.configured([b"d"], [(("d", name), [limit(5)])], Modes())
        service.ask((("d", name), limit(5), 1))
    assert [series for series, _ in counters.series()] == [("d", "b"), ("d", "c"), ("d", "e")]
    assert service.counts("d", "b") == {"total_hits": 1, "within_limit": 1}
    assert counters.limits() == [(("d", "e"), 5)]


@given(st.lists(st.lists(st.text(max_size=4) | st.text("a\\\x00\u202e", max_size=300), max_size=20), max_size=30))
def test_bounded(names: list[list[str]]) -> None:
    """Whatever clients send, there are no more series than may be, none is deep or long, and no hit is lost."""
    service = Service(LimitCounters(most=10))
    for keys in names:
        service.ask((("d", *keys), limit(5), 1))
    table = service.counters.series()
    assert len(table) <= 11
    assert all(len(series) <= 17 for series, _ in table)
    assert all(len(part) <= 256 and part.isprintable() for series, _ in table for part in series)
    assert sum(counts.total_hits for _, counts in table) == len(names)


def test_cleaned() -> None:
    """A credential in a descriptor reaches no metric."""
    service = Service()
    service.ask((("d", "authorization_Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"), limit(5), 1))
    assert service.counts("d", "authorization_Bearer [redacted]") == {"total_hits": 1, "within_limit": 1}


def test_domain_not_found() -> None:
    """Every descriptor of an unknown domain is counted; of a known one none, and many unknown ones count together."""
    counters = LimitCounters()
    service = Service(counters)
    counters.configured([b"d"], [], Modes())
    service.strange(b"d", 5)
    service.strange(b"foo\xff", 2)
    assert counters.domains_not_found == {"foo\\\\xff": 2}
    for number in range(150):
        service.strange(b"%d" % number)
    assert len(counters.domains_not_found) == 101
    assert counters.domains_not_found[OTHER] == 51


def test_global_shadow() -> None:
    """A request that only the service's shadow mode lets pass is counted, however many limits refuse it."""
    counters = LimitCounters()
    service = Service(counters)
    counters.configured([b"d"], [], Modes(shadow=True))
    service.ask((K, limit(1), 1), role=Role.MAY)
    assert counters.shadowed == 0
    service.ask((K, limit(1), 1), (("d", "none"), limit(0), 1), role=Role.MAY)
    assert counters.shadowed == 1
    service.ask((("d", "shadowed"), limit(0, shadow=True), 1))
    assert counters.shadowed == 1


def test_calls() -> None:
    """Calls are counted by the time they took; a bound belongs to its bucket."""
    counters = LimitCounters()
    for seconds in (0.0001, BOUNDS[0], 0.003, 60):
        counters.answered(seconds)
    assert counters.calls == 4
    assert counters.times == [2, 0, 0, 0, 1, *[0] * 10, 1]
    assert counters.time == pytest.approx(60.00335)
