"""A second rate limiter: slow, plain, and written from the contract alone, to judge the real one by.

It knows counters at a clock that stands still, so that every algorithm is a number of tokens that nothing gives back
but refunds. It has the matching of envoyproxy/ratelimit (src/config/config_impl.go, GetLimit), strict where that joins
keys and values, the decision of its service (src/service/ratelimit.go), and what is ours on top: a refused request
takes nothing, charges always count, refunds where they are allowed, several limits on one descriptor.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

from genops_extauth.declared import Descriptor, Domain, Limit

PERIODS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": 31_536_000,
}
CHARGE = ("genops_phase", "charge")
Path = tuple[tuple[str, ...], ...]


class Question(NamedTuple):
    """A descriptor of a request; `override` is (requests, unit)."""

    entries: tuple[tuple[str, str], ...]
    hits: int | None = None
    refund: bool = False
    override: tuple[int, str] | None = None


class Told(NamedTuple):
    """What is said of one descriptor; `limit` is (requests, unit, name), None where there is none."""

    over: bool = False
    limit: tuple[int, str, str] | None = None
    remaining: int = 0
    reset: int | None = None


class Verdict(NamedTuple):
    over: bool
    statuses: list[Told]
    headers: list[tuple[str, str]]
    body: str
    metadata: dict[str, Any]


@dataclass
class Met:
    """A limit that a descriptor met; `counter` says which bucket it is. The rest is what became of the hit."""

    limit: Limit
    node: Descriptor
    counter: tuple[Any, ...]
    cost: int = 0
    kind: str = "take"  # or look, charge, refund
    fits: bool = True
    asked: int = 0
    reset: int = 0
    remaining: int = 0

    @property
    def over(self) -> bool:
        return not self.fits and not self.node.shadow_mode

    def told(self) -> Told:
        current = (self.limit.requests, str(self.limit.unit), self.limit.name)
        return Told(self.over, current, self.remaining if self.fits else 0, self.reset)


@dataclass
class Model:
    """`now` is the time of the standing clock, in microseconds. `used` is each counter's used share of its size.

    `refused`: whether the request before was, but for the global shadow mode.
    """

    domains: Mapping[str, Domain]
    now: int
    shadow: bool = False
    quota: bool = False
    used: dict[tuple[Any, ...], Fraction] = field(default_factory=dict)
    refused: bool = False

    def ask(self, domain: str, questions: Sequence[Question], addend: int = 0) -> Verdict:
        every = [self.met(domain, question) for question in questions]
        gone = {name for mets in every for met in mets or () for name in met.limit.replaces}
        left = [[met for met in mets or () if not met.limit.unlimited and met.limit.name not in gone] for mets in every]
        for mets, question in zip(left, questions, strict=True):
            for met in mets:
                met.kind, met.cost = kind_and_cost(met.limit, question, addend)
        self.walk([met for mets in left for met in mets])
        quota = [self.is_quota(before, mets) for before, mets in zip(every, left, strict=True)]
        self.refused = is_refused(left, quota)
        refused = self.refused and not self.shadow
        self.settle([met for mets in left for met in mets], refused=refused)
        return self.verdict(every, left, quota, refused=refused)

    def met(self, domain: str, question: Question) -> list[Met] | None:
        """The limits that a descriptor meets, replaced and unlimited ones too; None where there are none."""
        if domain not in self.domains:
            return None
        entries = [entry for entry in question.entries if entry != CHARGE]
        if question.override is not None:
            requests, unit = question.override
            limit = Limit(requests, unit)  # type: ignore[arg-type]  # a unit, as a str
            return [Met(limit, Descriptor(""), (domain, *entries, "token_bucket", PERIODS[unit]))]
        found = find(self.domains[domain], self.domains[domain].descriptors, entries)
        if found is None or not found[0].limits:
            return None
        node, path = found
        return [Met(limit, node, (domain, *path, *window(limit))) for limit in node.limits]

    def is_quota(self, before: Sequence[Met] | None, left: Sequence[Met]) -> bool:
        """Whether a descriptor is a quota: one with a single limit, if it or everything is in quota mode."""
        if left:
            return len(before or ()) == 1 and (self.quota or left[0].node.quota_mode)
        return self.quota and not any(met.limit.unlimited for met in before or ())

    def walk(self, mets: Sequence[Met]) -> None:
        """Decide of each hit whether it fits, given what the hits before it take."""
        levels = {met.counter: self.level(met, mets) for met in mets}
        taken = dict.fromkeys(levels, 0)
        for met in mets:
            met.fits = met.kind in ("charge", "refund") or met.cost <= levels[met.counter]
            met.asked = taken[met.counter] + met.cost
            if met.kind == "take" and met.fits:
                taken[met.counter] += met.cost
            levels[met.counter] = moved(met, levels[met.counter], size_of(holding(met, mets)))

    def settle(self, mets: Sequence[Met], *, refused: bool) -> None:
        """Count what is counted, and tell what is left then."""
        levels = {met.counter: self.level(met, mets) for met in mets}
        # What was taken and given back still stood when charges and refunds were made.
        before = dict(levels)
        for met in mets:
            levels[met.counter] = moved(met, levels[met.counter], size_of(holding(met, mets)))
        if refused:
            for met in mets:
                if met.kind == "take" and met.fits:
                    levels[met.counter] += met.cost
        for met in mets:
            limit, level = holding(met, mets), levels[met.counter]
            met.remaining = max(0, math.floor(level))
            met.reset = self.reset(met, limit, level)
            if (size := size_of(limit)) and level != before[met.counter]:
                self.used[met.counter] = 1 - level / size

    def level(self, met: Met, mets: Sequence[Met]) -> Fraction:
        return (1 - self.used.get(met.counter, Fraction(0))) * size_of(holding(met, mets))

    def reset(self, met: Met, limit: Limit, level: Fraction) -> int:
        """Whole seconds until all is there again; where it did not fit, until the same request would."""
        size = size_of(limit)
        whole = met.fits or met.asked > size
        if met.fits and level >= size:
            return 0
        seconds = self.seconds(limit, level, size if whole else met.asked, whole=whole)
        return seconds if met.fits else max(1, seconds)

    def seconds(self, limit: Limit, level: Fraction, wanted: int, *, whole: bool) -> int:
        """Until `wanted` tokens are there; `whole`: all of them."""
        if limit.calendar is not None:
            return math.ceil(Fraction(self.calendar_end(str(limit.unit)) - self.now, 10**6))
        period = PERIODS[str(limit.unit)] * limit.periods
        rest = Fraction(period * 10**6 - self.now % (period * 10**6), 10**6)
        if limit.algorithm == "fixed_window":
            return math.ceil(rest)
        if limit.algorithm == "sliding_window":
            used = size_of(limit) - level
            # In the next window, what was used in this one fades evenly.
            spare = 0 if whole else size_of(limit) - wanted
            return math.ceil(rest + (period - spare * period / used if used else 0))
        return math.ceil((wanted - level) * period / limit.requests) if limit.requests else 0

    def calendar_end(self, unit: str) -> int:
        today = datetime.fromtimestamp(self.now // 10**6, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        ends = {
            "day": today + timedelta(days=1),
            "week": today + timedelta(days=7 - today.weekday()),
            "month": (today.replace(day=1) + timedelta(days=31)).replace(day=1),
            "year": today.replace(year=today.year + 1, month=1, day=1),
        }
        return int(ends[unit].timestamp()) * 10**6

    def verdict(
        self,
        every: Sequence[Sequence[Met] | None],
        left: Sequence[Sequence[Met]],
        quota: Sequence[bool],
        *,
        refused: bool,
    ) -> Verdict:
        statuses = []
        for before, mets in zip(every, left, strict=True):
            if mets:
                statuses.append(decisive(mets).told())
            elif any(met.limit.unlimited for met in before or ()):
                statuses.append(Told(remaining=2**32 - 1))
            else:
                statuses.append(Told())
        told = chosen(statuses, quota)
        metadata: dict[str, Any] = {}
        for mets, status in zip(left, statuses, strict=True):
            if mets and not status.over:
                merge(metadata, dict(mets[0].node.metadata or {}))
        retry, body = refusal(left, quota, told) if refused else (0, "")
        return Verdict(refused, statuses, headers(statuses, told, retry, body), body, metadata)


def find(domain: Domain, descriptors: Sequence[Descriptor], entries: Sequence[tuple[str, str]]) -> Any:
    """The place that entries lead to, and its path: (descriptor, path), or None."""
    if not entries:
        return None
    for node in ways(descriptors, *entries[0]):
        key, value = entries[0]
        # The pattern stands for the value alone: other keys have other counters.
        step = (key, "shared", node.key, node.value) if node.share_threshold else (key, value)
        if len(entries) > 1:
            found = find(domain, node.descriptors, entries[1:])
            found = found and (found[0], (step, *found[1]))
        else:
            found = (node, (step,)) if node.limits or not node.descriptors else None
        if found is not None or not domain.backtracking:
            return found
    return None


def ways(descriptors: Sequence[Descriptor], key: str, value: str) -> Iterator[Descriptor]:
    """The descriptors that match an entry, the best first."""
    plain = [node for node in descriptors if "*" not in node.key + node.value]
    yield from (node for node in plain if node.value and (node.key, node.value) == (key, value))
    for node in descriptors:
        if "*" in node.key:
            pattern, text = f"{node.key}_{node.value}" if node.value else node.key, f"{key}_{value}"
        elif "*" in node.value and node.key == key:
            pattern, text = node.value, value
        else:
            continue
        if re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL):
            yield node
    yield from (node for node in plain if not node.value and node.key == key)


def window(limit: Limit) -> tuple[Any, ...]:
    if limit.calendar is not None:
        return "calendar", limit.unit, limit.calendar
    return limit.algorithm, PERIODS[str(limit.unit)] * limit.periods if limit.unit else 0


def size_of(limit: Limit) -> int:
    return limit.requests if limit.burst is None else limit.burst


def holding(met: Met, mets: Sequence[Met]) -> Limit:
    """The limit that a bucket is kept by: where a request brings several, the smallest."""
    return min((other.limit for other in mets if other.counter == met.counter), key=size_of)


def kind_and_cost(limit: Limit, question: Question, addend: int) -> tuple[str, int]:
    cost = question.hits if question.hits is not None else addend or 1
    if question.refund:
        return "refund", cost if limit.allow_refund else 0
    said = question.hits is not None or addend > 0
    if CHARGE in question.entries or (limit.charge == "response" and said and cost > 0):
        return "charge", cost
    if cost == 0:  # at least one must be left where the cost comes later
        return "look", 1 if limit.charge == "response" else 0
    return "take", cost


def moved(met: Met, level: Fraction, size: int) -> Fraction:
    """The level after a hit."""
    if met.kind == "charge":
        return level - met.cost if size else level
    if met.kind == "refund":
        return max(level, min(level + met.cost, Fraction(size)))
    return level - met.cost if met.kind == "take" and met.fits else level


def is_refused(left: Sequence[Sequence[Met]], quota: Sequence[bool]) -> bool:
    """Over limit is a request with a limit that is over, or with quotas all of which are."""
    over = [any(met.over for met in mets) for mets in left]
    quotas = [each for each, is_one in zip(over, quota, strict=True) if is_one]
    return any(each for each, is_one in zip(over, quota, strict=True) if not is_one) or (bool(quotas) and all(quotas))


def decisive(mets: Sequence[Met]) -> Met:
    """Of a descriptor's limits the one that refuses, else the one with least left; then the one that lasts longest."""
    return min(mets, key=lambda met: (not met.over, met.remaining if met.fits else 0, -met.reset))


