"""What will differ for who comes from envoyproxy/ratelimit with these limits: only what touches something they use.

The reasons are in docs/ratelimit-environment.md and in envoyproxy/ratelimit's own source: windows aligned to the epoch
(src/limiter/cache_key.go), counted when refused too (src/redis/fixed_cache_impl.go), keys and values joined with ``_``
(src/config/config_impl.go).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from genops_extauth.declared import Descriptor, Domain, Limit
from genops_extauth.model import Unit
from genops_extauth.notation import PERIODS

_TIER: Final = "customer_tier"
_NAMED: Final = 3  # places that a line names; the rest is a number
_EDGES: Final = {"day": "a day began at 00:00 UTC", "week": "a week began on Thursday, 00:00 UTC"}


@dataclass(frozen=True, slots=True)
class Met:
    """A limit, and the path of descriptors that leads to it."""

    domain: Domain
    path: tuple[Descriptor, ...]
    limit: Limit

    def __str__(self) -> str:
        return f"{self.domain.name}: {', '.join(map(spelled, self.path))}"


def differences(domains: Sequence[Domain], *, stopped: bool = False) -> tuple[str, ...]:
    """Tell them, a sentence or two for each.

    `stopped`: STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT was set, and so what refuses was not counted there either.
    """
    limits = [met for domain in domains for met in _limits(domain, (), domain.descriptors)]
    counted = [met for met in limits if not met.limit.unlimited]
    told = _TOLD if stopped else (_refusals, *_TOLD)
    return tuple(line for tell in told for line in tell(domains, counted))


def spelled(descriptor: Descriptor) -> str:
    """``key=value``, or ``key`` where any value will do."""
    return f"{descriptor.key}={descriptor.value}" if descriptor.value else descriptor.key


def _limits(domain: Domain, above: tuple[Descriptor, ...], descriptors: Sequence[Descriptor]) -> Iterator[Met]:
    for descriptor in descriptors:
        path = (*above, descriptor)
        yield from (Met(domain, path, limit) for limit in descriptor.limits)
        yield from _limits(domain, path, descriptor.descriptors)


def _some(names: Sequence[object]) -> str:
    more = len(names) - _NAMED
    return "; ".join([*map(str, islice(names, _NAMED)), *([f"and {more} more"] if more > 0 else [])])


def _refusals(domains: Sequence[Domain], limits: Sequence[Met]) -> Iterator[str]:
    if limits:
        yield "a refused request takes nothing; there it was counted, and so went on refusing whoever kept asking"
    several = [domain.name for domain in domains if sum(met.domain is domain for met in limits) > 1]
    if several:
        yield (
            f"nor does it take anything of its other descriptors ({_some(several)}), as it did there: all of them have "
            "room, or none is counted"
        )


def _buckets(_: Sequence[Domain], limits: Sequence[Met]) -> Iterator[str]:
    """Tell what each rate means now: rates are few, however many limits have them. Who uses keys of ours knows."""
    rates: dict[tuple[int, int, Unit], list[Met]] = {}
    for met in limits:
        limit = met.limit
        theirs = Limit(limit.requests, limit.unit, name=limit.name, replaces=limit.replaces)
        if limit.unit and limit.requests and limit == theirs:
            rates.setdefault((PERIODS[limit.unit], limit.requests, limit.unit), []).append(met)
    for (_seconds, requests, unit), those in sorted(rates.items(), key=lambda rate: rate[0]):
        yield (
            f"{requests}/{unit} ({_some(those)}): at most {requests} at once, and {requests} more come back evenly "
            f"over each {unit}; there {2 * requests} could pass at once, around the edge of two windows"
        )
    if rates:
        yield "`algorithm: fixed_window` in a rate_limit keeps its windows and their edges"


def _calendars(_: Sequence[Domain], limits: Sequence[Met]) -> Iterator[str]:
    units = {met.limit.unit for met in limits if met.limit.calendar is None}
    edges = [edge for unit, edge in _EDGES.items() if unit in units]
    if edges:
        yield (
            f"there {' and '.join(edges)}; a bucket has no beginning. `calendar: UTC` in a rate_limit begins with the "
            "day, and the week on Monday"
        )
    if units & {"month", "year"}:
        yield (
            "a month has 30 days and a year 365, as there; `calendar: UTC` in a rate_limit, or another time zone, "
            "makes them the calendar's"
        )


def _resets(_: Sequence[Domain], limits: Sequence[Met]) -> Iterator[str]:
    if limits:
        yield (
            "the reset that clients and Envoy are told is the time until all is there again, or after a refusal until "
            "the request would pass; there it was the end of the window"
        )


def _joined(domains: Sequence[Domain], _: Sequence[Met]) -> Iterator[str]:
    """Upstream looks up ``key_value``: an entry (a, b_c) finds the descriptor (a_b, c)."""
    found = dict.fromkeys(
        spelled(each) for domain in domains for each in _everywhere(domain.descriptors) if "_" in each.key + each.value
    )
    if found:
        yield (
            f"keys and values are compared apart ({_some([*found])}); there they were joined with `_`, so that an "
            "entry (`a`, `b_c`) met the descriptor (`a_b`, `c`) too"
        )


def _everywhere(descriptors: Sequence[Descriptor]) -> Iterator[Descriptor]:
    for descriptor in descriptors:
        yield descriptor
        yield from _everywhere(descriptor.descriptors)


def _shared(_: Sequence[Domain], limits: Sequence[Met]) -> Iterator[str]:
    """The same there; but a limit by tier is seldom meant to be one for all who have it."""
    for met in limits:
        last = met.path[-1]
        if last.key == _TIER and len(met.path) == 1:
            who = f"all customers of tier {last.value}" if last.value else "all customers of a tier"
            yield f"{met} is one bucket for {who} together, as there: for one each, nest `key: customer_id` below it"


def _asked(domains: Sequence[Domain], limits: Sequence[Met]) -> Iterator[str]:
    """What no file tells: whether descriptors bring a limit along, or give hits back."""
    if any(not domain.descriptors for domain in domains):
        yield "the unit UNKNOWN in a limit that a descriptor brings along is an error; there it ended the process"
    if limits:
        yield "is_negative_hits gives back only where the rate_limit says `allow_refund: true`"


_TOLD: Final[tuple[Callable[[Sequence[Domain], Sequence[Met]], Iterator[str]], ...]] = (
    _buckets,
    _calendars,
    _resets,
    _joined,
    _shared,
    _asked,
)
