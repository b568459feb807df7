"""Calendar windows: the day, week, month or year of a time zone, for quotas that people reckon with.

A window begins with the first instant of its first local day, and ends where the next one begins. That instant is
midnight except where the zone's clocks skip it (a day that begins at 01:00, or that there never was); a clock set back
over midnight does not reopen the day before. Weeks begin on Monday (ISO 8601).
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from zoneinfo import ZoneInfo

from genops_extauth.bucket import SECOND
from genops_extauth.model import Unit
from genops_extauth.window import CalendarWindow

_DAY = timedelta(days=1)
_FIRST: Mapping[Unit, Callable[[date], date]] = MappingProxyType(
    {
        "day": lambda day: day,
        "week": lambda day: day - day.weekday() * _DAY,
        "month": lambda day: day.replace(day=1),
        "year": lambda day: day.replace(month=1, day=1),
    }
)
"""The first day of the window that a day is in."""

_LONGEST: Mapping[Unit, timedelta] = MappingProxyType(
    {"day": _DAY, "week": 7 * _DAY, "month": 31 * _DAY, "year": 366 * _DAY}
)
"""As long a step from a first day leads into the next window, and never past it."""


class Calendar:
    """The windows of one `unit` in one `zone` (an IANA name). Raises ValueError where there is no such calendar."""

    def __init__(self, unit: Unit, zone: str) -> None:
        if unit not in _FIRST:
            raise ValueError("a calendar has days, weeks, months and years: write one of them as the unit")
        try:
            self._zone = ZoneInfo(zone)
        except (KeyError, ValueError, OSError):  # OSError: a folder of zones, such as "Europe"
            raise ValueError("no such time zone: write an IANA name such as Europe/Berlin, or UTC") from None
        self.unit = unit
        self._edges = (0, 0, 0)
        self._windows: dict[int, CalendarWindow] = {}

    def window(self, now: int, capacity: int) -> CalendarWindow:
        """Return the window of `now` (microseconds since the epoch), with `capacity` tokens in it."""
        start, finish, following = self._edges
        if not start <= now < finish:
            self._edges = start, finish, following = self._around(now // SECOND)
            self._windows.clear()
        found = self._windows.get(capacity)  # As many as there are limits: they come from the configuration.
        if found is None:
            found = self._windows[capacity] = CalendarWindow(capacity, start, finish, following)
        return found

    def said(self, now: int) -> str:
        """Tell the time `now` (microseconds since the epoch) in this zone, as RFC 3339 writes it."""
        return datetime.fromtimestamp(now // SECOND, self._zone).isoformat()

    def _around(self, second: int) -> tuple[int, int, int]:
        """Start, finish and the finish after that (microseconds), of the window that `second` is in."""
        first = _FIRST[self.unit](self._local(second))
        edges = [self._instant(first)]
        while len(edges) < 3 or edges[-2] <= second:  # noqa: PLR2004 - the three that are returned
            first = _FIRST[self.unit](first + _LONGEST[self.unit])
            edge = self._instant(first)
            if edge > edges[-1]:  # else there never was that day
                edges.append(edge)
        start, finish, following = (edge * SECOND for edge in edges[-3:])
        return start, finish, following

    def _instant(self, day: date) -> int:
        """The first instant of `day`, in seconds since the epoch; of the day after, where there never was that day."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=self._zone)
        at = int(midnight.timestamp())
        if datetime.fromtimestamp(at, self._zone).replace(tzinfo=None) == midnight.replace(tzinfo=None):
            return at
        # Midnight was skipped, and what `timestamp` says lies after it: the clocks went forward within the day before.
        before = at - int(_DAY.total_seconds())
        return before + bisect_left(range(before, at), True, key=lambda at: self._local(at) >= day)  # noqa: FBT003 - what is looked for

    def _local(self, second: int) -> date:
        return datetime.fromtimestamp(second, UTC).astimezone(self._zone).date()
