"""Where the windows of calendars begin and end."""

from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.bucket import SECOND
from genops_extauth.calendars import Calendar
from genops_extauth.model import Unit


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


def window(unit: Unit, zone: str, now: str) -> tuple[str, str, str]:
    found = Calendar(unit, zone).window(instant(now), 1)
    edges = (found.start, found.finish, found.following)
    start, finish, following = (datetime.fromtimestamp(edge // SECOND, UTC).isoformat()[:16] for edge in edges)
    return start, finish, following


@pytest.mark.parametrize(
    ("unit", "zone", "now", "edges"),
    [
        ("day", "UTC", "2026-07-05T12:00", ("2026-07-05T00:00", "2026-07-06T00:00", "2026-07-07T00:00")),
        ("day", "UTC", "2026-07-05T00:00", ("2026-07-05T00:00", "2026-07-06T00:00", "2026-07-07T00:00")),
        ("week", "UTC", "2026-07-05T23:59", ("2026-06-29T00:00", "2026-07-06T00:00", "2026-07-13T00:00")),
        ("month", "UTC", "2028-02-29T12:00", ("2028-02-01T00:00", "2028-03-01T00:00", "2028-04-01T00:00")),
        ("month", "UTC", "2026-12-31T12:00", ("2026-12-01T00:00", "2027-01-01T00:00", "2027-02-01T00:00")),
        ("year", "UTC", "2028-12-31T12:00", ("2028-01-01T00:00", "2029-01-01T00:00", "2030-01-01T00:00")),
        ("month", "Europe/Berlin", "2026-03-31T22:30", ("2026-03-31T22:00", "2026-04-30T22:00", "2026-05-31T22:00")),
        ("month", "Asia/Kathmandu", "2026-01-31T18:15", ("2026-01-31T18:15", "2026-02-28T18:15", "2026-03-31T18:15")),
    ],
)
def test_a_window_is_the_calendars(unit: Unit, zone: str, now: str, edges: tuple[str, str, str]) -> None:
    """A window is the local day, week from Monday, month or year; the one after it is known too."""
    assert window(unit, zone, now) == edges


@pytest.mark.parametrize(
    ("zone", "now", "edges"),
    [
        # 23 hours: clocks go forward in the night.
        ("Europe/Berlin", "2026-03-29T12:00", ("2026-03-28T23:00", "2026-03-29T22:00", "2026-03-30T22:00")),
        # 25 hours: they go back.
        ("Europe/Berlin", "2026-10-25T12:00", ("2026-10-24T22:00", "2026-10-25T23:00", "2026-10-26T23:00")),
        # There was no midnight: the day began at 01:00.
        ("America/Sao_Paulo", "2018-11-04T03:00", ("2018-11-04T03:00", "2018-11-05T02:00", "2018-11-06T02:00")),
        # The clocks went from 23:30 to 00:30: the day began at 00:30.
        ("America/Toronto", "1919-03-31T04:40", ("1919-03-31T04:30", "1919-04-01T04:00", "1919-04-02T04:00")),
        # Midnight came twice: the first one counts.
        ("America/Havana", "2025-11-02T05:30", ("2025-11-02T04:00", "2025-11-03T05:00", "2025-11-04T05:00")),
        # There was no 30 December.
        ("Pacific/Apia", "2011-12-30T09:00", ("2011-12-29T10:00", "2011-12-30T10:00", "2011-12-31T10:00")),
        # A minute after midnight the clocks went back to the day before: the new day stays.
        ("America/St_Johns", "2006-10-29T02:35", ("2006-10-29T02:30", "2006-10-30T03:30", "2006-10-31T03:30")),
        ("America/St_Johns", "2006-10-29T02:29", ("2006-10-28T02:30", "2006-10-29T02:30", "2006-10-30T03:30")),
    ],
)
def test_a_day_begins_with_its_first_instant(zone: str, now: str, edges: tuple[str, str, str]) -> None:
    """Where clocks are set, a day begins when it is first that day, be it midnight or not."""
    assert window("day", zone, now) == edges


ZONES = ("UTC", "Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Australia/Lord_Howe", "Asia/Gaza")
PERIODS: dict[Unit, Callable[[datetime], object]] = {
    "day": lambda local: local.date(),
    "week": lambda local: local.isocalendar()[:2],
    "month": lambda local: (local.year, local.month),
    "year": lambda local: local.year,
}


@given(st.sampled_from(sorted(PERIODS)), st.sampled_from(ZONES), st.integers(0, 2**31))
def test_windows_leave_no_gap(unit: Unit, zone: str, second: int) -> None:
    """Every instant is in one window, which begins where the local period does and ends where the next one begins."""
    calendar, local = Calendar(unit, zone), ZoneInfo(zone)
    found = calendar.window(second * SECOND, 1)

    def period(at: int) -> object:
        return PERIODS[unit](datetime.fromtimestamp(at, local))

    assert found.start <= second * SECOND < found.finish < found.following
    assert period(found.start // SECOND) == period(second) == period(found.finish // SECOND - 1)
    assert period(found.start // SECOND - 1) != period(second) != period(found.finish // SECOND)
    after = Calendar(unit, zone).window(found.finish, 1)
    assert (after.start, after.finish) == (found.finish, found.following)


def test_a_window_is_made_once() -> None:
    """Until it ends, a window is the same object; then it is the next one, for every capacity."""
    calendar = Calendar("month", "UTC")
    first, other = calendar.window(instant("2026-01-01T00:00"), 5), calendar.window(instant("2026-01-31T23:59"), 7)

    assert calendar.window(instant("2026-01-31T23:59"), 5) is first
    assert calendar.window(first.start, 5) is first
    assert (first.capacity, other.capacity) == (5, 7)
    assert calendar.window(first.finish, 5).start == first.finish
    assert calendar.window(first.finish, 7).start == first.finish
    assert calendar.window(first.finish - 1, 5) == first


def test_a_time_is_said_in_the_zones_words() -> None:
    """A time is told as the zone's clocks show it, with their distance from UTC (RFC 3339)."""
    assert Calendar("month", "Europe/Berlin").said(instant("2026-06-30T22:00")) == "2026-07-01T00:00:00+02:00"


@pytest.mark.parametrize(("unit", "zone"), [("hour", "UTC"), ("day", "Europe"), ("day", "../etc"), ("day", "Mars/X")])
def test_what_is_no_calendar_is_refused(unit: Unit, zone: str) -> None:
    """A unit that no calendar has, and a zone that is none, are refused with what to write."""
    with pytest.raises(ValueError, match="write"):
        Calendar(unit, zone)
