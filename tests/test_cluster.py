import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.crc import key_slot

from genops_extauth.cluster import RedisCluster
from genops_extauth.cluster_map import SLOTS, place
from genops_extauth.hits import Hit, Origin, Role
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_habits import habits
from genops_extauth.redis_store import RedisStore
from genops_extauth.store_address import target
from spending import PLENTY, TOKENS, charge, spent, take
from stores import PATIENT, SERVERS, VALKEY, Server, free_port, recovered, until
from topologies import Cluster, clustered, command


@pytest.fixture(scope="module", params=SERVERS)
def shared(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with clustered(request.param) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    for node in shared.nodes:
        command(node, "FLUSHALL")
    return shared


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[RedisCluster]:
    store = RedisCluster(target(cluster.url), habits(timeout=PATIENT))
    yield store
    await store.close()


def owner(cluster: Cluster, slot: int) -> Server:
    """The node that has a slot, by the word of the first."""
    told = command(cluster.nodes[0], "CLUSTER", "SLOTS")
    assert isinstance(told, list)
    port = next(each[2][1] for each in told if each[0] <= slot <= each[1])
    return next(node for node in cluster.nodes if node.port == port)


def test_marks_have_a_place_in_each_slot() -> None:
    """For each slot there is an end of a key that puts the key into it."""
    assert all(key_slot(b"genops:mark:1:2" + place(slot)) == slot for slot in range(SLOTS))


async def test_each_request_goes_to_its_node(store: RedisCluster, cluster: Cluster) -> None:
    """Requests of one moment go to the nodes of their slots, a script per slot, and are answered one by one."""
    tags = [f"t{number}" for number in range(200)]
    answers = await asyncio.gather(*(store.transact([take(tag, number)]) for number, tag in enumerate(tags)))
    assert [answer.levels[0].remaining for answer in answers] == [TOKENS - number for number in range(200)]
    sizes = [command(node, "DBSIZE") for node in cluster.nodes]
    assert sum(size for size in sizes if isinstance(size, int)) == 199  # a cost of 0 stores nothing
    assert all(sizes)
    assert store.statistics().failures == {}


async def test_group_in_one_slot_is_atomic(store: RedisCluster) -> None:
    """Hits with one hash tag are one group: all or nothing, in one script."""
    hits = [Hit(f"genops:{{a}}:{number}".encode(), PLENTY, 1) for number in range(4)]
    assert (await store.transact(hits)).granted
    before = store.statistics().scripts
    assert not (await store.transact([*hits, hits[0]._replace(cost=10**7)])).granted
    assert store.statistics().scripts == before + 1
    look = [hit._replace(cost=0, look=True) for hit in hits]
    assert [level.remaining for level in (await store.transact(look)).levels] == [TOKENS - 1] * 4


async def test_group_over_several_slots_takes_all_or_nothing_in_the_end(store: RedisCluster) -> None:
    """Hits in several slots are asked slot by slot, and what was taken is given back when one refuses."""
    hits = [take("a"), take("b", 2), charge("c", 3)]
    answer = await store.transact(hits)
    assert answer.granted
    assert [level.remaining for level in answer.levels] == [TOKENS - 1, TOKENS - 2, TOKENS - 3]
    refused = await store.transact([take("a"), charge("c", 3), take("b", 10**7), take("d")])
    assert not refused.granted
    assert [level.fits for level in refused.levels] == [True, True, False, True]
    assert [level.remaining for level in refused.levels] == [TOKENS - 1, TOKENS - 6, TOKENS - 2, TOKENS]
    assert [await spent(store, tag) for tag in "abcd"] == [1, 2, 6, 0]


async def test_ping_asks_every_node(store: RedisCluster, cluster: Cluster) -> None:
    """A ping writes on each node, and fails where one cannot."""
    await store.ping()
    for node in cluster.nodes:
        assert len(str(command(node, "KEYS", "genops:mark:*"))) > 2
    command(cluster.nodes[1], "CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(StoreUnavailable, match=r"^full: "):
        await store.ping()
    command(cluster.nodes[1], "CONFIG", "SET", "maxmemory", 0)
    await recovered(store)


async def test_slot_that_moves_under_load_loses_nothing(store: RedisCluster, cluster: Cluster) -> None:
    """While a slot and its keys move to another node (ASK, TRYAGAIN, MOVED), takes and charges stay exact."""
    slot = key_slot(b"{a}")
    source = owner(cluster, slot)
    to = next(node for node in cluster.nodes if node is not source)
    stopping = asyncio.Event()
    granted = charged = failed = 0

    async def traffic() -> None:
        nonlocal granted, charged, failed
        while not stopping.is_set():
            try:
                answer = await store.transact([take("a")], 0.5)
                granted += answer.granted
            except StoreUnavailable:
                failed += 1
            await store.transact([Hit(b"genops:charged:{a}", PLENTY, 1, Role.CHARGE)], 0.02)
            charged += 1
            await asyncio.sleep(0.001)

    async def served() -> None:
        count = granted
        await until(lambda: granted >= count + 30)

    running = [asyncio.ensure_future(traffic()) for _ in range(4)]
    await served()
    names = [str(command(node, "CLUSTER", "MYID")) for node in (source, to)]
    command(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
    command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
    await served()
    for _ in range(20):
        keys = command(source, "CLUSTER", "GETKEYSINSLOT", slot, 100)
        assert isinstance(keys, list)
        for key in keys:
            command(source, "MIGRATE", "127.0.0.1", to.port, key, 0, 5_000)
            await asyncio.sleep(0.002)
    await served()
    command(to, "CLUSTER", "SETSLOT", slot, "NODE", names[1])
    command(source, "CLUSTER", "SETSLOT", slot, "NODE", names[1])
    await served()
    stopping.set()
    await asyncio.gather(*running)
    await until(lambda: not store.owed())
    look = Hit(b"genops:charged:{a}", PLENTY, 0, look=True)
    assert TOKENS - (await store.transact([look])).levels[0].remaining == charged
    assert await spent(store, "a") == granted
    assert failed == 0
    assert store.usable
    assert store.statistics().opened == 0


@pytest.mark.parametrize("binary", SERVERS)
async def test_failover_is_followed(binary: str) -> None:
    """When a primary dies its requests fail until its replica takes over; others are served meanwhile."""
    with clustered(binary, primaries=3, replicas=1) as cluster:
        for node in cluster.nodes:
            command(node, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        first = cluster.nodes[0]
        dying = next(f"d{number}" for number in range(100) if owner(cluster, key_slot(b"{d%d}" % number)) is first)
        living = next(f"l{number}" for number in range(100) if owner(cluster, key_slot(b"{l%d}" % number)) is not first)
        store = RedisCluster(target(cluster.url), habits(timeout=0.3))
        await recovered(store)
        await store.transact([charge(dying, 5)])
        assert await asyncio.to_thread(command, first, "WAIT", 1, 10_000) == 1
        await asyncio.to_thread(first.stop)
        due = 5
        while store.usable:
            due += 1
            assert (await store.transact([charge(dying)])).granted
        with pytest.raises(StoreUnavailable):
            await store.transact([take(dying)])
        assert (await store.transact([take(living)])).origin is Origin.STORE
        await recovered(store)
        await until(lambda: not store.owed())
        assert await spent(store, dying) == due
        assert store.usable
        await store.close()


async def test_cluster_that_is_down_is_told() -> None:
    """Where slots are served by nobody, and the cluster therefore serves none, requests fail and say so."""
    with clustered(VALKEY) as cluster:
        store = RedisCluster(target(cluster.url), habits(timeout=PATIENT))
        await store.ping()
        last = cluster.nodes[2]
        await asyncio.to_thread(last.stop)
        other = next(f"o{number}" for number in range(100) if key_slot(b"{o%d}" % number) < SLOTS // 3)
        told = ""
        async with asyncio.timeout(PATIENT):
            while not told.startswith("cluster: "):
                with contextlib.suppress(StoreUnavailable):
                    await asyncio.sleep(0.01)
                    await store.transact([take(other)])
                    continue
                told = await said(store, other)
        assert "its cluster is down or is moving keys" in told
        await asyncio.to_thread(last.start)
        await recovered(store)
        assert (await store.transact([take(other)])).granted
        await store.close()


async def said(store: RedisCluster, tag: str) -> str:
    try:
        await store.transact([take(tag)])
    except StoreUnavailable as error:
        return str(error)
    return ""


async def test_one_node_of_many_is_enough_to_know(cluster: Cluster) -> None:
    """Any node that answers tells where the others are, whatever other addresses there are."""
    nodes = f"127.0.0.1:{free_port()},127.0.0.1:{cluster.nodes[1].port}"
    store = RedisCluster(target(f"redis+cluster://{nodes}"), habits(timeout=PATIENT))
    await recovered(store)
    for tag in "abcdef":
        assert (await store.transact([take(tag)])).granted
    await store.close()


async def test_single_server_is_no_cluster(cluster: Cluster) -> None:
    """A node of a cluster that is addressed as a single server says what to write."""
    store = RedisStore(target(f"127.0.0.1:{cluster.nodes[0].port}"), habits(timeout=PATIENT))
    kinds = set()
    for tag in "abcdef":
        with contextlib.suppress(StoreUnavailable):
            await store.transact([take(tag)])
            continue
        kinds |= set(store.statistics().failures)
    assert "cluster" in kinds
    await store.close()
