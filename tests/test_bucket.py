import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from buckets import SECOND, VECTORS, Book, costs, gaps, hits, shaped, shapes, sizes, three
from genops_extauth.bucket import EXACT, Answer, Hit, Level, Shape, level, shape


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_reference_answers_as_the_vectors_say(case: dict[str, Any]) -> None:
    """The reference gives every vector's answer."""
    book, limits = Book(), dict(case["buckets"])
    for step in case["steps"]:
        limits |= step.get("become", {})
        hits = [Hit(name.encode(), shape(*limits[name]), cost) for name, cost in step.get("acquire") or step["peek"]]
        told = (book.acquire if "acquire" in step else book.peek)(hits, step["at"])
        assert told == Answer(step["granted"], tuple(Level(*each) for each in step["levels"])), step


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 3600, 20), Shape(capacity=720_000_000, part=36_000_000, refill=1, tick=1)),
        ((10_000, 3600, None), Shape(capacity=3_600_000_000, part=360_000, refill=1, tick=1)),
        ((7, 1, 7), Shape(capacity=7_000_000, part=1_000_000, refill=7, tick=1)),
        ((3_000_000, 1, 5), Shape(capacity=5, part=1, refill=3, tick=1)),
        ((999_983, 86_400, None), Shape(capacity=999_983 * 86_400_000, part=86_400_000, refill=999_983, tick=1_000)),
        ((2**53 - 1, 1, None), Shape(capacity=2**53 - 1, part=1, refill=2**53 - 1, tick=1_000_000)),
        ((2**32 - 5, 31_536_000, None), Shape((2**32 - 5) * 525_600, 525_600, 2**32 - 5, 60_000_000)),
        ((0, 60, None), Shape(capacity=0, part=1, refill=1, tick=1)),
        ((0, 60, 0), Shape(capacity=0, part=1, refill=1, tick=1)),
        ((5, 60, 0), Shape(capacity=0, part=12_000_000, refill=1, tick=1)),
    ],
)
def test_shape_is_cut_down_to_the_finest_exact_tick(size: tuple[int, int, int | None], expected: Shape) -> None:
    """A shape has the finest tick with which its capacity stays exact."""
    assert shape(*size) == expected


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        ((-1, 60, None), "a limit and a burst of 0 or more"),
        ((1, 0, None), "a period of at least 1 second"),
        ((1, 60, -1), "a limit and a burst of 0 or more"),
        ((0, 60, 5), "leave its burst out"),
        ((2**53, 1, None), r"\(2\^53\): write a smaller limit"),
        ((2**53 + 1, 1, 1), r"\(2\^53\): write a smaller limit"),
        ((1, 31_536_000, 10**12), "write a burst of at most 17136984883, or a rounder limit"),
    ],
)
def test_shape_that_cannot_be_exact_is_refused(size: tuple[int, int, int | None], advice: str) -> None:
    """A limit that doubles cannot count is refused with what to write instead."""
    with pytest.raises(ValueError, match=advice):
        shape(*size)


def test_advised_burst_is_accepted() -> None:
    """The burst that a refusal advises is the largest that is accepted."""
    assert shape(1, 31_536_000, 17_136_984_883).capacity < EXACT
    with pytest.raises(ValueError, match="17136984883"):
        shape(1, 31_536_000, 17_136_984_884)


@given(sizes())
def test_shape_says_the_same_rate_and_burst_in_exact_numbers(size: tuple[int, int, int]) -> None:
    """The parts of a shape are the limit, exactly, and all of them are exact in a double."""
    limit, period, burst = size
    made = shaped(size)
    assert Fraction(made.refill, made.part * made.tick) == Fraction(limit, period * SECOND)
    assert made.capacity == burst * made.part
    assert max(made.capacity, made.refill) < EXACT
    assert math.gcd(made.part, made.refill) == 1


