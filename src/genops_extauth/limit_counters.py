"""What each limit has seen, counted as envoyproxy/ratelimit counts it (src/limiter/base_limiter.go), and the service.

Counts are of hits, not of requests: a request of 7 hits that finds room for 5 counts 7 in total, 2 of them over the
limit. One that only looks counts nothing, but for what it was refused.

A series is a limit's name in metrics: the domain, then a part for each entry. Some name what clients send, so there is
an end to them: what configuration declares has its series from the start, others get one while there is room, and the
rest of a domain is counted together as `OTHER`. Nobody locks anything: only the event loop's thread counts.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from genops_extauth.counting import Series
from genops_extauth.gate import Decided
from genops_extauth.hits import Hit, Level, Origin, Role
from genops_extauth.limits import Rule
from genops_extauth.logs import clean
from genops_extauth.quota import Counted, Modes, would_refuse

OTHER = "other"
"""The series, in its domain, of all that have none of their own; and of unknown domains."""

COUNTS: Mapping[str, str] = MappingProxyType(
    {
        "total_hits": "Hits asked for.",
        "over_limit": "Hits that did not fit.",
        "near_limit": "Hits from the near-limit ratio on, up to the limit.",
        "within_limit": "Hits that fitted.",
        "shadow_mode": "Hits that did not fit, and passed: their limit is in shadow mode.",
        "over_limit_with_local_cache": "Hits that did not fit, as this process remembered without asking the store.",
        "total_negative_hits": "Hits given back.",
    }
)
"""What is counted of each limit, and what it means."""

# Prometheus's default buckets (client_golang, DefBuckets), which dashboards of envoyproxy/ratelimit draw, and finer
# ones: most decisions take less than the first of those.
BOUNDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Descriptors with a limit of their own need not be configured, so whoever asks chooses how many entries they have.
_DEEPEST = 16
# A gateway asks for one domain, or a few; an unknown one is a mistake that somebody is looking for.
_STRANGERS = 100

# An enum's members are looked up slowly, and these for every hit.
_CHARGE, _REFUND, _MEMORY = Role.CHARGE, Role.REFUND, Origin.MEMORY

Failure = Literal["redis_error", "service_error"]


class Counts:
    """The counts of one series; `limit` is what the limit met last admits per unit, None where there is none now."""

    __slots__ = (*COUNTS, "limit")

    def __init__(self) -> None:
        self.total_hits = self.over_limit = self.near_limit = self.within_limit = 0
        self.shadow_mode = self.over_limit_with_local_cache = self.total_negative_hits = 0
        self.limit: int | None = None

    def add(self, each: Counted, *, granted: bool, remembered: bool) -> None:
        """Count a hit of a request that was `granted` or refused; `remembered`: without asking the store."""
        _, _, (rule, _), hit, level = each
        _, _, cost, role, look, _ = hit
        self.limit = rule.limit.requests_per_unit
        if role is _REFUND:
            self.total_negative_hits += cost
            return
        if not look:
            self.total_hits += cost
        fits = level.fits
        if not fits and (look or remembered):
            self.over_limit += cost
        elif not look:
            self._share_out(rule.near, hit, level, taken=fits and (granted or role is _CHARGE))
        if not fits:
            if remembered:
                self.over_limit_with_local_cache += cost
            if rule.shadow:
                self.shadow_mode += cost

    def _share_out(self, near: int, hit: Hit, level: Level, *, taken: bool) -> None:
        """Count which of the hits lie within the limit, near it, and over it; what was not `taken` is not used yet."""
        cost, meter = hit.cost, hit.meter
        capacity = meter.capacity // meter.part
        used = capacity - level.remaining
        before, after = (used - cost, used) if taken else (used, used + cost)
        if after > near:
            close = min(after, capacity) - max(near, before)
            if close > 0:
                self.near_limit += close
        if level.fits:
            self.within_limit += cost
        else:
            over = after - max(capacity, before)
            # Less, where hits of the same request on the same bucket come first: then none of these fits.
            self.over_limit += over if over > 0 else cost


class LimitCounters:
    """All that is counted of rate limits. `most` is the number of series that no configuration declares."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._counts: dict[Series, Counts] = {}
        self._expected: set[Series] = set()
        self._others: set[Series] = set()
        self._domains: frozenset[bytes] = frozenset()
        self._modes = Modes()
        self.exposure: Callable[[], Mapping[str, float]] = dict
        """What each limit may admit in an outage of the store, in tokens, infinite where all; asked at each look."""
        self.folded = 0
        """How often a limit was met that has no series of its own."""
        self.domains_not_found: dict[str, int] = {}
        self.failures: dict[Failure, int] = {"redis_error": 0, "service_error": 0}
        self.loads = {"config_load_success": 0, "config_load_error": 0}
        self.shadowed = 0
        """Requests that passed only because the whole service is in shadow mode."""
        self.times = [0] * (len(BOUNDS) + 1)
        """Answers by the time they took: up to each of `BOUNDS`, and longer."""
        self.time = 0.0

    def configured(
        self, domains: Iterable[bytes], limits: Iterable[tuple[Series, Sequence[Rule]]], modes: Modes
    ) -> None:
        """Learn the domains, the limits that a series stands for, and how limits count now.

        Former counts stay, as far as there is room: a counter must not vanish, nor a day of reloads fill the memory.
        """
        self._domains, self._modes = frozenset(domains), modes
        self._expected = set(self._others)
        for counts in self._counts.values():
            counts.limit = None
        for series, rules in limits:
            for rule in rules:
                if not rule.unlimited:
                    shown = _shown(_named(series, rules, rule))
                    self._expected.add(shown)
                    self._counts.setdefault(shown, Counts()).limit = rule.limit.requests_per_unit
        former = [series for series in self._counts if series not in self._expected]
        for series in former[: max(0, len(former) - self._most)]:
            del self._counts[series]

    def decided(self, decided: Decided) -> None:
        """Count a decision."""
        granted, remembered = not decided.told.over, decided.origin is _MEMORY
        counted = decided.counted
        for each in counted:
            match = each.match
            series = match.series
            if len(match.met) > 1:
                series = _named(series, [met.rule for met in match.met], each.met.rule)
            counts = self._counts.get(series) or self._admitted(series)
            counts.add(each, granted=granted, remembered=remembered)
        if self._modes.shadow and would_refuse(counted, decided.matches, self._modes):
            self.shadowed += 1
        if None in decided.matches and decided.domain not in self._domains:
            self._not_found(decided.domain, len(decided.matches))

    @property
    def calls(self) -> int:
        """Calls so far."""
        return sum(self.times)

    def answered(self, seconds: float) -> None:
        """Count a call, whatever came of it, and the time it took."""
        self.times[bisect_left(BOUNDS, seconds)] += 1
        self.time += seconds

    def failed(self, failure: Failure) -> None:
        """Count a call without an answer: the store had none, or the request or the service was wrong."""
        self.failures[failure] += 1

    def loaded(self, *, good: bool) -> None:
        """Count a configuration that was read, the first one too."""
        self.loads["config_load_success" if good else "config_load_error"] += 1

    def series(self) -> list[tuple[Series, Counts]]:
        """Everything counted of limits, as the series are now; safe to be called in any thread."""
        return list(self._counts.items())

    def limits(self) -> list[tuple[Series, int]]:
        """The limit of each series that stands for one; safe as `series` is."""
        return [
            (series, counts.limit)
            for series, counts in self.series()
            if counts.limit is not None and series not in self._others
        ]

    def _admitted(self, series: Series) -> Counts:
        """Find the counts of a series that is new, or not shown as it is."""
        shown = _shown(series[: _DEEPEST + 1])
        counts = self._counts.get(shown)
        if counts is None:
            if len(series) > _DEEPEST + 1 or len(self._counts) - len(self._expected) >= self._most:
                return self._folded(shown[0])
            counts = self._counts[shown] = Counts()
        return counts

    def _folded(self, domain: str) -> Counts:
        self.folded += 1
        other = (domain, OTHER)
        self._others.add(other)
        self._expected.add(other)
        return self._counts.setdefault(other, Counts())

    def _not_found(self, domain: bytes, descriptors: int) -> None:
        name = clean(domain.decode("utf-8", "backslashreplace"))
        if name not in self.domains_not_found and len(self.domains_not_found) >= _STRANGERS:
            name = OTHER
        self.domains_not_found[name] = self.domains_not_found.get(name, 0) + descriptors


def _named(series: Series, rules: Sequence[Rule], rule: Rule) -> Series:
    """Tell apart the limits of one descriptor, by what tells their buckets apart."""
    return series if len(rules) == 1 else (*series, rule.suffix.decode())


def _shown(series: Series) -> Series:
    return tuple(map(clean, series))
