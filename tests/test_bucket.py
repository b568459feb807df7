import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from buckets import NOW, SECOND, VECTORS, buckets, costs, gaps, made, sizes, told, vector_hits
from genops_extauth.bucket import EXACT, Bucket, bucket
from genops_extauth.hits import Book, Hit, Role


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_reference_answers_as_the_vectors_say(case: dict[str, Any]) -> None:
    """The reference gives every vector's answer."""
    book, limits = Book(), dict(case["buckets"])
    for step in case["steps"]:
        limits |= step.get("become", {})
        answer = book.transact(vector_hits(step, limits), step["at"])
        assert told(answer) == (step["granted"], [tuple(each) for each in step["levels"]]), step


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 3600, 20), Bucket(capacity=720_000_000, part=36_000_000, refill=1, tick=1)),
        ((10_000, 3600, None), Bucket(capacity=3_600_000_000, part=360_000, refill=1, tick=1)),
        ((7, 1, 7), Bucket(capacity=7_000_000, part=1_000_000, refill=7, tick=1)),
        ((3_000_000, 1, 5), Bucket(capacity=5, part=1, refill=3, tick=1)),
        ((999_983, 86_400, None), Bucket(capacity=999_983 * 86_400_000, part=86_400_000, refill=999_983, tick=1_000)),
        ((2**53 - 1, 1, None), Bucket(capacity=2**53 - 1, part=1, refill=2**53 - 1, tick=1_000_000)),
        ((2**32 - 5, 31_536_000, None), Bucket((2**32 - 5) * 525_600, 525_600, 2**32 - 5, 60_000_000)),
        ((0, 60, None), Bucket(capacity=0, part=1, refill=1, tick=1)),
        ((0, 60, 0), Bucket(capacity=0, part=1, refill=1, tick=1)),
        ((5, 60, 0), Bucket(capacity=0, part=12_000_000, refill=1, tick=1)),
    ],
)
def test_bucket_is_cut_down_to_the_finest_exact_tick(size: tuple[int, int, int | None], expected: Bucket) -> None:
    """A bucket has the finest tick with which its capacity stays exact."""
    assert bucket(*size) == expected


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
def test_bucket_that_cannot_be_exact_is_refused(size: tuple[int, int, int | None], advice: str) -> None:
    """A limit that doubles cannot count is refused with what to write instead."""
    with pytest.raises(ValueError, match=advice):
        bucket(*size)


def test_advised_burst_is_accepted() -> None:
    """The burst that a refusal advises is the largest that is accepted."""
    assert bucket(1, 31_536_000, 17_136_984_883).capacity < EXACT
    with pytest.raises(ValueError, match="17136984883"):
        bucket(1, 31_536_000, 17_136_984_884)


@given(sizes())
def test_bucket_says_the_same_rate_and_burst_in_exact_numbers(size: tuple[int, int, int]) -> None:
    """The parts of a bucket are the limit, exactly, and all of them are exact in a double."""
    limit, period, burst = size
    meter = made(size)
    assert Fraction(meter.refill, meter.part * meter.tick) == Fraction(limit, period * SECOND)
    assert meter.capacity == burst * meter.part
    assert max(meter.capacity, meter.refill) < EXACT
    assert math.gcd(meter.part, meter.refill) == 1


@given(buckets, st.lists(st.tuples(gaps, st.integers(-SECOND, 0), costs), max_size=12))
def test_admits_at_most_burst_and_rate(meter: Bucket, steps: list[tuple[int, int, int]]) -> None:
    """Over any interval t a bucket admits at most burst + rate * t, t being all that the clock went forward."""
    book, now, run = Book(), NOW, 0
    admitted: list[tuple[int, int]] = []
    for forward, back, cost in steps:
        now += forward + back
        run += forward
        if book.transact([Hit(b"a", meter, cost)], now).granted:
            admitted.append((run, cost * meter.part))
    for start in range(len(admitted)):
        for end in range(start, len(admitted)):
            ticks = -(-(admitted[end][0] - admitted[start][0]) // meter.tick)
            assert sum(parts for _, parts in admitted[start : end + 1]) <= meter.capacity + meter.refill * ticks


@given(buckets, st.lists(st.tuples(gaps, st.booleans(), st.integers(0, 2**32 - 1)), max_size=12))
def test_debt_is_paid_by_refill_alone(meter: Bucket, steps: list[tuple[int, bool, int]]) -> None:
    """What is charged and taken together exceeds burst + rate * t by no more than the debt that is left."""
    assume(meter.capacity)
    book, now, spent = Book(), NOW, 0
    for gap, charge, cost in steps:
        now += gap
        role = Role.CHARGE if charge else Role.MUST
        if book.transact([Hit(b"a", meter, cost, role)], now).granted:
            spent += cost * meter.part
    assume(spent < EXACT)  # where debts end
    left = meter.level(book.states.get(b"a"), now)  # type: ignore[arg-type] # of its kind
    ticks = -(-(now - NOW) // meter.tick)
    assert spent <= meter.capacity + meter.refill * ticks - left


@given(buckets, st.integers(1, 1_000), st.integers(-(10**9), 10**6))
def test_whoever_waits_for_the_reset_passes(meter: Bucket, share: int, step: int) -> None:
    """A refused cost passes once its reset has gone by, and not a second before, although the clock steps back."""
    book, now, full = Book(), NOW, meter.capacity // meter.part
    book.transact([Hit(b"a", meter, full)], now)
    now += step
    hit = Hit(b"a", meter, max(1, full * share // 1_000))
    answer = book.transact([hit], now)
    assume(not answer.granted and full > 0)
    look, level = hit._replace(look=True), answer.levels[0]
    assert level.reset == max(1, -(-level.wait // SECOND))
    assert book.transact([look], now + level.wait).granted
    assert meter.tick > 1 or not book.transact([look], now + level.wait - 1).granted


@given(buckets, st.integers(0, 2**32 - 1), st.integers(0, 10**9))
def test_reset_of_what_fits_is_when_the_bucket_is_full(meter: Bucket, cost: int, wait: int) -> None:
    """The reset of what fits is the number of seconds, rounded up, until the bucket is full."""
    book = Book()
    answer = book.transact([Hit(b"a", meter, cost)], wait)
    assume(answer.granted)
    reset = answer.levels[0].reset
    full = meter.capacity // meter.part
    assert book.transact([Hit(b"a", meter, full, look=True)], wait + reset * SECOND).granted
    earlier = wait + (reset - 1) * SECOND
    left = meter.level(book.states.get(b"a"), earlier)  # type: ignore[arg-type] # of its kind
    assert reset == 0 or meter.tick > SECOND or left < meter.capacity


@given(buckets, buckets, st.integers(1, 1_000))
def test_changed_limit_keeps_the_share(old: Bucket, new: Bucket, share: int) -> None:
    """A bucket whose limit was changed keeps the share that was left, rounded down, and never more than it can hold."""
    book = Book()
    book.transact([Hit(b"a", old, max(1, old.capacity // old.part * share // 1_000))], 0)
    state: Any = book.states.get(b"a")
    left = old.level(state, 0)
    assume(old.capacity and state)
    now = new.level(state, 0)
    assert 0 <= now <= new.capacity
    # Two roundings of doubles, each to one part in 2^53, and the floor.
    assert abs(now - Fraction(left * new.capacity, old.capacity)) <= 1 + Fraction(2 * new.capacity, EXACT)
