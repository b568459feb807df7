"""What is revoked in one place is refused everywhere: the list in a real store, and the processes that follow it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from genops_extauth.model import Identity, StoreUnavailable
from genops_extauth.revocation_feed import PERIOD, Feed
from genops_extauth.revocation_store import RevocationStore
from genops_extauth.revocations import FOREVER, Denylist, Entry, Handle, handle
from genops_extauth.store_address import target
from genops_extauth.store_client import open_client
from stores import OTHERS, SERVERS, VALKEY, Server, running, until
from topologies import clustered

ISSUER = "https://auth.example.com"
TOKEN = Identity(ISSUER, "alice", {}, 2e9, credential_id="t-1")
TOKEN_ID = handle("token_id", "t-1", ISSUER)


@pytest.fixture(scope="module", params=[*SERVERS, *OTHERS])
def shared(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    with shared.client() as client:
        client.flushall()
    return shared


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that a test may do anything to."""
    with running(VALKEY) as server:
        yield server


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RevocationStore]:
    client = open_client(target(url), 2.0)
    try:
        yield RevocationStore(client, **options)
    finally:
        await client.aclose()


class Follower:
    """A process that follows the list; `said` is what operators are told."""

    def __init__(self, store: RevocationStore, *, max_wait: float = 60.0) -> None:
        self.known = Denylist()
        self.now = time.time()
        self.said: list[StoreUnavailable | None] = []
        self.feed = Feed(
            store,
            self.known,
            wall=lambda: self.now,
            monotonic=time.monotonic,
            max_wait=max_wait,
            tell=self.said.append,
        )

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        running_feed = asyncio.create_task(self.feed.run())
        try:
            await until(lambda: self.feed.statistics().complete)
            yield
        finally:
            running_feed.cancel()
            await asyncio.wait([running_feed])


KEYS = ("genops:{revocations}:ends", "genops:{revocations}:changes")


def sizes(server: Server) -> list[int]:
    with server.client() as client:
        return [int(client.zcard(key)) for key in KEYS]


def later(handle: Handle, seconds: float = 3600.0) -> Entry:
    return Entry(handle, time.time() + seconds)


async def test_two_processes_hear_of_it_within_a_second(server: Server) -> None:
    """A revoked token is refused by every process within a second, and passes again when it is restored."""
    async with opened(server.url) as writer, opened(server.url) as first, opened(server.url) as second:
        followers = [Follower(first), Follower(second)]
        async with followers[0].following(), followers[1].following():
            assert not any(each.known.includes(TOKEN) for each in followers)
            await writer.add(later(TOKEN_ID))
            revoked_at = time.monotonic()
            await until(lambda: all(each.known.includes(TOKEN) for each in followers))
            assert time.monotonic() - revoked_at < 2 * PERIOD + 1.0  # the second, and one more for a busy machine
            assert await writer.remove(TOKEN_ID) == 1
            await until(lambda: not any(each.known.includes(TOKEN) for each in followers))


async def test_one_look_is_enough(server: Server) -> None:
    """Whatever was done before a question is in its answer: nothing waits for a second one."""
    async with opened(server.url) as store:
        follower = Follower(store)
        await follower.feed.look()
        for step in range(3):
            await store.add(later(TOKEN_ID))
            await follower.feed.look()
            assert follower.known.includes(TOKEN), step
            await store.remove(TOKEN_ID)
            await follower.feed.look()
            assert not follower.known.includes(TOKEN), step


async def test_a_process_that_starts_reads_all(server: Server) -> None:
    """A list of more than a page is read whole, and what changes is read without the rest."""
    async with opened(server.url, page=10) as store:
        await store.add(*(later(handle("token_id", str(number))) for number in range(95)))
        await store.remove(*(handle("token_id", str(number)) for number in range(5)))
        follower = Follower(store)
        await follower.feed.look()
        assert len(follower.known) == 90
        position = (await store.changes(0)).position
        assert (await store.changes(position)).position > position
        assert len(await store.entries()) == 90


async def test_a_page_of_changes_is_all_that_is_read(server: Server) -> None:
    """A reader that is up to date is told nothing, and after a change that change only."""
    async with opened(server.url) as store:
        await store.add(*(later(handle("token_id", str(number))) for number in range(20)))
        position = (await store.changes(0)).position
        assert await store.changes(position) == (position, (), True)
        await store.add(Entry(TOKEN_ID, FOREVER))
        assert (await store.changes(position)).found == ((TOKEN_ID, FOREVER),)


async def test_what_is_over_is_dropped(server: Server) -> None:
    """An entry whose time is over is in no list and takes no memory, neither here nor in the store."""
    async with opened(server.url) as store:
        follower = Follower(store)
        await store.add(later(TOKEN_ID), Entry(handle("api_key", "k"), time.time() + 1.5))
        await follower.feed.look()
        assert len(follower.known) == 2
        follower.now += 7200
        await follower.feed.look()
        assert len(follower.known) == 0
        async with asyncio.timeout(10):
            while sizes(server) != [1, 1]:
                await store.changes(0)


