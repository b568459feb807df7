"""What a declared limit becomes."""

from fractions import Fraction
from typing import Any

import pytest

from genops_extauth.bucket import SECOND, bucket
from genops_extauth.declared import Descriptor, Limit
from genops_extauth.hits import Meter
from genops_extauth.limit_rules import Rules, Settings, described
from genops_extauth.limits import Rule
from genops_extauth.model import CurrentLimit, Override, Unit
from genops_extauth.window import CalendarWindow, FixedWindow, SlidingWindow

PLAIN = Descriptor("k")
NO_MODES = "shadow_mode: false, quota_mode: false"


def rule(limit: Limit, descriptor: Descriptor = PLAIN, **settings: Any) -> Rule:
    return Rules(Settings(**settings)).of(limit, descriptor)


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [
        ("second", 1),
        ("minute", 60),
        ("hour", 3600),
        ("day", 86_400),
        ("week", 604_800),
        ("month", 2_592_000),
        ("year", 31_536_000),
    ],
)
def test_a_unit_has_the_seconds_of_the_reference(unit: Unit, seconds: int) -> None:
    """A plain limit is a token bucket that refills in its unit; months have 30 days and years 365."""
    made = rule(Limit(7, unit))

    assert (made.meter, made.suffix) == (bucket(7, seconds), b"tb%d" % seconds)
    assert made.limit == CurrentLimit(7, unit)
    assert made.meter_at(0) is made.meter


@pytest.mark.parametrize(
    ("limit", "meter", "suffix"),
    [
        (Limit(7, "minute", burst=3), bucket(7, 60, 3), b"tb60"),
        (Limit(7, "second", periods=30), bucket(7, 30), b"tb30"),
        (Limit(7, "minute", algorithm="fixed_window"), FixedWindow(7, 60 * SECOND), b"fw60"),
        (Limit(7, "second", periods=5, algorithm="sliding_window"), SlidingWindow(7, 5 * SECOND), b"sw5"),
    ],
)
def test_an_algorithm_has_its_meter_and_its_suffix(limit: Limit, meter: Meter, suffix: bytes) -> None:
    """The algorithm and its period are told apart in keys, so that what one counted is not read by another."""
    made = rule(limit)

    assert (made.meter, made.suffix) == (meter, suffix)
    assert made.limit == CurrentLimit(7, limit.unit or "year", periods=limit.periods)


def test_a_calendar_limit_counts_in_the_window_of_now() -> None:
    """A calendar's limit has the window of the time it is asked; limits of one calendar share it."""
    rules = Rules(Settings())
    one = rules.of(Limit(5, "month", calendar="Europe/Berlin"), PLAIN)
    other = rules.of(Limit(9, "month", calendar="Europe/Berlin"), PLAIN)

    assert (one.meter, one.suffix) == (None, b"cal:month:Europe/Berlin")
    assert one.calendar is other.calendar
    assert isinstance(one.meter_at(0), CalendarWindow)
    assert (one.meter_at(0).capacity, other.meter_at(0).capacity) == (5, 9)


@pytest.mark.parametrize(
    ("limit", "ratio", "near"),
    [
        (Limit(10, "second"), 0.8, 8),
        (Limit(20, "second"), 0.8, 16),
        (Limit(10, "second"), 0.7, 7),  # 0.7 * 10 is 7 in single precision, where 0.7 is less than that
        (Limit(2**32 - 1, "second"), 0.8, 3_435_973_888),
        (Limit(100, "second", burst=20), 0.8, 16),
        (Limit(5, "month", calendar="UTC"), 0.8, 4),
        (Limit(0, "second"), 0.8, 0),
    ],
)
def test_near_is_reckoned_in_single_precision(limit: Limit, ratio: float, near: int) -> None:
    """The near-limit threshold is floor(float32(size * ratio)), as the reference has it, of what fits at once."""
    assert rule(limit, near_limit_ratio=ratio).near == near


@pytest.mark.parametrize(
    ("limit", "share", "allowance"),
    [
        (Limit(100, "hour"), Fraction(1, 10), 10),
        (Limit(109, "hour"), Fraction(1, 10), 10),
        (Limit(5, "hour"), Fraction(1, 10), 1),
        (Limit(5, "hour"), Fraction(0), 0),
        (Limit(0, "hour"), Fraction(1, 10), 0),
        (Limit(100, "hour", burst=20), Fraction(1, 10), 2),
        (Limit(100, "hour", outage_allowance=0), Fraction(1, 10), 0),
        (Limit(100, "hour", outage_allowance=7), Fraction(0), 7),
        (Limit(50, "day", calendar="UTC"), Fraction(1, 10), 5),
    ],
)
def test_an_outage_allowance_is_a_share_of_the_bucket(limit: Limit, share: Fraction, allowance: int) -> None:
    """A process may grant a share of what fits at once, at least 1 of what admits anything, or what the limit says."""
    assert rule(limit, allowance_share=share).terms.allowance == allowance