def chosen(statuses: Sequence[Told], quota: Sequence[bool]) -> int | None:
    """The descriptor that clients hear of."""
    over = [place for place, status in enumerate(statuses) if status.over and not quota[place]]
    if over:
        return over[-1]
    limited = [place for place, status in enumerate(statuses) if status.limit is not None]
    return min(limited, key=lambda place: statuses[place].remaining, default=None)


def refusal(left: Sequence[Sequence[Met]], quota: Sequence[bool], told: int | None) -> tuple[int, str]:
    """When to come again, and the body that the limit has, of the descriptor that clients hear of."""
    musts = [met for mets, is_one in zip(left, quota, strict=True) if not is_one for met in mets if met.over]
    quotas = [met for mets, is_one in zip(left, quota, strict=True) if is_one for met in mets if met.over]
    if not all(any(met.over for met in mets) for mets, is_one in zip(left, quota, strict=True) if is_one):
        quotas = []
    retry = max([met.reset for met in musts] + ([min(met.reset for met in quotas)] if quotas else []))
    refusing = musts + quotas
    here = [met for met in refusing if told is not None and any(met is other for other in left[told])]
    return retry, decisive(here or refusing).limit.body or ""


def headers(statuses: Sequence[Told], told: int | None, retry: int, body: str) -> list[tuple[str, str]]:
    lines = []
    if told is not None:
        _, limit, remaining, reset = statuses[told]
        assert limit is not None
        values = (limit[0], remaining, reset)
        lines = [(f"x-ratelimit-{name}", str(value)) for name, value in zip(NAMES, values, strict=True)]
    lines += [("retry-after", str(retry))] if retry else []
    # Bodies of these tests are words, never JSON.
    return [*lines, ("content-type", "text/plain; charset=utf-8")] if body else lines


NAMES = ("limit", "remaining", "reset")


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Deeply, the first one wins."""
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(into.setdefault(name, {}), dict):
            merge(into[name], value)
        else:
            into.setdefault(name, value)
