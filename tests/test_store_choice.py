import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from genops_extauth.bucket import bucket
from genops_extauth.cluster import RedisCluster
from genops_extauth.hits import Hit, Role
from genops_extauth.journal import Owed
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_habits import habits
from genops_extauth.redis_store import RedisStore
from genops_extauth.store_address import target
from genops_extauth.store_choice import PerSecondStore, store_at
from stores import PATIENT, VALKEY, Server, recovered, running

TEN = bucket(10, 10**6)


def hit(key: str, cost: int = 1) -> Hit:
    return Hit(key.encode(), TEN, cost)


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    with running(VALKEY) as one, running(VALKEY) as two:
        yield one, two


@pytest.fixture
async def both(servers: tuple[Server, Server]) -> AsyncIterator[PerSecondStore]:
    one, two = (store_at(target(server.url), habits(timeout=PATIENT)) for server in servers)
    store = PerSecondStore(one, two)
    yield store
    await store.close()


def keys(server: Server) -> set[bytes]:
    with server.client() as client:
        return {key for key in client.scan_iter("a*") if isinstance(key, bytes)}


async def test_address_says_which_store() -> None:
    """A cluster's address makes a cluster's store, all others the plain one."""
    for url, kind in (
        ("redis+cluster://a", RedisCluster),
        ("redis+sentinel://a/m", RedisStore),
        ("redis://a", RedisStore),
    ):
        store = store_at(target(url), habits())
        assert type(store) is kind
        assert store.address == target(url).address
        await store.close()


async def test_limits_per_second_have_their_own_store(both: PerSecondStore, servers: tuple[Server, Server]) -> None:
    """Keys of limits per second live in the second store, all others in the first."""
    for name in ("a:tb1", "a:fw1", "a:sw1", "a:tb60", "a:fw11", "a:tb10"):
        assert (await both.transact([hit(name)])).granted
    assert keys(servers[0]) == {b"a:tb60", b"a:fw11", b"a:tb10"}
    assert keys(servers[1]) == {b"a:tb1", b"a:fw1", b"a:sw1"}


async def test_group_over_both_stores_takes_all_or_nothing(both: PerSecondStore) -> None:
    """A group over both stores is granted where both do, and takes nothing where one refuses."""
    assert (await both.transact([hit("a:tb1", 3), hit("a:tb60", 4)])).granted
    refused = await both.transact([hit("a:tb60", 5), hit("a:tb1", 8)])
    assert not refused.granted
    assert [(level.fits, level.remaining) for level in refused.levels] == [(True, 6), (False, 7)]


async def test_both_stores_are_asked_told_and_settled(both: PerSecondStore, servers: tuple[Server, Server]) -> None:
    """Pings, statistics and what is owed are those of both stores."""
    await both.ping()
    assert both.usable
    assert both.statistics().scripts == 2
    await asyncio.to_thread(servers[1].stop)
    while both.usable:
        with contextlib.suppress(StoreUnavailable):
            await both.ping()
    assert (await both.transact([hit("a:tb1")._replace(role=Role.CHARGE)])).granted
    assert both.owed() == Owed(keys=1, charges=1)
    await asyncio.to_thread(servers[1].start)
    await recovered(both)
    assert both.usable
    assert repr(both) == f"PerSecondStore({both.address})"