async def test_an_end_is_never_brought_forward(server: Server) -> None:
    """Who revokes what is revoked already can prolong it, not shorten it."""
    async with opened(server.url) as store:
        far, near = later(TOKEN_ID, 7200.0), later(TOKEN_ID, 60.0)
        await store.add(far)
        await store.add(near)
        (found,) = await store.entries()
        assert far.until <= found.until < far.until + 1
        await store.add(Entry(TOKEN_ID, FOREVER))
        await store.add(far)
        assert await store.entries() == [Entry(TOKEN_ID, FOREVER)]


async def test_removing_can_be_repeated(server: Server) -> None:
    """Removing again what was removed finds it, as after an answer that was lost; what never was is not found."""
    async with opened(server.url) as store:
        await store.add(later(TOKEN_ID))
        assert await store.remove(TOKEN_ID) == 1
        assert await store.remove(TOKEN_ID) == 1
        assert await store.remove(handle("api_key", "never")) == 0
        assert await store.entries() == []


async def test_lost_data_let_nobody_pass(server: Server) -> None:
    """What the store forgets stays refused where it is known, and what is revoked next is heard of all the same."""
    async with opened(server.url) as store:
        follower = Follower(store)
        await store.add(*(later(handle("token_id", str(number))) for number in range(5)), later(TOKEN_ID))
        await follower.feed.look()
        with server.client() as client:
            client.flushall()
        await follower.feed.look()
        assert follower.known.includes(TOKEN)
        await store.add(later(handle("subject", "bob")))
        await follower.feed.look()
        assert follower.known.includes(Identity(ISSUER, "bob", {}, 2e9))
        assert len(follower.known) == 7


async def test_a_replica_that_lacks_the_latest(server: Server) -> None:
    """After a failover to a replica that lacks the latest, and whose clock is slow, all of the list is read again."""
    async with opened(server.url) as store:
        follower = Follower(store)
        await store.add(later(handle("token_id", "a")))
        last = (await store.changes(0)).position
        await store.add(later(handle("token_id", "b")))
        await follower.feed.look()
        with server.client() as client:
            for key in KEYS:
                client.zrem(key, '+["token_id","","b"]')
            client.zadd(KEYS[0], {'+["token_id","","c"]': 2e9})
            client.zadd(KEYS[1], {'+["token_id","","c"]': last + 1})
            client.set("genops:{revocations}:last", last + 1)
        await follower.feed.look()
        assert [each.handle.value for each in await store.entries()] == ["a", "c"]
        assert len(follower.known) == 3


async def test_strangers_data_is_left_out(server: Server) -> None:
    """A member that nobody of us wrote is passed over, and one without an end has none."""
    async with opened(server.url) as store:
        with server.client() as client:
            strange = ["", "+", "+7", '+["a"]', '+["x","",""]', "+[[],1,2]", '+["api_key","","k"]']
            client.zadd(KEYS[1], {member: 1 + at for at, member in enumerate(strange)})
            client.set("genops:{revocations}:last", 9)
        assert await store.entries() == [Entry(handle("api_key", "k"), FOREVER)]


async def test_an_outage_takes_nothing_back(own: Server) -> None:
    """While the store is away what is known stays refused until its time is over; operators hear of it once."""
    async with opened(own.url) as store:
        follower = Follower(store)
        await store.add(later(TOKEN_ID))
        await follower.feed.look()
        own.stop()
        await follower.feed.look()
        await follower.feed.look()
        assert follower.known.includes(TOKEN)
        assert [isinstance(each, StoreUnavailable) for each in follower.said] == [True]
        assert follower.feed.statistics().failures == 2
        assert follower.feed.statistics().age_seconds > 0
        follower.now += 7200
        await follower.feed.look()
        assert not follower.known.includes(TOKEN)
        own.start()
        await follower.feed.look()
        assert follower.said[1:] == [None]


async def test_a_start_without_a_store_waits_and_then_serves(own: Server) -> None:
    """Without a list it is not ready, until it was waited for long enough; the figures say that it was never read."""
    own.stop()
    async with opened(own.url) as store:
        patient, hasty = Follower(store, max_wait=60.0), Follower(store, max_wait=0.0)
        await patient.feed.look()
        assert not patient.feed.ready
        assert hasty.feed.ready
        assert not hasty.feed.statistics().complete
        own.start()
        await patient.feed.look()
        assert patient.feed.ready
        assert patient.feed.statistics().complete


async def test_a_cluster_keeps_it_too() -> None:
    """All keys share a slot, wherever it is."""
    with clustered(VALKEY, primaries=3) as cluster:
        async with opened(cluster.url) as store:
            await store.add(Entry(TOKEN_ID, FOREVER))
            assert await store.entries() == [Entry(TOKEN_ID, FOREVER)]
            assert await store.remove(TOKEN_ID) == 1
