"""What a declared limit becomes: the rule by which a bucket or window counts, and how it is kept."""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType

from genops_extauth.bucket import SECOND, bucket
from genops_extauth.calendars import Calendar
from genops_extauth.declared import Descriptor, Limit
from genops_extauth.hits import Meter, Terms
from genops_extauth.limits import Rule
from genops_extauth.model import UNLIMITED, CurrentLimit, Override, Unit
from genops_extauth.notation import PERIODS
from genops_extauth.window import FixedWindow, SlidingWindow


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all limits, where they do not say otherwise.

    Keys begin with `prefix`; the entry whose key is `tag` chooses their slot in a Cluster. While the store is away a
    process grants the `allowance_share` of each bucket, at least 1 token, and then is `open_after` that or closed. From
    the `near_limit_ratio` on a limit is near.
    """

    prefix: str = "genops"
    tag: str | None = None
    near_limit_ratio: float = 0.8
    allowance_share: Fraction = Fraction(0)
    open_after: bool = False


def _token_bucket(limit: Limit, period: int) -> Meter:
    return bucket(limit.requests, period, limit.burst)


def _fixed_window(limit: Limit, period: int) -> Meter:
    return FixedWindow(limit.requests, period * SECOND)


def _sliding_window(limit: Limit, period: int) -> Meter:
    return SlidingWindow(limit.requests, period * SECOND)


_ALGORITHMS: Mapping[str, tuple[bytes, Callable[[Limit, int], Meter]]] = MappingProxyType(
    {
        "token_bucket": (b"tb", _token_bucket),
        "fixed_window": (b"fw", _fixed_window),
        "sliding_window": (b"sw", _sliding_window),
    }
)


@dataclass(frozen=True, slots=True)
class Rules:
    """Makes rules under `settings`; limits of one calendar share it."""

    settings: Settings
    _calendars: dict[tuple[Unit, str], Calendar] = field(default_factory=dict)

    def of(self, limit: Limit, descriptor: Descriptor) -> Rule:
        """Make the rule of a `limit` of `descriptor`. Raises ValueError, with what to write instead."""
        if limit.unlimited:
            told = CurrentLimit(UNLIMITED, "second", limit.name)
            return Rule(told, bucket(UNLIMITED, 1), b"unlimited", unlimited=True, replaces=frozenset(limit.replaces))
        if limit.unit is None:
            raise ValueError("a limit needs a unit: write second, minute, hour, day, week, month or year")
        meter, suffix, calendar = self._metered(limit, limit.unit)
        size = limit.requests if meter is None else meter.capacity // meter.part
        return Rule(
            CurrentLimit(limit.requests, limit.unit, limit.name, limit.periods),
            meter,
            suffix,
            calendar,
            shadow=descriptor.shadow_mode,
            quota=descriptor.quota_mode,
            charged=limit.charge == "response",
            refundable=limit.allow_refund,
            replaces=frozenset(limit.replaces),
            body=None if limit.body is None else limit.body.encode(),
            terms=self._terms(limit, size),
            near=_near(size, self.settings.near_limit_ratio),
        )

    def overriding(self, override: Override) -> Rule:
        """Make the rule of a limit that a descriptor brings along: plain, whatever the tree says of its path."""
        return self.of(Limit(override.requests, override.unit), Descriptor(""))

    def _metered(self, limit: Limit, unit: Unit) -> tuple[Meter | None, bytes, Calendar | None]:
        if limit.calendar is None:
            name, meter = _ALGORITHMS[limit.algorithm]
            period = PERIODS[unit] * limit.periods
            return meter(limit, period), name + b"%d" % period, None
        calendar = self._calendars.get((unit, limit.calendar)) or Calendar(unit, limit.calendar)
        self._calendars[unit, limit.calendar] = calendar
        return None, f"cal:{unit}:{limit.calendar}".encode(), calendar

    def _terms(self, limit: Limit, size: int) -> Terms:
        settings = self.settings
        allowance = limit.outage_allowance
        if allowance is None:
            share = settings.allowance_share
            # A share that comes to less than a token would otherwise close small limits at once.
            allowance = max(1, int(share * size)) if share and size else 0
        return Terms(
            allowance,
            open_after=settings.open_after if limit.outage is None else limit.outage == "open",
            lease=limit.lease,
            # What may rise again without time passing, or has to be counted anyway, must be asked for each time.
            remembered=not limit.allow_refund and limit.charge == "request",
        )


def described(limit: Limit, descriptor: Descriptor) -> str:
    """Say a limit as envoyproxy/ratelimit's /rlconfig does; what is ours follows, where it is used."""
    unit = "UNKNOWN" if limit.unit is None else limit.unit.upper()
    requests = 0 if limit.unlimited else limit.requests
    theirs = (
        f"unit={unit} requests_per_unit={requests}"
        f", shadow_mode: {_said(descriptor.shadow_mode)}, quota_mode: {_said(descriptor.quota_mode)}"
    )
    return ", ".join((theirs, *_ours(limit)))


def _ours(limit: Limit) -> Iterator[str]:
    plain = Limit()
    for name in ("burst", "algorithm", "calendar", "charge", "allow_refund", "lease", "outage", "outage_allowance"):
        value = getattr(limit, name)
        if value != getattr(plain, name):
            yield f"{name}: {_said(value) if value is True else value}"
    if limit.periods != 1:
        yield f"unit_multiplier: {limit.periods}"


def _said(flag: bool) -> str:  # noqa: FBT001 - it says a flag
    return "true" if flag else "false"


def _near(size: int, ratio: float) -> int:
    """As envoyproxy/ratelimit reckons it: in single precision (src/limiter/base_limiter.go)."""
    # The product of two singles is exact in a double, so that only the last step rounds, as in Go.
    return int(_single(_single(size) * _single(ratio)))


def _single(number: float) -> float:
    return float(struct.unpack("f", struct.pack("f", number))[0])
