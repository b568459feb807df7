from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets import NOW, SECOND, gaps, meters
from genops_extauth.allowance import RETRY, Allowances
from genops_extauth.bucket import bucket
from genops_extauth.hits import STRICT, Hit, Level, Meter, Origin, Role, Terms
from genops_extauth.window import CalendarWindow, FixedWindow, SlidingWindow

THREE = Terms(allowance=3)
OPEN = Terms(allowance=3, open_after=True)
MINUTE = bucket(60, 60)


def hit(cost: int = 1, key: bytes = b"k", meter: Meter = MINUTE, **more: Any) -> Hit:
    return Hit(key, meter, cost, **({"terms": THREE} | more))


def granted(allowances: Allowances, *hits: Hit, now: int = 0, times: int = 1) -> list[bool]:
    return [allowances.transact(hits, now).granted for _ in range(times)]


@pytest.fixture
def allowances() -> Allowances:
    return Allowances(100)


@given(
    meters, st.integers(0, 20), st.lists(st.tuples(gaps, st.sampled_from(b"abfsc"), st.integers(0, 25)), max_size=20)
)
def test_nobody_is_granted_more_than_his_allowance(
    made: dict[bytes, Meter], allowance: int, steps: list[tuple[int, int, int]]
) -> None:
    """While the clock stands still, what is granted of any bucket or window is at most its allowance, and its size."""
    allowances, given_away = Allowances(100), dict.fromkeys(made, 0)
    for _, name, cost in steps:
        key = bytes([name])
        if all(granted(allowances, hit(cost, key, made[key], terms=Terms(allowance)))):
            given_away[key] += cost
    assert all(amount <= allowance for amount in given_away.values())
    assert all(amount * made[key].part <= made[key].capacity for key, amount in given_away.items())


@pytest.mark.parametrize(
    "meter",
    [
        bucket(60, 60),
        bucket(60, 60, 30),
        FixedWindow(60, 60 * SECOND),
        SlidingWindow(60, 60 * SECOND),
        CalendarWindow(60, NOW, NOW + 60 * SECOND, NOW + 120 * SECOND),
    ],
    ids=["bucket", "small burst", "fixed window", "sliding window", "calendar"],
)
def test_allowance_comes_back_as_its_limit_does(allowances: Allowances, meter: Meter) -> None:
    """Of 60 a minute a token of the allowance comes back each second in which the store can be used."""
    assert granted(allowances, hit(meter=meter), times=4) == [True, True, True, False]
    assert granted(allowances, hit(meter=meter), now=SECOND - 1) == [False]
    assert granted(allowances, hit(meter=meter), now=2 * SECOND, times=3) == [True, True, False]
    assert granted(allowances, hit(meter=meter), now=99 * SECOND, times=4) == [True, True, True, False]


def test_groups_are_all_or_nothing(allowances: Allowances) -> None:
    """A group that one allowance refuses takes nothing of the others; what a caller is told is when to try again."""
    assert granted(allowances, hit(3, b"other")) == [True]
    told = allowances.transact((hit(2), hit(1, b"other")), 0)
    assert told == (
        False,
        (Level(fits=True, remaining=3, reset=RETRY), Level(fits=False, remaining=0, reset=RETRY, wait=RETRY * SECOND)),
        Origin.ALLOWANCE,
    )
    assert granted(allowances, hit(3)) == [True]


def test_roles_mean_what_they_do_in_the_store(allowances: Allowances) -> None:
    """A shadow limit refuses nothing, one quota of several is enough, and a look takes nothing."""
    assert granted(allowances, hit(4, role=Role.MAY), times=2) == [True, True]
    assert granted(allowances, hit(9, role=Role.QUOTA), hit(1, b"other", role=Role.QUOTA)) == [True]
    assert granted(allowances, hit(9, role=Role.QUOTA), hit(9, b"other", role=Role.QUOTA)) == [False]
    assert granted(allowances, hit(3, look=True), times=3) == [True] * 3
    assert granted(allowances, hit(4, look=True)) == [False]
    assert granted(allowances, hit(3)) == [True]


def test_charges_take_and_refunds_do_not_give(allowances: Allowances) -> None:
    """A charge is never refused, and takes, into debt too; a refund may be of what was taken before the outage."""
    assert granted(allowances, hit(2, role=Role.CHARGE)) == [True]
    assert granted(allowances, hit(1, look=True), times=2) == [True, True]
    assert granted(allowances, hit(100, role=Role.CHARGE)) == [True]
    assert granted(allowances, hit(100, role=Role.REFUND)) == [True]
    assert granted(allowances, hit(1, look=True)) == [False]
    assert granted(allowances, hit(1, look=True), now=100 * SECOND) == [True]


def test_open_limits_grant_all_that_could_ever_fit(allowances: Allowances) -> None:
    """A limit that is open grants whatever its full bucket could, any number of times; a limit of 0 stays one."""
    assert granted(allowances, hit(60, terms=OPEN), times=5) == [True] * 5
    assert granted(allowances, hit(61, terms=OPEN)) == [False]
    assert granted(allowances, hit(meter=bucket(0, 60), terms=OPEN)) == [False]
    assert len(allowances) == 0


def test_reload_that_opens_a_limit_opens_it(allowances: Allowances) -> None:
    """An operator who opens a limit in the middle of an outage ends its refusals at once, until he closes it."""
    assert granted(allowances, hit(3), hit(3, b"other")) == [True]
    assert granted(allowances, hit()) == [False]
    assert granted(allowances, hit(60, terms=OPEN), hit(0, b"other")) == [True]
    assert granted(allowances, hit()) == [False]


def test_reload_keeps_what_was_spent(allowances: Allowances) -> None:
    """Under a changed allowance the same share of it is spent."""
    assert granted(allowances, hit(2)) == [True]
    assert granted(allowances, hit(terms=Terms(allowance=6)), times=3) == [True, True, False]


def test_strict_limits_are_closed(allowances: Allowances) -> None:
    """A limit without an allowance refuses; a look that asks for nothing passes."""
    assert granted(allowances, hit(terms=STRICT)) == [False]
    assert granted(allowances, hit(0, terms=STRICT, look=True)) == [True]


def test_memory_is_bounded() -> None:
    """Of more buckets than there is room for, the limit's policy decides at once, and that is counted."""
    allowances = Allowances(2)
    keys = (b"a", b"b", b"c")
    assert [granted(allowances, hit(key=key)) for key in keys] == [[True], [True], [False]]
    assert granted(allowances, hit(key=b"c", terms=OPEN)) == [True]
    assert granted(allowances, hit(2, key=b"a")) == [True]
    assert (len(allowances), allowances.crowded) == (2, 1)


def test_whole_allowances_are_forgotten() -> None:
    """What is whole again needs no memory: a sweep makes room for others."""
    allowances = Allowances(2)
    assert granted(allowances, hit(1), hit(2, b"other")) == [True]
    allowances.sweep(SECOND)
    assert len(allowances) == 1
    assert granted(allowances, hit(2, b"other"), now=SECOND) == [True]
    allowances.sweep(4 * SECOND)
    assert len(allowances) == 0
