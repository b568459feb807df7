import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from buckets import NOW, SECOND, calendars, fixed, gaps, sliding, windows
from genops_extauth.bucket import bucket
from genops_extauth.hits import Book, Hit
from genops_extauth.window import CalendarWindow, FixedWindow, SlidingWindow, Used, Window

small = st.integers(0, 2**32 - 1)
steps = st.lists(st.tuples(gaps, small), max_size=12)
MINUTE = FixedWindow(10, 60 * SECOND)


def granted(window: Window, asked: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """When how much was taken."""
    book, now, taken = Book(), NOW, []
    for gap, cost in asked:
        now += gap
        if book.transact([Hit(b"a", window, cost)], now).granted:
            taken.append((now, cost))
    return taken


@given(fixed, steps)
def test_fixed_window_admits_its_limit_in_each_window(window: FixedWindow, asked: list[tuple[int, int]]) -> None:
    """In each window, counted from the epoch, exactly what fits into the limit is admitted."""
    per_window: dict[int, int] = {}
    for at, cost in granted(window, asked):
        per_window[at // window.length] = per_window.get(at // window.length, 0) + cost
    assert all(taken <= window.capacity for taken in per_window.values())


@given(sliding, steps)
def test_sliding_window_weighs_the_window_before(window: SlidingWindow, asked: list[tuple[int, int]]) -> None:
    """What is used, and the share of the window before that the last length still covers, stay within the limit."""
    per_window: dict[int, int] = {}
    for at, cost in granted(window, asked):
        number, share = at // window.length, (window.length - at % window.length) / window.length
        per_window[number] = per_window.get(number, 0) + cost
        weighed = math.ceil(per_window.get(number - 1, 0) * share)
        assert cost == 0 or per_window[number] + weighed <= window.capacity


@given(calendars(), steps)
def test_calendar_window_admits_its_limit_between_its_edges(
    window: CalendarWindow, asked: list[tuple[int, int]]
) -> None:
    """Before its edge a calendar's window admits its limit, and as much again after it."""
    taken = granted(window, asked)
    assert sum(cost for at, cost in taken if at < window.finish) <= window.capacity
    assert sum(cost for at, cost in taken if at >= window.finish) <= window.capacity


shares = st.integers(0, 1_000)


@given(windows, st.lists(st.tuples(st.integers(0, 2 * SECOND), shares), max_size=4), shares)
def test_whoever_waits_passes(window: Window, asked: list[tuple[int, int]], share: int) -> None:
    """A refused hit that the window can hold fits once its wait is over."""
    book, now = Book(), NOW
    for gap, taken in [*asked, (0, 1_000)]:
        now += gap
        left = window.level(book.states.get(b"a"), now)  # type: ignore[arg-type] # of its kind
        book.transact([Hit(b"a", window, left * taken // 1_000)], now)
    look = Hit(b"a", window, max(1, window.capacity * share // 1_000), look=True)
    told = book.transact([look], now)
    assume(window.capacity)
    assert not told.granted
    level = told.levels[0]
    assert level.reset == max(1, -(-level.wait // SECOND))
    then: Window = window
    if isinstance(window, CalendarWindow):  # by then whoever reads the calendar has turned the page
        then = CalendarWindow(window.capacity, window.finish, window.following, window.following + SECOND)
    assert book.transact([look._replace(meter=then)], now + level.wait).granted


@pytest.mark.parametrize(
    ("window", "used", "at", "left"),
    [
        (MINUTE, Used(4, 60 * SECOND), 119 * SECOND, 6),
        (MINUTE, Used(4, 60 * SECOND), 120 * SECOND, 10),
        (MINUTE, Used(14, 60 * SECOND), 90 * SECOND, -4),
        (MINUTE, Used(4, 120 * SECOND), 90 * SECOND, 6),
        (SlidingWindow(10, 60 * SECOND), Used(4, 60 * SECOND, 6), 60 * SECOND, 0),
        (SlidingWindow(10, 60 * SECOND), Used(4, 60 * SECOND, 6), 90 * SECOND, 3),
        (SlidingWindow(10, 60 * SECOND), Used(4, 60 * SECOND, 6), 120 * SECOND, 6),
        (SlidingWindow(10, 60 * SECOND), Used(4, 60 * SECOND, 6), 150 * SECOND, 8),
        (SlidingWindow(10, 60 * SECOND), Used(4, 60 * SECOND, 6), 180 * SECOND, 10),
        (CalendarWindow(10, 0, 60, 120), Used(4, 0), 59, 6),
        (CalendarWindow(10, 0, 60, 120), Used(4, 0), 60, 10),
        (CalendarWindow(10, 0, 60, 120), Used(4, 60), 59, 6),
        (CalendarWindow(10, 60, 120, 180), Used(4, 0), 60, 10),
    ],
)
def test_what_is_left(window: Window, used: Used, at: int, left: int) -> None:
    """What was used counts in its own window; in a sliding one also, by share, in the next."""
    assert window.level(used, at) == left


SLIDING = SlidingWindow(10, 60 * SECOND)


@pytest.mark.parametrize(
    ("window", "used", "at", "cost", "wait"),
    [
        (MINUTE, Used(4, 60 * SECOND), 90 * SECOND, 7, 30 * SECOND),
        (MINUTE, Used(10, 60 * SECOND), 60 * SECOND, 1, 60 * SECOND),
        (CalendarWindow(10, 0, 60, 120), Used(4, 0), 50, 7, 10),
        # Three are left. As the window before fades one more fits after 10 s, all of it after 30 s.
        (SLIDING, Used(4, 60 * SECOND, 6), 90 * SECOND, 4, 10 * SECOND),
        (SLIDING, Used(4, 60 * SECOND, 6), 90 * SECOND, 6, 30 * SECOND),
        # For more than that the window's own 4 must fade in the next one.
        (SLIDING, Used(4, 60 * SECOND, 6), 90 * SECOND, 7, 45 * SECOND),
        (SLIDING, Used(4, 60 * SECOND, 6), 90 * SECOND, 10, 90 * SECOND),
        (SLIDING, Used(10, 60 * SECOND), 90 * SECOND, 1, 36 * SECOND),
        (SLIDING, Used(14, 60 * SECOND), 90 * SECOND, 10, 90 * SECOND),
    ],
)
def test_a_wait_is_no_longer_than_it_must_be(window: Window, used: Used, at: int, cost: int, wait: int) -> None:
    """What does not fit waits until it does, and a microsecond before it does not fit."""
    book, look = Book({b"a": used}), [Hit(b"a", window, cost, look=True)]

    assert book.transact(look, at).levels[0].wait == wait
    assert [book.transact(look, at + then).granted for then in (wait - 1, wait)] == [False, True]


@pytest.mark.parametrize(
    ("window", "used", "at", "reset"),
    [
        (MINUTE, Used(4, 60 * SECOND), 90 * SECOND, 30),
        (CalendarWindow(10, 0, 60 * SECOND, 90 * SECOND), Used(4, 0), 50 * SECOND, 10),
        (CalendarWindow(10, 0, 60 * SECOND, 90 * SECOND), Used(4, 60 * SECOND), 70 * SECOND, 20),
        (CalendarWindow(10, 0, 60 * SECOND, 90 * SECOND), Used(4, 60 * SECOND), 60 * SECOND, 30),
        (SLIDING, Used(4, 60 * SECOND, 6), 90 * SECOND, 90),
        (SLIDING, Used(6, 0), 90 * SECOND, 30),
    ],
)
def test_what_fits_is_told_when_all_is_there_again(window: Window, used: Used, at: int, reset: int) -> None:
    """The reset of what fits is the end of its window; of a sliding one the end of the next, if this one was used."""
    look = [Hit(b"a", window, 1, look=True)]

    assert Book({b"a": used}).transact(look, at).levels[0].reset == reset


def test_a_calendar_page_that_was_turned_stays_turned() -> None:
    """What a process takes whose clock is behind is taken of the next window, where another one has opened it."""
    book = Book({b"a": Used(4, 60)})
    assert book.transact([Hit(b"a", CalendarWindow(10, 0, 60, 120), 1)], 59).granted

    assert book.states == {b"a": Used(5, 60)}


def test_changed_limit_keeps_what_was_used() -> None:
    """A window whose limit was changed goes on from what was used, and so may a bucket that became a window."""
    book = Book()
    book.transact([Hit(b"a", MINUTE, 4)], NOW)
    assert book.transact([Hit(b"a", FixedWindow(20, 60 * SECOND), 1)], NOW).levels[0].remaining == 15
    assert book.transact([Hit(b"a", FixedWindow(3, 60 * SECOND), 1)], NOW).levels[0].remaining == 0
    assert bucket(1, 60).kind != MINUTE.kind


@given(fixed | sliding, small, st.integers(0, 10**7))
def test_clock_that_steps_back_gives_nothing_back(window: FixedWindow | SlidingWindow, most: int, step: int) -> None:
    """What was used stays used where the clock steps back, within the window before too."""
    book, cost = Book(), min(most, window.capacity)
    assert book.transact([Hit(b"a", window, cost)], NOW).granted
    assert window.level(book.states.get(b"a"), NOW - step) <= window.capacity - cost  # type: ignore[arg-type] # of its kind