@pytest.mark.parametrize(
    ("limit", "default", "opened"),
    [
        (Limit(1, "hour"), False, False),
        (Limit(1, "hour"), True, True),
        (Limit(1, "hour", outage="open"), False, True),
        (Limit(1, "hour", outage="closed"), True, False),
    ],
)
def test_a_limit_may_say_what_follows_its_allowance(limit: Limit, default: bool, opened: bool) -> None:  # noqa: FBT001 - columns
    """Open or closed is the limit's word, else the store's."""
    assert rule(limit, open_after=default).terms.open_after is opened


@pytest.mark.parametrize(
    ("limit", "remembered"),
    [
        (Limit(1, "hour"), True),
        (Limit(1, "hour", allow_refund=True), False),
        (Limit(1, "hour", charge="response"), False),
    ],
)
def test_only_what_time_alone_gives_back_is_remembered(limit: Limit, remembered: bool) -> None:  # noqa: FBT001 - a column
    """A refusal is repeated without asking only where nothing but time can change it."""
    assert rule(limit).terms.remembered is remembered


def test_a_rule_carries_what_was_declared() -> None:
    """Modes, names, charges, refunds, leases and bodies are those of the declaration."""
    limit = Limit(3, "hour", name="n", replaces=("a", "b"), charge="response", allow_refund=True, body="näher", lease=2)
    made = rule(limit, Descriptor("k", shadow_mode=True, quota_mode=True))

    assert (made.shadow, made.quota, made.charged, made.refundable) == (True, True, True, True)
    assert (made.limit.name, made.replaces) == ("n", frozenset({"a", "b"}))
    assert (made.body, made.terms.lease) == ("näher".encode(), 2)


def test_what_is_unlimited_still_replaces() -> None:
    """An unlimited rule has a name and replaces others."""
    made = rule(Limit(unlimited=True, name="vip", replaces=("all",)))

    assert (made.unlimited, made.limit.name, made.replaces) == (True, "vip", frozenset({"all"}))


def test_an_override_is_plain() -> None:
    """A limit that a descriptor brings has no mode, no name, and the store's terms."""
    made = Rules(Settings(allowance_share=Fraction(1, 2), open_after=True)).overriding(Override(10, "day"))

    assert made.limit == CurrentLimit(10, "day")
    assert (made.suffix, made.shadow, made.quota, made.near) == (b"tb86400", False, False, 8)
    assert (made.terms.allowance, made.terms.open_after) == (5, True)


def test_a_limit_without_a_unit_is_refused() -> None:
    """What is not unlimited and has no unit is never let through."""
    with pytest.raises(ValueError, match="needs a unit"):
        rule(Limit(5))


@pytest.mark.parametrize(
    ("limit", "descriptor", "line"),
    [
        (Limit(3, "minute"), PLAIN, "unit=MINUTE requests_per_unit=3, shadow_mode: false, quota_mode: false"),
        (
            Limit(0, "hour"),
            Descriptor("k", shadow_mode=True, quota_mode=True),
            "unit=HOUR requests_per_unit=0, shadow_mode: true, quota_mode: true",
        ),
        (
            Limit(7, unlimited=True),
            PLAIN,
            "unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false",
        ),
        (
            Limit(3, "second", periods=30, charge="response"),
            PLAIN,
            f"unit=SECOND requests_per_unit=3, {NO_MODES}, charge: response, unit_multiplier: 30",
        ),
        (
            Limit(3, "day", burst=0, allow_refund=True, lease=2, outage_allowance=0),
            PLAIN,
            f"unit=DAY requests_per_unit=3, {NO_MODES}, burst: 0, allow_refund: true, lease: 2, outage_allowance: 0",
        ),
    ],
)
def test_a_limit_is_described_as_by_the_reference(limit: Limit, descriptor: Descriptor, line: str) -> None:
    """The words are those of envoyproxy/ratelimit's /rlconfig; what is ours follows, only where it is used."""
    assert described(limit, descriptor) == line


def test_nothing_is_granted_in_an_outage_unless_somebody_says_so() -> None:
    """Without settings a limit has no allowance, and is closed."""
    terms = rule(Limit(100, "hour")).terms

    assert (terms.allowance, terms.open_after) == (0, False)