@given(shapes, st.lists(st.tuples(gaps, st.integers(-SECOND, 0), costs), max_size=12))
def test_admits_at_most_burst_and_rate(made: Shape, steps: list[tuple[int, int, int]]) -> None:
    """Over any interval t a bucket admits at most burst + rate * t, t being all that the clock went forward."""
    book, now, run = Book(), 10**15, 0
    admitted: list[tuple[int, int]] = []
    for forward, back, cost in steps:
        now += forward + back
        run += forward
        if book.acquire([Hit(b"a", made, cost)], now).granted:
            admitted.append((run, cost * made.part))
    for start in range(len(admitted)):
        for end in range(start, len(admitted)):
            ticks = -(-(admitted[end][0] - admitted[start][0]) // made.tick)
            assert sum(parts for _, parts in admitted[start : end + 1]) <= made.capacity + made.refill * ticks


@given(three, st.lists(st.tuples(gaps, hits), max_size=8))
def test_groups_are_all_or_nothing(made: dict[bytes, Shape], steps: list[tuple[int, list[tuple[bytes, int]]]]) -> None:
    """A granted group takes the sum of its costs, a refused one nothing; nothing remaining is ever negative."""
    book, now = Book(), 0
    for gap, asked in steps:
        now += gap
        group = [Hit(key, made[key], cost) for key, cost in asked]
        before = {key: level(made[key], book.states.get(key), now) for key in made}
        told = book.acquire(group, now)
        after = {key: level(made[key], book.states.get(key), now) for key in made}
        taken = {key: sum(cost for of, cost in asked if of == key) * made[key].part for key in made}
        assert told.granted == all(taken[key] <= before[key] for key in made)
        assert after == ({key: before[key] - taken[key] for key in made} if told.granted else before)
        assert [each.remaining for each in told.levels] == [after[hit.key] // hit.shape.part for hit in group]
        assert min(after.values()) >= 0
        assert told.granted == all(each.fits for each in told.levels)


@given(three, st.lists(st.tuples(gaps, hits), max_size=5), hits)
def test_peek_tells_what_acquire_would(
    made: dict[bytes, Shape], steps: list[tuple[int, list[tuple[bytes, int]]]], asked: list[tuple[bytes, int]]
) -> None:
    """A peek grants and fits what an acquire at that moment would."""
    book, now = Book(), 0
    for gap, earlier in steps:
        now += gap
        book.acquire([Hit(key, made[key], cost) for key, cost in earlier], now)
    group = [Hit(key, made[key], cost) for key, cost in asked]
    seen = book.peek(group, now)
    done = book.acquire(group, now)
    assert seen.granted == done.granted
    assert [each.fits for each in seen.levels] == [each.fits for each in done.levels]


@given(shapes, st.integers(1, 1_000), st.integers(-(10**9), 10**6))
def test_whoever_waits_for_the_reset_passes(made: Shape, share: int, step: int) -> None:
    """A refused cost passes once its reset has gone by, and not a second before, although the clock steps back."""
    book, now, full = Book(), 10**15, made.capacity // made.part
    book.acquire([Hit(b"a", made, full)], now)
    now += step
    hit = Hit(b"a", made, max(1, full * share // 1_000))
    told = book.acquire([hit], now)
    assume(not told.granted and full > 0)
    reset = told.levels[0].reset
    assert reset >= 1
    assert book.peek([hit], now + reset * SECOND).granted
    assert reset == 1 or made.tick > SECOND or not book.peek([hit], now + (reset - 1) * SECOND).granted


@given(shapes, st.integers(0, 2**32 - 1), st.integers(0, 10**9))
def test_reset_of_what_fits_is_when_the_bucket_is_full(made: Shape, cost: int, wait: int) -> None:
    """The reset of what fits is the number of seconds, rounded up, until the bucket is full."""
    book = Book()
    told = book.acquire([Hit(b"a", made, cost)], wait)
    assume(told.granted)
    reset = told.levels[0].reset
    full = made.capacity // made.part
    assert book.peek([Hit(b"a", made, full)], wait + reset * SECOND).granted
    earlier = wait + (reset - 1) * SECOND
    assert reset == 0 or made.tick > SECOND or level(made, book.states.get(b"a"), earlier) < made.capacity


@given(shapes, shapes, st.integers(0, 2**32 - 1))
def test_changed_shape_keeps_the_share(old: Shape, new: Shape, cost: int) -> None:
    """A bucket whose limit was changed keeps the share that was left, rounded down, and never more than it can hold."""
    book = Book()
    book.acquire([Hit(b"a", old, cost)], 0)
    left = level(old, book.states.get(b"a"), 0)
    assume(old.capacity and b"a" in book.states)
    now = level(new, book.states[b"a"], 0)
    assert 0 <= now <= new.capacity
    # Two roundings of doubles, each to one part in 2^53, and the floor.
    assert abs(now - Fraction(left * new.capacity, old.capacity)) <= 1 + Fraction(2 * new.capacity, EXACT)
