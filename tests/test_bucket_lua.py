import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucket_script import MARK, Script
from buckets import (
    NOW,
    VECTORS,
    Wanted,
    as_hits,
    buckets,
    costs,
    groups,
    made,
    meters,
    moves,
    told,
    vector_hits,
    windows,
)
from genops_extauth.bucket import Bucket, State, bucket
from genops_extauth.hits import Answer, Book, Hit, Level, Meter, Role
from genops_extauth.redis_store import LONGEST
from genops_extauth.window import FixedWindow, SlidingWindow, Used, Window
from stores import SERVERS, running

TEN = bucket(10, 36_000)
slow = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@pytest.fixture(scope="module", params=SERVERS)
def script(request: pytest.FixtureRequest) -> Iterator[Script]:
    with running(request.param) as server, server.client() as client:
        yield Script(client)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_script_answers_as_the_vectors_say(script: Script, case: dict[str, Any]) -> None:
    """The script gives every vector's answer."""
    script.client.flushall()
    limits = dict(case["buckets"])
    for step in case["steps"]:
        limits |= step.get("become", {})
        answer = script.batch([vector_hits(step, limits)], step["at"])[0]
        assert told(answer) == (step["granted"], [tuple(each) for each in step["levels"]]), step


@slow
@given(meters, st.lists(st.tuples(moves, groups), max_size=8))
def test_script_equals_the_reference(
    script: Script, limits: dict[bytes, Meter], steps: list[tuple[int, list[Wanted]]]
) -> None:
    """On any group at any time script and reference answer and store the same."""
    script.client.flushall()
    book, now = Book(), NOW
    for move, group in steps:
        now += move
        hits = as_hits(group, limits)
        assert script.batch([hits], now) == [book.transact(hits, now)]
        assert {key: script.state(key, meter) for key, meter in limits.items()} == {
            key: book.states.get(key) for key in limits
        }


@slow
@given(st.lists(meters, min_size=2, max_size=2), st.lists(st.tuples(moves, groups), max_size=8))
def test_script_equals_the_reference_while_limits_change(
    script: Script, limits: list[dict[bytes, Meter]], steps: list[tuple[int, list[Wanted]]]
) -> None:
    """While limits change to and fro script and reference answer the same."""
    script.client.flushall()
    book, now = Book(), NOW
    for number, (move, group) in enumerate(steps):
        now += move
        hits = as_hits(group, limits[number % 2])
        assert script.batch([hits], now) == [book.transact(hits, now)]


@slow
@given(
    st.lists(meters, min_size=2, max_size=2),
    st.lists(st.tuples(moves, st.lists(st.tuples(st.integers(0, 1), groups), max_size=4)), max_size=6),
)
def test_batch_equals_its_groups_one_by_one(
    script: Script, limits: list[dict[bytes, Meter]], batches: list[tuple[int, list[tuple[int, list[Wanted]]]]]
) -> None:
    """A batch answers its groups as if each came alone, in order, by its own limits, and leaves the same levels."""
    script.client.flushall()
    book, now = Book(), NOW
    for move, batch in batches:
        now += move
        asked = [as_hits(group, limits[which]) for which, group in batch]
        assert script.batch(asked, now) == [book.transact(group, now) for group in asked]
        for key, meter in limits[0].items():
            state: Any = script.state(key, meter)
            assert meter.level(state, now) == meter.level(book.states.get(key), now)  # type: ignore[arg-type] # of its kind


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(buckets, costs, st.sampled_from([Role.MUST, Role.CHARGE]))
def test_bucket_lives_until_it_is_full(script: Script, meter: Bucket, cost: int, role: Role) -> None:
    """A stored bucket expires when it would be full again, debt included, a second of slack and 2^53 ms at most."""
    script.client.flushall()
    script.batch([[Hit(b"a", meter, cost, role)]], 0)
    state = script.state(b"a", meter)
    ttl = script.client.pttl(b"a")
    assert isinstance(ttl, int)
    if state is None:
        assert ttl == -2
        return
    milliseconds = -(-(meter.capacity - meter.level(state, 0)) // meter.refill) * meter.tick / 1_000
    # The server counts down meanwhile: half a second is far more than that takes.
    assert min(milliseconds + 500, 2**53 - 500) <= ttl <= milliseconds + 1_002


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(windows, st.integers(1, 20))
def test_window_lives_as_long_as_it_counts(script: Script, window: Window, cost: int) -> None:
    """A stored window expires when it counts for nothing any more, and a second later at most."""
    script.client.flushall()
    script.batch([[Hit(b"a", window, cost, Role.CHARGE)]], NOW)
    ttl = script.client.pttl(b"a")
    assert isinstance(ttl, int)
    if window.capacity == 0:
        assert ttl == -2
        return
    full: Any = script.state(b"a", window)
    later = NOW + (ttl + 2) * 1_000
    if isinstance(window, FixedWindow):
        assert window.level(full, later) == window.capacity
    assert 500 <= ttl <= 2 * 2_592_000_000 + 200_000


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"7",
        b"x" * 24,
        b"\0" * 24,
        b"\xff" * 24,
        struct.pack(">ddd", float("nan"), 10.0, 0.0),
        struct.pack(">ddd", 0.0, float("inf"), 0.0),
        struct.pack(">ddd", float("-inf"), 10.0, 0.0),
        struct.pack(">ddd", 11.0, 10.0, 0.0),
        struct.pack(">ddd", -5.0, -10.0, 0.0),
        struct.pack(">ddd", 0.0, 10.0, float("nan")),
        struct.pack(">ddd", 0.0, 10.0, -1.0),
    ],
)
def test_foreign_value_counts_as_a_full_bucket(script: Script, value: bytes) -> None:
    """A value that is none of ours is a full bucket, and harms no other in the batch."""
    script.client.flushall()
    script.client.set(b"a", value)
    meter = bucket(2, 2, 2)
    assert script.batch([[Hit(b"a", meter, 1)], [Hit(b"b", meter, 3)]], 0) == [
        Answer(granted=True, levels=(Level(fits=True, remaining=1, reset=1),)),
        Answer(granted=False, levels=(Level(fits=False, remaining=2, reset=1, wait=1),)),
    ]
    assert script.state(b"a", meter) == State(meter.part, meter.capacity, 0)
    assert script.state(b"b", meter) is None


