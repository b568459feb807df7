"""One rate limit request: which hits its descriptors are, and what becomes of each.

The contract is envoyproxy/ratelimit's (src/service/ratelimit.go, shouldRateLimitWorker). Limits that another one
`replaces` are left out, and so are unlimited ones. What is left is one group of hits: its roles say whose refusal
refuses the request. A quota refuses only where all of the request's quotas are exhausted; a descriptor with several
limits (ours) is no quota, for each of them must have room.

The descriptor of several limits has the status of the one that refuses, or else of the one with least left.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from genops_extauth.bucket import SECOND
from genops_extauth.hits import Answer, Hit, Level, Meter, Role
from genops_extauth.limits import Match, Met, Rule, Tree
from genops_extauth.model import UNLIMITED, Descriptor, DescriptorStatus, Json, Limited, Quota
from genops_extauth.window import CalendarWindow


@dataclass(frozen=True, slots=True)
class Modes:
    """How the whole service counts: in `shadow` mode nobody is refused, in `quota` mode every limit is a quota.

    `metadata`: whether answers carry the metadata of the descriptors that passed.
    """

    shadow: bool = False
    quota: bool = False
    metadata: bool = False


AS_DECLARED = Modes()

# An enum's members are looked up slowly, and a named tuple's class calls a function written in Python: for every hit.
_made = tuple.__new__
_MUST, _QUOTA, _MAY, _CHARGE, _REFUND = Role.MUST, Role.QUOTA, Role.MAY, Role.CHARGE, Role.REFUND


class Counted(NamedTuple):
    """One limit that a request met: its place among the descriptors, the hit on it, and what came of it."""

    place: int
    match: Match
    met: Met
    hit: Hit
    level: Level


class Asked(NamedTuple):
    """A request, read: the `matches` stand one to one with the descriptors, `hits` with `owners` (place, limit)."""

    matches: Sequence[Match | None]
    hits: list[Hit]
    owners: list[tuple[int, Match, Met]]


def asked(tree: Tree, domain: bytes, descriptors: Sequence[Descriptor], hits: int, *, modes: Modes, now: int) -> Asked:
    """Find the limits that a request meets. `hits` is its hits_addend, 0 where it has none; `now` in microseconds."""
    matches: list[Match | None] = []
    made, owners = [], []
    replaced: set[str] = set()
    for place, descriptor in enumerate(descriptors):
        match = tree.match(domain, descriptor)
        matches.append(match)
        if match is None:
            continue
        for met in match.met:
            rule = met.rule
            if rule.replaces:  # an unlimited one's count, too
                replaced |= rule.replaces
            if not rule.unlimited:
                made.append(_hit(match, met, descriptor, hits, modes, now))
                owners.append((place, match, met))
    if replaced:
        left = [at for at, (_, _, met) in enumerate(owners) if met.rule.limit.name not in replaced]
        made, owners = [made[at] for at in left], [owners[at] for at in left]
    if len(matches) > 1:
        made = _one_meter_each(_aggregated(matches, made, owners, modes))
    return Asked(matches, made, owners)


def _hit(match: Match, met: Met, descriptor: Descriptor, hits: int, modes: Modes, now: int) -> Hit:  # noqa: PLR0917 - for every hit: by name each costs as much again
    rule, key = met
    meter = rule.meter_at(now) if rule.meter is None else rule.meter
    cost = descriptor.hits
    stated = cost is not None or hits > 0
    if cost is None:
        cost = hits or 1
    look = False
    if descriptor.refund:
        # Who may not refund must not be charged for trying: envoyproxy/ratelimit never refuses a refund.
        role, cost = _REFUND, cost if rule.refundable else 0
    elif match.phase == "charge" or (rule.charged and stated and cost):
        role = _CHARGE
    else:
        quota = (rule.quota or modes.quota) and len(match.met) == 1
        role = _MAY if rule.shadow or modes.shadow else _QUOTA if quota else _MUST
        if not cost:
            # Before a cost is known something must be left, or a limit that is exactly spent would admit one more.
            cost, look = 1 if rule.charged else 0, True
    return _made(Hit, (key, meter, cost, role, look, rule.terms))


def _is_quota(match: Match, rule: Rule, modes: Modes) -> bool:
    return (rule.quota or modes.quota) and len(match.met) == 1


def _aggregated(
    matches: Sequence[Match | None], hits: list[Hit], owners: Sequence[tuple[int, Match, Met]], modes: Modes
) -> list[Hit]:
    """Where one quota is not exhausted in any case, the others refuse nothing.

    Such are those that a charge, a refund or a shadowed limit is on, and in the global quota mode the descriptors that
    no limit is left of.
    """
    if _QUOTA not in [hit.role for hit in hits]:
        return hits
    passing = (modes.quota and _unmet(matches, {place for place, _, _ in owners})) or any(
        hit.role is not _QUOTA and _is_quota(match, met.rule, modes)
        for hit, (_, match, met) in zip(hits, owners, strict=True)
    )
    return [hit._replace(role=_MAY) if hit.role is _QUOTA else hit for hit in hits] if passing else hits


def _unmet(matches: Sequence[Match | None], met: set[int]) -> bool:
    return any(place not in met and not _is_unlimited(match) for place, match in enumerate(matches))


def _is_unlimited(match: Match | None) -> bool:
    return match is not None and any(rule.unlimited for rule, _ in match.met)


def _one_meter_each(hits: list[Hit]) -> list[Hit]:
    """Let a bucket have one size. Two meet where descriptors of one path bring limits along: the smaller one holds."""
    if len({hit.key for hit in hits}) == len(hits):
        return hits
    meters: dict[bytes, Meter] = {}
    for hit in sorted(hits, key=lambda hit: hit.meter.capacity // hit.meter.part):
        meters.setdefault(hit.key, hit.meter)
    return [hit._replace(meter=meters[hit.key]) for hit in hits]


def limited(asked: Asked, answer: Answer, modes: Modes) -> tuple[Limited, list[Counted]]:
    """Say what became of a request, and of each limit that it met."""
    matches, hits, owners = asked
    counted: list[Counted] = [
        _made(Counted, (place, match, met, hit, level))
        for (place, match, met), hit, level in zip(owners, hits, answer.levels, strict=True)
    ]
    if len(counted) == len(matches) == 1:  # Nearly always, and to the same end.
        statuses: tuple[DescriptorStatus, ...] = (_status(counted[0]),)
        told: int | None = 0
    else:
        statuses = tuple(_statuses(matches, counted))
        told = _told(matches, statuses, modes)
    metadata = _metadata(matches, statuses) if modes.metadata else None
    if answer.granted:
        return Limited(False, statuses, told, metadata=metadata), counted  # noqa: FBT003 - as its first field says
    return _refused(statuses, told, refusing(counted), metadata), counted


def _refused(
    statuses: tuple[DescriptorStatus, ...],
    told: int | None,
    refusing: Sequence[Counted],
    metadata: Mapping[str, Json] | None,
) -> Limited:
    # It passes once every limit has room, and one of the quotas.
    musts = [each.level.reset for each in refusing if each.hit.role is _MUST]
    quotas = [each.level.reset for each in refusing if each.hit.role is _QUOTA]
    retry = max([1, *musts, min(quotas, default=1)])
    here = [each for each in refusing if each.place == told]
    decisive = min(here or refusing, key=_lasting, default=None)
    body = None if decisive is None else decisive.met.rule.body
    return Limited(True, statuses, told, retry, body, _quota(decisive), metadata)  # noqa: FBT003 - as its first field says


def refusing(counted: Sequence[Counted]) -> list[Counted]:
    """The limits that refuse a request, if it is refused. Those in shadow mode never do, nor do some of the quotas."""
    roles = {_MUST, _QUOTA}
    if any(each.level.fits for each in counted if each.hit.role is _QUOTA):
        roles = {_MUST}
    return [each for each in counted if not each.level.fits and each.hit.role in roles]


def _quota(decisive: Counted | None) -> Quota | None:
    if decisive is None:
        return None
    calendar, meter = decisive.met.rule.calendar, decisive.hit.meter
    if calendar is None or not isinstance(meter, CalendarWindow):
        return None
    return Quota(calendar.unit, calendar.said(meter.finish))


def would_refuse(counted: Sequence[Counted], matches: Sequence[Match | None] = (), modes: Modes = AS_DECLARED) -> bool:
    """Whether a request would be refused, but for the global shadow mode. `modes` are those that it was asked under."""
    over: dict[int, bool] = {}
    quota = {}
    for place, match, (rule, _), _, level in counted:
        over[place] = over.get(place, False) or not (level.fits or rule.shadow)
        quota[place] = _is_quota(match, rule, modes)
    if any(over[place] and not quota[place] for place in over):
        return True
    quotas = [over[place] for place in over if quota[place]]
    return bool(quotas) and all(quotas) and not (modes.quota and _unmet(matches, set(over)))


def _statuses(matches: Sequence[Match | None], counted: Sequence[Counted]) -> list[DescriptorStatus]:
    if [each.place for each in counted] == list(range(len(matches))):  # Each met one limit.
        return [_status(each) for each in counted]
    lasting: dict[int, Counted] = {}
    for each in counted:
        known = lasting.setdefault(each.place, each)
        if known is not each and _lasting(each) < _lasting(known):
            lasting[each.place] = each
    return [
        _status(lasting[place]) if place in lasting else _NO_END if _is_unlimited(match) else _NO_LIMIT
        for place, match in enumerate(matches)
    ]


_NO_LIMIT, _NO_END = DescriptorStatus(), DescriptorStatus(remaining=UNLIMITED)


def _lasting(counted: Counted) -> tuple[bool, int, int]:
    level = counted.level
    passes = level.fits or counted.met.rule.shadow
    return passes, level.remaining if level.fits else 0, -level.reset


def _status(counted: Counted) -> DescriptorStatus:
    fits, remaining, reset, _ = counted.level
    rule = counted.met.rule
    over, left = (False, remaining) if fits else (not rule.shadow, 0)
    limit, meter = rule.limit, counted.hit.meter
    if isinstance(meter, CalendarWindow):  # Months differ, and so do days (summer time).
        limit = limit._replace(length=(meter.finish - meter.start) // SECOND)
    return _made(DescriptorStatus, (over, limit, left, reset))


def _told(matches: Sequence[Match | None], statuses: Sequence[DescriptorStatus], modes: Modes) -> int | None:
    """The last refused one that is no quota, else the first with least left."""
    refused = told = None
    least = math.inf
    for place, (over, limit, remaining, _) in enumerate(statuses):
        match = matches[place]
        if match is None or limit is None:
            continue
        if over and not _is_quota(match, match.met[0].rule, modes):
            refused = place
        if remaining < least:
            told, least = place, remaining
    return told if refused is None else refused


def _metadata(matches: Sequence[Match | None], statuses: Sequence[DescriptorStatus]) -> Mapping[str, Json]:
    """Merge what the limits say that were met and passed."""
    merged: dict[str, Json] = {}
    for match, status in zip(matches, statuses, strict=True):
        if match is not None and match.metadata and status.limit is not None and not status.over:
            merged = _merged(merged, match.metadata)
    return merged


def _merged(first: Mapping[str, Json], more: Mapping[str, Json]) -> dict[str, Json]:
    """Deeply, the first one wins. Both stay as they are: they are the configuration's."""
    merged = dict(first)
    for name, value in more.items():
        known = merged.setdefault(name, value)
        if known is not value and isinstance(known, dict) and isinstance(value, dict):
            merged[name] = _merged(known, value)
    return merged
