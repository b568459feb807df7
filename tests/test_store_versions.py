"""The oldest and the newest Redis do as those that all other tests are run on."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucket_script import Script
from buckets import NOW, VECTORS, Wanted, as_hits, groups, meters, moves, told, vector_hits
from genops_extauth.hits import Book, Meter
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_habits import habits
from genops_extauth.redis_store import RedisStore
from genops_extauth.store_address import target
from spending import charge, spent, take
from stores import OTHERS, PATIENT, Server, recovered, running, until


@pytest.fixture(scope="module", params=OTHERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_script_answers_as_the_vectors_say(client: redis.Redis, case: dict[str, Any]) -> None:
    """The script gives every vector's answer."""
    script, limits = Script(client), dict(case["buckets"])
    for step in case["steps"]:
        limits |= step.get("become", {})
        answer = script.batch([vector_hits(step, limits)], step["at"])[0]
        assert told(answer) == (step["granted"], [tuple(each) for each in step["levels"]]), step


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(meters, st.lists(st.tuples(moves, groups), max_size=8))
def test_script_equals_the_reference(
    client: redis.Redis, limits: dict[bytes, Meter], steps: list[tuple[int, list[Wanted]]]
) -> None:
    """On any group at any time script and reference answer and store the same."""
    client.flushall()
    script, book, now = Script(client), Book(), NOW
    for move, group in steps:
        now += move
        hits = as_hits(group, limits)
        assert script.batch([hits], now) == [book.transact(hits, now)]
        for key, meter in limits.items():
            assert script.state(key, meter) == book.states.get(key)


@pytest.mark.parametrize(
    ("bad", "good", "kind"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read_only"),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "full"),
        (
            ("ACL", "SETUSER", "default", "-set"),
            ("ACL", "SETUSER", "default", "+set"),
            "refused",
        ),
    ],
)
async def test_faults_are_known_and_end(
    client: redis.Redis, server: Server, bad: tuple[str, ...], good: tuple[str, ...], kind: str
) -> None:
    """A server that takes no writes is known to, and what it was to be charged meanwhile is charged once it does."""
    store = RedisStore(target(server.url), habits(timeout=PATIENT))
    await store.ping()
    client.execute_command(*bad)  # type: ignore[no-untyped-call] # redis-py leaves it bare
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=f"^{kind}: "):
            await store.ping()
    assert not store.usable
    assert (await store.transact([charge("a", 7)])).granted
    client.execute_command(*good)  # type: ignore[no-untyped-call] # as above
    await recovered(store)
    await until(lambda: not store.owed())
    assert await spent(store, "a") == 7
    await store.close()


async def test_forgotten_script_is_loaded_again(client: redis.Redis, server: Server) -> None:
    """A server that forgot the script is sent it again, and each request counts once."""
    store = RedisStore(target(server.url), habits(timeout=PATIENT))
    for _ in range(3):
        client.script_flush()
        answers = await asyncio.gather(*(store.transact([take("a")]) for _ in range(5)))
        assert all(answer.granted for answer in answers)
    assert await spent(store, "a") == 15
    await store.close()
