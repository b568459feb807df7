import asyncio
import contextlib
from collections.abc import Iterator

import pytest
import redis

from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_habits import habits
from genops_extauth.redis_store import RedisStore
from genops_extauth.store_address import target
from proxy import before
from spending import charge, spent, take
from stores import PATIENT, SERVERS, VALKEY, free_port, recovered, until
from topologies import MASTER, Watched, command, named, watched


@pytest.fixture(params=SERVERS)
def several(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched(request.param) as found:
        yield found


async def test_failover_under_load_loses_no_more_than_itself(several: Watched) -> None:
    """When the primary dies under load the store follows its sentinels to the new one, and loses what only it knew.

    What was answered before the failover began, and had reached the replica, is there; every charge since is made once.
    """
    told: list[str] = []
    store = RedisStore(target(several.url), habits(timeout=0.3, tell=told.append))
    stopping = asyncio.Event()
    granted = charged = 0

    async def traffic() -> None:
        nonlocal granted, charged
        while not stopping.is_set():
            with contextlib.suppress(StoreUnavailable):
                answer = await store.transact([take("a")])
                granted += answer.granted
            assert (await store.transact([charge("b")])).granted
            charged += 1
            await asyncio.sleep(0.002)

    await recovered(store)
    running = [asyncio.ensure_future(traffic()) for _ in range(4)]
    await until(lambda: granted > 100)
    old = several.primary()
    sure = granted, charged
    assert await asyncio.to_thread(command, old, "WAIT", 1, 10_000) == 1
    old.stop()
    killed = granted, charged
    await until(lambda: not store.usable)
    await until(lambda: named(several.sentinels[0]) != old.port)
    await recovered(store)
    since = granted
    await until(lambda: granted > since + 100)
    stopping.set()
    await asyncio.gather(*running)
    await until(lambda: not store.owed())

    taken, made = await spent(store, "a"), await spent(store, "b")
    # Lost may be what the old one answered after the WAIT, and nothing else.
    assert charged - (killed[1] - sure[1]) <= made <= charged
    assert granted - (killed[0] - sure[0]) <= taken
    await store.close()


async def test_failover_on_command_is_followed(several: Watched) -> None:
    """A primary that is made a replica on purpose costs some requests at most; nobody writes to it any more."""
    told: list[str] = []
    store = RedisStore(target(several.url), habits(timeout=PATIENT, tell=told.append))
    await recovered(store)
    old = several.primary()
    port = several.sentinels[0]
    with redis.Redis(port=port) as client:
        client.sentinel_failover(MASTER)
    await until(lambda: named(port) != old.port)
    await recovered(store)
    async with asyncio.timeout(PATIENT):
        while True:
            with contextlib.suppress(StoreUnavailable):
                assert (await store.transact([take("a")])).granted
                break
    assert several.primary().port != old.port
    await store.close()


async def test_primary_that_only_the_sentinels_left_is_left() -> None:
    """A primary that still serves us, but no longer is the one, is left once the sentinels say so."""
    with watched(VALKEY) as several:
        old = several.primary()
        other = next(server for server in several.servers if server is not old)
        told: list[str] = []
        store = RedisStore(target(several.url), habits(timeout=PATIENT, tell=told.append))
        await recovered(store)
        sentinels = store._sentinels
        assert sentinels is not None
        for port in several.sentinels:  # as after a failover that the old primary never heard of
            command_sentinel(port, "REMOVE", MASTER)
            command_sentinel(port, "MONITOR", MASTER, "127.0.0.1", other.port, 2)
        command(other, "REPLICAOF", "NO", "ONE")
        await until(lambda: bool(told))
        assert told == [f"the primary of {store.address} is 127.0.0.1:{other.port} now"]
        await store.transact([take("a")])
        with other.client() as client:
            assert client.exists(take("a").key) == 1
        await store.close()


def command_sentinel(port: int, *words: str | int) -> None:
    with redis.Redis(port=port) as client:
        client.execute_command("SENTINEL", *words)


async def test_passwords_of_sentinels_and_servers_differ() -> None:
    """The sentinels have their own password, and a wrong one is told."""
    with watched(VALKEY, password="inner", sentinel_password="outer") as several:
        good = RedisStore(target(several.url, password="inner", sentinel_password="outer"), habits(timeout=PATIENT))
        await good.ping()
        await good.close()
        for bad in (target(several.url, password="inner"), target(several.url, sentinel_password="outer")):
            store = RedisStore(bad, habits(timeout=PATIENT))
            with pytest.raises(StoreUnavailable, match=r"^refused: .*check the user and password"):
                await store.ping()
            await store.close()


async def test_sentinels_are_asked_in_turn() -> None:
    """A sentinel that is not there, or says nothing, is passed over; one that knows is asked first from then on."""
    with watched(VALKEY) as several:
        async with before(several.sentinels[0]) as mute:
            mute.answering.clear()
            ports = [free_port(), int(mute.url.rpartition(":")[2]), several.sentinels[1]]
            url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{MASTER}"
            store = RedisStore(target(url), habits(timeout=PATIENT))
            await store.ping()
            assert store._sentinels is not None
            assert store._sentinels._hosts[0].port == several.sentinels[1]
            await store.close()
        unknown = RedisStore(
            target(f"redis+sentinel://127.0.0.1:{several.sentinels[0]}/other"), habits(timeout=PATIENT)
        )
        with pytest.raises(StoreUnavailable, match=r"^unreachable: .*no sentinel knows a primary named other"):
            await unknown.ping()
        await unknown.close()
