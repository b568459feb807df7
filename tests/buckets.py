"""Buckets and windows for tests: the shared vectors, and strategies for Hypothesis."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hypothesis import assume
from hypothesis import strategies as st

from genops_extauth.bucket import Bucket, bucket
from genops_extauth.hits import Answer, Hit, Meter, Role
from genops_extauth.window import CalendarWindow, FixedWindow, SlidingWindow

SECOND = 1_000_000
NOW = 10**15
"""Where the tests' clocks begin, in microseconds since the epoch."""
VECTORS = yaml.safe_load((Path(__file__).parent / "vectors" / "bucket.yaml").read_text())


def vector_hits(step: Mapping[str, Any], limits: Mapping[str, Sequence[Any]]) -> list[Hit]:
    """What one step of a vector asks for."""
    look = "peek" in step
    return [
        Hit(name.encode(), bucket(*limits[name]), cost, look=look) for name, cost in step["peek" if look else "acquire"]
    ]


def told(answer: Answer) -> tuple[bool, list[tuple[bool, int, int]]]:
    """An answer as the vectors write it."""
    return answer.granted, [level[:3] for level in answer.levels]


def sizes() -> st.SearchStrategy[tuple[int, int, int]]:
    """Limits of every size, with periods of every unit and odd ones."""
    limits = st.one_of(st.integers(1, 20), st.integers(1, 2**32), st.sampled_from([2**32 - 1, 999_983, 10**9 + 7]))
    periods = st.sampled_from([1, 7, 60, 3600, 86_400, 604_800, 2_592_000, 31_536_000])
    bursts = st.one_of(st.integers(0, 20), st.integers(1, 2**32))
    return st.tuples(limits, periods, bursts)


def made(size: tuple[int, int, int]) -> Bucket:
    try:
        return bucket(*size)
    except ValueError:
        assume(condition=False)
        raise


capacities = st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1))
lengths = st.sampled_from([1, 7, 60, 3600, 86_400, 2_592_000]).map(lambda seconds: seconds * SECOND)
gaps = st.one_of(st.just(0), st.integers(0, 2 * SECOND), st.integers(0, 10**14))
moves = st.one_of(gaps, st.integers(-(10**7), 0))
costs = st.one_of(st.integers(0, 3), st.integers(0, 30), st.integers(0, 2**32 - 1), st.just(2**64 - 1))

buckets = sizes().map(made)
fixed = st.builds(FixedWindow, capacities, lengths)
sliding = st.builds(SlidingWindow, capacities, lengths)


@st.composite
def calendars(draw: st.DrawFn) -> CalendarWindow:
    """Windows about the time at which the tests' clocks begin."""
    start = NOW - draw(st.integers(0, 40 * SECOND))
    finish = start + draw(st.integers(1, 80 * SECOND))
    return CalendarWindow(draw(capacities), start, finish, finish + draw(st.integers(1, 80 * SECOND)))


windows = st.one_of(fixed, sliding, calendars())
KINDS: dict[bytes, st.SearchStrategy[Meter]] = {
    b"a": buckets,
    b"b": buckets,
    b"f": fixed,
    b"s": sliding,
    b"c": calendars(),
}
meters = st.fixed_dictionaries(KINDS)


Wanted = tuple[bytes, int, Role, bool]
wanted = st.tuples(st.sampled_from(sorted(KINDS)), costs, st.sampled_from(Role), st.booleans())
groups = st.lists(wanted, min_size=1, max_size=5)
takes = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"f"]), costs), min_size=1, max_size=4)


def as_hits(group: Sequence[Wanted], made: Mapping[bytes, Meter]) -> list[Hit]:
    return [Hit(key, made[key], cost, role, look) for key, cost, role, look in group]
