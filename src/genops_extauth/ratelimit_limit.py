"""One ``rate_limit`` of a file: envoyproxy/ratelimit's keys as it reads them, and ours, which exclude each other."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar, get_args

from genops_extauth.bucket import EXACT, SECOND, bucket
from genops_extauth.calendars import Calendar
from genops_extauth.declared import Algorithm, Charge, Limit, Outage
from genops_extauth.go_yaml import cut
from genops_extauth.model import Unit
from genops_extauth.notation import PERIODS, boolean, count, duration
from genops_extauth.ratelimit_keys import OURS
from genops_extauth.ratelimit_reader import Fields

T = TypeVar("T")

_UNITS: Mapping[str, Unit] = MappingProxyType({unit.upper(): unit for unit in PERIODS})
_UNIT_FIX = f"write {', '.join(get_args(Unit)[:-1])} or year"
_LONGEST_BODY = (
    4096  # bytes; Envoy takes the headers and the body of a refusal in one message from us, for each request
)


def charge(text: str) -> Charge:
    """Read when hits are counted."""
    return _one_of(text, get_args(Charge))


def read_limit(fields: Fields, charged: Charge) -> Limit:
    """Read one limit; `charged` is what holds in its file unless it says otherwise."""
    unlimited = fields.flag("unlimited")
    periods, unit = _period(fields, unlimited=unlimited)
    if "requests_per_unit" not in fields and not unlimited:
        fields.warn("requests_per_unit", "is not written, and counts as 0: every request is over the limit")
    limit = Limit(
        requests=fields.uint32("requests_per_unit"),
        unit=unit,
        unlimited=unlimited,
        name=fields.text("name"),
        replaces=tuple(_replaces(fields)),
        burst=fields.ours("burst", count, None),
        periods=periods,
        algorithm=fields.ours("algorithm", _algorithm, "token_bucket"),
        calendar=fields.ours("calendar", str, None),
        charge=fields.ours("charge", charge, "request" if unlimited else charged),
        allow_refund=fields.ours("allow_refund", boolean, default=False),
        body=fields.ours("body", _body, None),
        lease=fields.ours("lease", count, 0),
        outage=fields.ours("outage", _outage, None),
        outage_allowance=fields.ours("outage_allowance", count, None),
    )
    for key, problem in _conflicts(fields, limit):
        fields.wrong(key, problem)
    if fields.sound() and limit.unit is not None:
        _countable(fields, limit, limit.unit)
    return limit


def suffix(limit: Limit) -> tuple[object, ...]:
    """What tells the bucket of a limit from those of the others on its descriptor: how it counts, and its period."""
    if limit.unit is None or limit.calendar is not None:
        return limit.calendar, limit.unit
    return limit.algorithm, PERIODS[limit.unit] * limit.periods


def _period(fields: Fields, *, unlimited: bool) -> tuple[int, Unit | None]:
    """How many units, and of which."""
    periods = fields.ours("unit_multiplier", _at_least_one, 1)
    if "per" in fields and not unlimited:
        for key in ("unit", "unit_multiplier"):
            if key in fields:
                fields.wrong(key, f"per says the period already: keep per or {key}")
        return fields.ours("per", _units, (1, "second"))
    text = fields.text("unit")
    unit = _UNITS.get(text.upper())
    if not unlimited:
        if unit is None and fields.sound("unit") and fields.sound("unlimited"):
            fields.wrong("unit", f"invalid rate limit unit '{cut(text)}'", _UNIT_FIX)
        return periods, unit
    if unit is not None:
        fields.wrong("unit", "should not specify rate limit unit when unlimited", "remove unit, or unlimited")
    elif text:
        fields.warn("unit", "says nothing of what is unlimited")
    return periods, None


def _units(text: str) -> tuple[int, Unit]:
    """``90s`` is 90 seconds, ``5m`` 5 minutes: of the largest unit that fits."""
    seconds = duration(text)
    if seconds < 1 or not seconds.is_integer():
        raise ValueError("write whole seconds, at least 1s")
    unit = max((unit for unit in PERIODS if seconds % PERIODS[unit] == 0), key=lambda each: PERIODS[each])
    return int(seconds) // PERIODS[unit], unit


def _replaces(fields: Fields) -> Iterator[str]:
    for node, path in fields.mappings("replaces", "[]config.yamlReplaces"):
        item = fields.reading.fields(node, path, "replaces")
        name = item.text("name")
        if not name and item.sound("name"):
            item.wrong("name", "should not have an empty replaces entry", "write the name of another limit")
        elif name and name == fields.text("name"):
            item.wrong("name", "replaces should not contain name of same descriptor", "write the name of another limit")
        else:
            yield name


def _conflicts(fields: Fields, limit: Limit) -> Iterator[tuple[str, str]]:
    """What excludes what, of our keys."""
    if limit.unlimited:
        yield from ((key, "says nothing of what is unlimited: leave it out") for key in OURS if key in fields)
        return
    if limit.calendar is not None:
        yield from (
            (key, f"a calendar's window has no {key}: leave it or calendar out")
            for key in ("algorithm", "burst", "unit_multiplier", "per")
            if key in fields
        )
    elif limit.algorithm != "token_bucket" and limit.burst is not None:
        yield "burst", f"a {limit.algorithm} has no burst: leave it out, or write algorithm: token_bucket"
    if limit.burst == 0 and limit.requests:
        yield "burst", "a burst of 0 admits nothing: write at least 1, or requests_per_unit: 0"
    size = limit.requests if limit.burst is None else limit.burst
    if limit.lease and (limit.calendar is not None or limit.algorithm != "token_bucket"):
        # What is given back late would add to another window than it was taken from.
        yield "lease", "only a token bucket can be leased: leave lease out, or write algorithm: token_bucket"
    elif limit.lease > size:
        yield "lease", f"must be at most {size}, which is all that a process could take at once"


def _countable(fields: Fields, limit: Limit, unit: Unit) -> None:
    """Tell of numbers that nothing can count."""
    period = PERIODS[unit] * limit.periods
    try:
        if limit.calendar is not None:
            Calendar(unit, limit.calendar)
        elif period * SECOND >= EXACT:
            raise ValueError("the period is too long to count exactly: write one of at most 285 years")  # noqa: TRY301
        elif limit.algorithm == "token_bucket":
            bucket(limit.requests, period, limit.burst)
    except ValueError as error:
        told = ("calendar", "burst", "per", "unit_multiplier", "requests_per_unit")
        fields.wrong(next((key for key in told if key in fields), "unit"), str(error))


def _at_least_one(text: str) -> int:
    found = count(text)
    if found == 0:
        raise ValueError("write at least 1")
    return found


def _body(text: str) -> str:
    if len(text.encode()) > _LONGEST_BODY:
        raise ValueError(f"a body has at most {_LONGEST_BODY} bytes: write a shorter one")
    return text


def _one_of(text: str, allowed: tuple[T, ...]) -> T:
    for each in allowed:
        if each == text:
            return each
    raise ValueError(f"write {' or '.join(map(str, allowed))}")


def _algorithm(text: str) -> Algorithm:
    return _one_of(text, get_args(Algorithm))


def _outage(text: str) -> Outage:
    return _one_of(text, get_args(Outage))
