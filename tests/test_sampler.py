import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.sampler import Sampler


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_thinning() -> None:
    """In one second the first lines are written, then each n-th, which tells how many were left out before it."""
    sampler = Sampler(Clock(), first=2, thereafter=3)
    assert [sampler.admit("a") for _ in range(9)] == [0, 0, None, None, 2, None, None, 2, None]


def test_next_second() -> None:
    """A new second starts anew, and its first line tells what the last one left out."""
    clock = Clock()
    sampler = Sampler(clock, first=1, thereafter=0)
    assert [sampler.admit("a") for _ in range(3)] == [0, None, None]
    clock.now = 1.0
    assert sampler.admit("a") == 2
    clock.now = 2.5
    assert sampler.admit("a") == 0


def test_kinds_are_apart() -> None:
    """A flood of one kind of line hides no line of another."""
    sampler = Sampler(Clock(), first=1, thereafter=0)
    assert [sampler.admit(kind) for kind in ("a", "a", "b", "a", "b")] == [0, None, 0, None, None]


@given(
    st.lists(st.floats(0, 0.5), max_size=400),
    st.integers(1, 5),
    st.integers(0, 5),
)
def test_no_line_is_forgotten(steps: list[float], first: int, thereafter: int) -> None:
    """Lines written, plus what they say was left out, plus what was left out since, are all lines."""
    clock = Clock()
    sampler = Sampler(clock, first=first, thereafter=thereafter)
    said = since = written = 0
    for step in steps:
        clock.now += step
        left_out = sampler.admit("a")
        if left_out is None:
            since += 1
        else:
            assert left_out == since
            said, since, written = said + left_out, 0, written + 1
    assert written + said + since == len(steps)


@pytest.mark.parametrize(("count", "admitted"), [(100, 100), (2200, 102)])
def test_default(count: int, admitted: int) -> None:
    """By default a second has the first 100 lines of a kind, then every 1000th."""
    sampler = Sampler(Clock())
    assert sum(sampler.admit("a") is not None for _ in range(count)) == admitted
