import asyncio
import struct
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buckets import VECTORS, Book, costs, gaps, hits, three
from genops_extauth.bucket import Answer, Hit, Level, Operation, Shape, State, level, shape
from genops_extauth.redis_batch import Asked, Batch
from stores import SERVERS, running

SCRIPT = (files("genops_extauth") / "bucket.lua").read_text()
CLOCK = "local clock = redis.call('TIME')"
Group = tuple[Operation, Sequence[Hit]]


class Script:
    """The script in a real server, with its one line that reads the clock replaced by an argument."""

    def __init__(self, client: redis.Redis) -> None:
        assert SCRIPT.count(CLOCK) == SCRIPT.count("TIME") == 1
        self.client = client
        self._run = client.register_script(SCRIPT.replace(CLOCK, "local clock = {ARGV[2], ARGV[3]}"))

    def batch(self, groups: Sequence[Group], now: int) -> list[Answer]:
        loop = asyncio.new_event_loop()
        try:
            asked = [Asked(operation, group, 0.0, loop.create_future()) for operation, group in groups]
            batch = Batch()
            for each in asked:
                batch.add(each)
            batch.resolve(self._run(batch.keys(), [batch.numbers(), *divmod(now, 1_000_000)]))
            return [each.answer.result() for each in asked]
        finally:
            loop.close()

    def states(self, keys: Sequence[bytes]) -> dict[bytes, State]:
        values = dict(zip(keys, self.client.mget(keys), strict=True))
        return {
            key: State(*map(int, struct.unpack(">ddd", value)))
            for key, value in values.items()
            if isinstance(value, bytes)
        }


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
        operation = Operation.ACQUIRE if "acquire" in step else Operation.PEEK
        group = [Hit(name.encode(), shape(*limits[name]), cost) for name, cost in step.get("acquire") or step["peek"]]
        told = script.batch([(operation, group)], step["at"])
        assert told == [Answer(step["granted"], tuple(Level(*each) for each in step["levels"]))], step


groups = st.lists(st.tuples(st.sampled_from(Operation), hits), max_size=5)
moves = st.one_of(gaps, st.integers(-(10**7), 0))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(three, min_size=1, max_size=2), st.lists(st.tuples(moves, groups), max_size=8))
def test_script_equals_the_reference(
    script: Script, made: list[dict[bytes, Shape]], batches: list[tuple[int, list[tuple[Operation, Any]]]]
) -> None:
    """On any batches at any times, while limits change, script and reference answer and store the same."""
    script.client.flushall()
    book, now = Book(), 10**15
    for number, (move, asked) in enumerate(batches):
        now += move
        shapes = made[number % len(made)]
        batch = [(operation, [Hit(key, shapes[key], cost) for key, cost in group]) for operation, group in asked]
        expected = [
            (book.acquire if operation is Operation.ACQUIRE else book.peek)(group, now) for operation, group in batch
        ]
        assert script.batch(batch, now) == expected
        assert script.states(list(shapes)) == book.states


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(three, costs)
def test_state_lives_until_the_bucket_is_full(script: Script, shapes: dict[bytes, Shape], cost: int) -> None:
    """A stored bucket expires when it would be full again, a second of slack and 2^53 ms at most."""
    script.client.flushall()
    made = shapes[b"a"]
    script.batch([(Operation.ACQUIRE, [Hit(b"a", made, cost)])], 0)
    state = script.states([b"a"]).get(b"a")
    ttl = script.client.pttl(b"a")
    assert isinstance(ttl, int)
    if state is None:
        assert ttl == -2
        return
    milliseconds = -(-(made.capacity - level(made, state, 0)) // made.refill) * made.tick / 1_000
    # The server counts down meanwhile: half a second is far more than that takes.
    assert min(milliseconds + 500, 2**53 - 500) <= ttl <= milliseconds + 1_002


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
    made = shape(2, 2, 2)
    told = script.batch([(Operation.ACQUIRE, [Hit(b"a", made, 1)]), (Operation.ACQUIRE, [Hit(b"b", made, 3)])], 0)
    assert told == [
        Answer(granted=True, levels=(Level(fits=True, remaining=1, reset=1),)),
        Answer(granted=False, levels=(Level(fits=False, remaining=2, reset=1),)),
    ]
    assert script.states([b"a", b"b"]) == {b"a": State(made.part, made.capacity, 0)}


def test_value_of_another_type_counts_as_a_full_bucket(script: Script) -> None:
    """A key that holds no string is a full bucket, and becomes one."""
    script.client.flushall()
    script.client.hset("a", "field", "value")
    made = shape(2, 2, 2)
    assert script.batch([(Operation.ACQUIRE, [Hit(b"a", made, 1)])], 0)[0].granted
    assert script.client.type(b"a") == b"string"


def test_value_from_the_future_for_ever_is_rebased(script: Script) -> None:
    """A stored time without end, too, counts as a clock that stepped back."""
    script.client.flushall()
    made = shape(2, 2, 2)
    script.client.set(b"a", struct.pack(">ddd", 0.0, float(made.capacity), float("inf")))
    assert not script.batch([(Operation.ACQUIRE, [Hit(b"a", made, 1)])], 5_000_000)[0].granted
    assert script.batch([(Operation.ACQUIRE, [Hit(b"a", made, 1)])], 6_000_000)[0].granted


def test_batch_without_hits_runs(script: Script) -> None:
    """A batch of one empty group, which is a ping, runs and is granted."""
    assert script.batch([(Operation.PEEK, [])], 0) == [Answer(granted=True, levels=())]
