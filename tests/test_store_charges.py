"""Charges and refunds are made exactly once, whatever happens between the store and its server."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from genops_extauth.hits import Origin, Role
from genops_extauth.journal import Owed
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_habits import habits
from genops_extauth.redis_store import RedisStore
from genops_extauth.store_address import target
from proxy import Proxy, before
from spending import charge, refund, spent, take
from stores import PATIENT, VALKEY, Server, recovered, running, until


@pytest.fixture
async def proxy(valkey: Server) -> AsyncIterator[Proxy]:
    async with before(valkey.path) as proxy:
        yield proxy


async def settled(store: RedisStore) -> None:
    await recovered(store)
    await until(lambda: not store.owed())


async def test_charge_whose_answer_was_lost_is_made_once(proxy: Proxy, valkey: Server) -> None:
    """A charge that the server made, and whose answer never came, is sent again, and not made again."""
    store = RedisStore(target(proxy.url), habits(timeout=0.2))
    await recovered(store)
    proxy.answering.clear()
    answer = await store.transact([charge("a", 5)], 0.02)
    assert answer.granted
    assert answer.origin is Origin.ALLOWANCE
    assert store.owed() == Owed(keys=1, charges=5)
    other = RedisStore(target(valkey.url), habits(timeout=PATIENT))
    while await spent(other, "a") != 5:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.005)
    sent = proxy.asked
    await proxy.cut()
    proxy.answering.set()
    await settled(store)
    assert proxy.asked > sent
    assert await spent(other, "a") == 5
    await store.close()
    await other.close()


async def test_charge_that_was_never_sent_is_made_later(proxy: Proxy) -> None:
    """Charges of an outage are added up by key, and made when it ends."""
    store = RedisStore(target(proxy.url), habits(timeout=PATIENT))
    await store.transact([charge("a", 100)])
    await proxy.refuse()
    while store.usable:
        with pytest.raises(StoreUnavailable):
            await store.transact([take("t")])
    for hit in (charge("a", 7), refund("a", 2), charge("b", 3), refund("a", 1), refund("c", 5)):
        assert (await store.transact([hit])).granted
    assert store.owed() == Owed(keys=3, charges=7, refunds=5)
    await proxy.listen()
    await settled(store)
    assert [await spent(store, key) for key in "abc"] == [104, 3, 0]
    await store.close()


@pytest.mark.parametrize("ticks", range(1, 30, 3))
async def test_charge_whose_caller_went_away_is_made(server: Server, ticks: int) -> None:
    """Cancelled at any point, a charge is made once; what else its group asked for may be skipped."""
    store = RedisStore(target(server.url), habits(timeout=PATIENT))
    leaving = asyncio.ensure_future(store.transact([charge("a", 5), take("b")]))
    for _ in range(ticks):
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    await until(lambda: not store.owed())
    assert await spent(store, "a") == 5
    assert await spent(store, "b") <= 1
    await store.close()


async def test_charge_is_made_although_its_group_fails(proxy: Proxy) -> None:
    """Where a group that takes and charges fails, the caller is told, and its charges are made nevertheless."""
    store = RedisStore(target(proxy.url), habits(timeout=0.2))
    await recovered(store)
    await proxy.refuse()
    with pytest.raises(StoreUnavailable):
        await store.transact([take("a"), charge("b", 4), refund("c", 1)])
    assert store.owed() == Owed(keys=2, charges=4, refunds=1)
    await proxy.listen()
    await settled(store)
    assert [await spent(store, key) for key in "abc"] == [0, 4, 0]
    await store.close()


async def test_look_at_a_charge_owes_nothing(proxy: Proxy) -> None:
    """A charge or refund that only looks is not made later."""
    store = RedisStore(target(proxy.url), habits(timeout=0.2))
    await recovered(store)
    await proxy.refuse()
    await store.transact([charge("a")._replace(look=True)])
    assert not store.owed()
    await store.close()


async def test_too_many_charges_are_dropped_loudly(proxy: Proxy) -> None:
    """What a full journal cannot keep fails, is counted, and is told once; keys that it knows go on."""
    told: list[str] = []
    store = RedisStore(target(proxy.url), habits(timeout=PATIENT, tell=told.append))
    store._node._debts.journal.largest = 3
    await proxy.refuse()
    while store.usable:
        with pytest.raises(StoreUnavailable):
            await store.transact([take("t")])
    for key in "abcab":
        assert (await store.transact([charge(key, 2)])).granted
    for key in "de":
        with pytest.raises(StoreUnavailable, match=r"^open: "):
            await store.transact([charge(key, 9)])
    assert store.statistics().dropped == Owed(keys=2, charges=18)
    assert store.owed() == Owed(keys=3, charges=10)
    assert len([text for text in told if "are lost" in text]) == 1
    await store.close()


async def test_close_settles_within_its_grace(proxy: Proxy) -> None:
    """Closing waits for the server as long as it may, and then tells what could not be charged."""
    for returns in (True, False):
        store = RedisStore(target(proxy.url), habits(timeout=0.5))
        await proxy.refuse()
        await store.transact([charge("a", 5)])
        closing = asyncio.ensure_future(store.close(grace=PATIENT if returns else 0.2))
        if returns:
            await proxy.listen()
        assert await closing == (Owed() if returns else Owed(keys=1, charges=5))
        with pytest.raises(StoreUnavailable, match=r"^closed: "):
            await store.transact([charge("a", 1)])
        assert store.statistics().dropped == Owed(keys=1, charges=1)
        await proxy.refuse()
        await proxy.listen()
    store = RedisStore(target(proxy.url), habits(timeout=PATIENT))
    assert await spent(store, "a") == 5
    await store.close()


async def trouble(proxy: Proxy, chance: random.Random) -> None:
    """Break the network in one of the ways in which it breaks, for a moment."""
    match chance.randrange(4):
        case 0:
            await proxy.cut()
        case 1:
            await proxy.refuse()
            await asyncio.sleep(chance.random() * 0.05)
            await proxy.listen()
        case 2:
            proxy.answering.clear()
            await asyncio.sleep(chance.random() * 0.1)
            await proxy.cut()
            proxy.answering.set()
        case 3:
            proxy.asking.clear()
            await asyncio.sleep(chance.random() * 0.1)
            proxy.asking.set()


@pytest.mark.parametrize("seed", range(3))
async def test_charges_are_exact_over_a_broken_network(proxy: Proxy, valkey: Server, seed: int) -> None:
    """However often the network breaks, what was charged and refunded is what the server counts, to the token."""
    chance = random.Random(seed)
    store = RedisStore(target(proxy.url), habits(timeout=0.05))
    due = {"a": 1_000, "b": 1_000}
    for key, cost in due.items():  # so that refunds do not meet the full bucket
        await store.transact([charge(key, cost)])
    stopping = asyncio.Event()

    async def traffic(worker: random.Random) -> None:
        while not stopping.is_set():
            key, cost = worker.choice("ab"), worker.randrange(1, 5)
            hit = charge(key, cost) if worker.random() < 0.7 else refund(key, cost)
            due[key] += cost if hit.role is Role.CHARGE else -cost
            try:
                await store.transact([hit] if worker.random() < 0.8 else [hit, take("t")], 0.02)
            except StoreUnavailable:
                assert hit.role >= Role.CHARGE
            await asyncio.sleep(0.001)

    running = [asyncio.ensure_future(traffic(random.Random(seed * 100 + number))) for number in range(8)]
    for _ in range(12):
        await asyncio.sleep(chance.random() * 0.05)
        await trouble(proxy, chance)
    stopping.set()
    await asyncio.gather(*running)
    await settled(store)
    await store.close()
    direct = RedisStore(target(valkey.url), habits(timeout=PATIENT))
    assert {key: await spent(direct, key) for key in due} == due
    await direct.close()


async def test_charges_are_exact_over_kills_of_a_server_that_saves() -> None:
    """A server that saves before it answers may be killed: every charge is made once."""
    with running(VALKEY, "--appendonly", "yes", "--appendfsync", "always") as server:
        store = RedisStore(target(server.url), habits(timeout=0.2))
        due, stopping = 0, asyncio.Event()

        async def traffic() -> None:
            nonlocal due
            while not stopping.is_set():
                due += 1
                assert (await store.transact([charge("a")])).granted
                await asyncio.sleep(0.001)

        running_ = [asyncio.ensure_future(traffic()) for _ in range(8)]
        for _ in range(3):
            before_ = store.statistics().scripts
            await until(lambda before_=before_: store.statistics().scripts > before_ + 50)  # type: ignore[misc] # mypy infers no default
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
        stopping.set()
        await asyncio.gather(*running_)
        await settled(store)
        assert await spent(store, "a") == due
        await store.close()


async def test_marks_are_few(server: Server) -> None:
    """Marks of charges fill no memory: one for each connection that charges, however often it does."""
    store = RedisStore(target(server.url), habits(timeout=PATIENT, in_flight=4))
    for _ in range(50):
        await asyncio.gather(*(store.transact([charge("a")]) for _ in range(4)))
    with server.client() as client:
        marks = client.keys("genops:mark:*")
        assert isinstance(marks, list)
        assert 1 <= len(marks) <= 4
    await store.close()