@pytest.mark.parametrize("value", [b"", b"7", b"x" * 16, b"\xff" * 16, struct.pack(">dd", float("nan"), 0.0)])
def test_foreign_value_counts_as_an_unused_window(script: Script, value: bytes) -> None:
    """A value that is none of ours is a window of which nothing was used, and becomes one."""
    script.client.flushall()
    script.client.set(b"a", value)
    window = FixedWindow(2, 60_000_000)
    assert script.batch([[Hit(b"a", window, 1)]], 0)[0].levels[0].remaining == 1
    assert script.state(b"a", window) == Used(1, 0)


def test_value_of_another_type_counts_as_a_full_bucket(script: Script) -> None:
    """A key that holds no string is a full bucket, and becomes one."""
    script.client.flushall()
    script.client.hset("a", "field", "value")
    assert script.batch([[Hit(b"a", bucket(2, 2, 2), 1)]], 0)[0].granted
    assert script.client.type(b"a") == b"string"


def test_value_from_the_future_for_ever_is_rebased(script: Script) -> None:
    """A stored time without end, too, counts as a clock that stepped back."""
    script.client.flushall()
    meter = bucket(2, 2, 2)
    script.client.set(b"a", struct.pack(">ddd", 0.0, float(meter.capacity), float("inf")))
    assert not script.batch([[Hit(b"a", meter, 1)]], 5_000_000)[0].granted
    assert script.batch([[Hit(b"a", meter, 1)]], 6_000_000)[0].granted


def test_batch_without_hits_runs(script: Script) -> None:
    """A batch of one empty group runs and is granted."""
    assert script.batch([[]], 0) == [Answer(granted=True, levels=())]


def test_longest_group_runs(script: Script) -> None:
    """The longest group that a store takes runs in one script, also where each hit has two numbers in the reply."""
    script.client.flushall()
    hits = [Hit(b"%d" % number, SlidingWindow(2, 60_000_000), 1) for number in range(LONGEST)]
    assert script.batch([hits], NOW) == [Book().transact(hits, NOW)]
    assert script.client.dbsize() == LONGEST


def left(script: Script, key: bytes = b"a") -> int:
    return script.batch([[Hit(key, TEN, 0, look=True)]], NOW)[0].levels[0].remaining


def test_charges_of_one_number_are_made_once(script: Script) -> None:
    """Sent again under the same number charges and refunds are left out; under the next they are made."""
    script.client.flushall()
    charge, refund = Hit(b"a", TEN, 3, Role.CHARGE), Hit(b"a", TEN, 1, Role.REFUND)
    for _ in range(3):
        script.batch([[charge, refund]], NOW, number=1)
    assert left(script) == 8
    script.batch([[charge]], NOW, number=2)
    assert left(script) == 5
    script.batch([[charge]], NOW, number=1)
    assert left(script) == 5
    assert script.client.get(MARK) == b"2"


def test_number_concerns_charges_only(script: Script) -> None:
    """What takes is taken again: only charges are made once."""
    script.client.flushall()
    hits = [Hit(b"a", TEN, 3, Role.CHARGE), Hit(b"b", TEN, 1)]
    for _ in range(2):
        assert script.batch([hits], NOW, number=1)[0].granted
    assert (left(script), left(script, b"b")) == (7, 8)


def test_mark_is_forgotten_in_time(script: Script) -> None:
    """A mark lives for a day, counted from the last charges made under it: nobody sends them again for so long."""
    script.client.flushall()
    script.batch([[]], NOW, number=1)
    ttl = script.client.pttl(MARK)
    assert isinstance(ttl, int)
    assert 86_000_000 < ttl <= 86_400_000


def test_mark_that_is_none_counts_as_missing(script: Script) -> None:
    """A mark that holds no number is written anew: charges are made rather than lost."""
    script.client.flushall()
    script.client.set(MARK, "none")
    for _ in range(2):
        script.batch([[Hit(b"a", TEN, 3, Role.CHARGE)]], NOW, number=1)
    assert left(script) == 7


@pytest.mark.parametrize("size", [(1, 1, 1), (2**32 - 1, 31_536_000, 2**32 - 1)])
def test_debt_ends_where_numbers_do(script: Script, size: tuple[int, int, int]) -> None:
    """However much is charged, a bucket stays a bucket."""
    script.client.flushall()
    meter, book = made(size), Book()
    for _ in range(3):
        hits = [Hit(b"a", meter, 2**64 - 1, Role.CHARGE)]
        assert script.batch([hits], NOW) == [book.transact(hits, NOW)]
    assert script.state(b"a", meter) == book.states[b"a"]
