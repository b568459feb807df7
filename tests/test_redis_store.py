import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from genops_extauth import redis_node, redis_queue
from genops_extauth.bucket import Bucket, bucket
from genops_extauth.hits import Answer, Hit, Level
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_faults import FAULTS
from genops_extauth.redis_habits import habits
from genops_extauth.redis_queue import BATCH
from genops_extauth.redis_store import LONGEST, RedisStore
from genops_extauth.store_address import target
from proxy import before
from stores import PATIENT, SERVERS, VALKEY, Server, free_port, recovered, running, until

TEN = bucket(10, 36_000)
"""Ten tokens that do not come back within a test."""

NEEDED = ["+eval", "+evalsha", "+time", "+mget", "+get", "+set", "+del"]
"""The commands that a user of ours must be let run; `redis_faults.FAULTS` says so."""


def hit(key: str, cost: int = 1, made: Bucket = TEN) -> Hit:
    return Hit(key.encode(), made, cost)


async def left(store: RedisStore, key: str) -> int:
    return (await store.transact([hit(key, 0)._replace(look=True)])).levels[0].remaining


@pytest.fixture(scope="module", params=SERVERS)
def shared(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """A server without keys and scripts, as after its start."""
    with shared.client() as client:
        client.flushall()
        client.script_flush()
        client.config_resetstat()
    return shared


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    store = RedisStore(target(server.url), habits(timeout=PATIENT))
    yield store
    await store.close()


async def test_group_takes_all_or_nothing(store: RedisStore) -> None:
    """A group takes from all of its buckets or from none, and is told each level."""
    assert await store.transact([hit("a", 4), hit("b", 8)]) == Answer(
        granted=True, levels=(Level(fits=True, remaining=6, reset=14_400), Level(fits=True, remaining=2, reset=28_800))
    )
    refused = await store.transact([hit("a", 4), hit("b", 3)])
    assert not refused.granted
    assert [level.fits for level in refused.levels] == [True, False]
    assert [await left(store, "a"), await left(store, "b")] == [6, 2]


async def test_look_stores_nothing(store: RedisStore, server: Server) -> None:
    """A look leaves no key behind."""
    assert (await store.transact([hit("a", 10)._replace(look=True)])).granted
    assert not (await store.transact([hit("a", 11)._replace(look=True)])).granted
    with server.client() as client:
        assert client.dbsize() == 0


async def test_no_hits_ask_nothing(store: RedisStore) -> None:
    """A group without hits is granted without the store."""
    assert await store.transact([]) == Answer(granted=True, levels=())
    assert store.statistics().scripts == 0


async def test_requests_of_one_tick_share_a_script(store: RedisStore, server: Server) -> None:
    """Requests of one tick of the loop travel in one script call, and each gets its own answer."""
    answers = await asyncio.gather(*(store.transact([hit("a", 1), hit(f"b{n}", n)]) for n in range(12)))
    assert [answer.granted for answer in answers] == [n < 10 for n in range(12)]
    assert [answer.levels[1].remaining for answer in answers[:10]] == [10 - n for n in range(10)]
    assert store.statistics().scripts == 1
    with server.client() as client:
        calls = client.info("commandstats")
    # The first call misses the script: asked again, once, with the text.
    assert calls["cmdstat_evalsha"]["calls"] == calls["cmdstat_eval"]["calls"] == 1


async def test_batch_is_bounded(store: RedisStore) -> None:
    """A script takes at most BATCH hits; what is more goes in the next."""
    await asyncio.gather(*(store.transact([hit(f"k{n}"), hit(f"l{n}")]) for n in range(BATCH)))
    statistics = store.statistics()
    assert (statistics.scripts, statistics.requests, statistics.hits) == (2, BATCH, 2 * BATCH)


async def test_largest_group_goes_alone(store: RedisStore) -> None:
    """A group of LONGEST hits works, in a script of its own; a longer one is refused as an error of the caller."""
    many = [hit(f"k{n}") for n in range(LONGEST)]
    big, small = await asyncio.gather(store.transact(many), store.transact([hit("k0")]))
    assert big.granted
    assert small.granted
    assert await left(store, "k0") == 8
    assert store.statistics().scripts == 3
    with pytest.raises(ValueError, match=f"at most {LONGEST} buckets"):
        await store.transact([*many, hit("more")])


async def test_two_limits_of_a_key_are_judged_apart(server: Server) -> None:
    """Requests of one moment that meet two limits of a key are judged each by its own: what was spent is shared."""
    hundred = bucket(100, 36_000)
    asked = [hit("a", 6), hit("a", 6, hundred), hit("a", 35, hundred), hit("a", 5)]
    store = RedisStore(target(server.url), habits(timeout=PATIENT, in_flight=1))  # over one connection in order
    answers = await asyncio.gather(*(store.transact([each]) for each in asked))
    assert [answer.granted for answer in answers] == [True, True, False, False]
    assert [answer.levels[0].remaining for answer in answers] == [4, 34, 34, 3]
    one = await store.transact([hit("b", 6), hit("b", 6, hundred)])
    assert [level.remaining for level in one.levels] == [10, 10]
    await store.close()


async def test_replicas_share_the_buckets(store: RedisStore, server: Server) -> None:
    """Two stores on one server share its buckets, exactly."""
    other = RedisStore(target(server.url), habits(timeout=PATIENT))
    answers = await asyncio.gather(*(each.transact([hit("a")]) for each in (store, other) for _ in range(10)))
    assert sum(answer.granted for answer in answers) == 10
    await other.close()


async def test_forgotten_script_is_loaded_again(store: RedisStore, server: Server) -> None:
    """A server that forgot the script is sent it again, and the request counts once."""
    await store.transact([hit("a")])
    with server.client() as client:
        client.script_flush()
    await store.transact([hit("a")])
    assert await left(store, "a") == 8


@pytest.mark.parametrize("ticks", range(40))
async def test_cancelled_request_is_never_half_done(store: RedisStore, ticks: int) -> None:
    """Cancelled at any point, a request is counted in all of its buckets or in none, and its neighbours are served."""
    before = asyncio.ensure_future(store.transact([hit("a"), hit("b")]))
    cancelled = asyncio.ensure_future(store.transact([hit("a"), hit("b")]))
    after = asyncio.ensure_future(store.transact([hit("a"), hit("b")]))
    for _ in range(ticks):
        await asyncio.sleep(0)
    cancelled.cancel()
    assert (await before).granted
    assert (await after).granted
    await asyncio.wait([cancelled])
    counted = [10 - await left(store, "a"), 10 - await left(store, "b")]
    assert counted in ([2, 2], [3, 3])
    if not cancelled.cancelled():
        assert counted == [3, 3]


async def test_request_cancelled_in_the_queue_is_skipped(valkey: Server) -> None:
    """A request cancelled before its batch is sent is not counted; one that was sent is, and its answer is dropped."""
    store = RedisStore(target(valkey.url), habits(timeout=PATIENT, in_flight=1))
    await store.ping()
    valkey.freeze()
    sent = asyncio.ensure_future(store.transact([hit("sent")]))
    await until(lambda: store.statistics().scripts >= 2)
    queued = asyncio.ensure_future(store.transact([hit("queued")]))
    other = asyncio.ensure_future(store.transact([hit("other")]))
    await until(lambda: store.statistics().waiting >= 2)
    sent.cancel()
    queued.cancel()
    valkey.thaw()
    assert (await other).granted
    assert [await left(store, key) for key in ("sent", "queued", "other")] == [9, 10, 9]
    await store.close()


async def test_hanging_server_is_answered_for_in_time(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all scripts in flight hang, each caller is told so in time, and the server serves again once it can."""
    monkeypatch.setattr(redis_queue, "BATCH", 1)
    store = RedisStore(target(valkey.url), habits(timeout=0.2, in_flight=2))
    await store.ping()
    valkey.freeze()
    thousand = bucket(1_000, 36_000_000)

    async def asked() -> float:
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"^timeout: .* did not answer in time"):
            await store.transact([hit("a", 1, thousand)])
        return time.monotonic() - start

    seconds = await asyncio.gather(*(asked() for _ in range(40)))
    # One script after another, two at a time, they would take 4 s; the machine may do other things too.
    assert 0.1 < min(seconds) <= max(seconds) < 2
    assert store.statistics().failures == {"timeout": 40}
    valkey.thaw()
    await recovered(store)
    left_over = (await store.transact([hit("a", 0, thousand)._replace(look=True)])).levels[0].remaining
    assert 960 <= left_over <= 1_000, "each is counted once at most"
    await store.close()


async def test_queue_is_bounded(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the queue full, the next request is refused at once; those in it are served."""
    monkeypatch.setattr(redis_node, "WAITING", 5)
    store = RedisStore(target(valkey.url), habits(timeout=PATIENT, in_flight=1))
    await store.ping()
    valkey.freeze()
    first = asyncio.ensure_future(store.ping())
    await until(lambda: store.statistics().scripts >= 2)
    queued = [asyncio.ensure_future(store.transact([hit("a")])) for _ in range(5)]
    await until(lambda: store.statistics().waiting >= 5)
    with pytest.raises(StoreUnavailable, match=r"^overloaded: .* 5 requests wait for it already; add replicas or"):
        await store.transact([hit("a")])
    valkey.thaw()
    await first
    assert [answer.granted for answer in await asyncio.gather(*queued)] == [True] * 5
    assert store.statistics().failures == {"overloaded": 1}
    await store.close()


async def test_idle_connection_that_broke_costs_no_request(server: Server, store: RedisStore) -> None:
    """A connection that the server closed while it was idle is made anew before the next request is sent."""
    await store.transact([hit("a")])
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    # The end of file must have reached the loop: one turn that polls the sockets.
    await asyncio.sleep(0.01)
    await store.transact([hit("a")])
    assert await left(store, "a") == 8
    assert store.statistics().failures == {}


async def test_reset_connections_cost_one_batch(valkey: Server) -> None:
    """When all idle connections were reset, which is no end of file, one batch fails and the others connect anew."""
    async with before(valkey.path) as proxy:
        store = RedisStore(target(proxy.url), habits(timeout=PATIENT, in_flight=3))

        async def on_all_connections() -> list[Answer]:
            return await asyncio.gather(*(store.transact([hit(f"k{number}")]) for number in range(3 * BATCH)))

        await on_all_connections()
        assert proxy.accepted == 3
        await proxy.cut()
        links = [lane.link._connection for lane in store._node._idle]
        await until(lambda: all(link._writer.transport.is_closing() for link in links))  # type: ignore[union-attr] # connected
        with pytest.raises(StoreUnavailable, match=r"^unreachable: "):
            await store.transact([hit("a")])
        assert all(answer.levels[0].remaining == 8 for answer in await on_all_connections())
        assert proxy.accepted == 6
        await store.close()


async def test_restart_under_traffic_recovers(valkey: Server) -> None:
    """A store that is stopped and started under traffic fails requests meanwhile, and none once it is back."""
    store = RedisStore(target(valkey.url), habits(timeout=1.0))
    plenty = bucket(10**6, 36_000)
    stopping = asyncio.Event()
    outcomes: list[str] = []

    async def traffic() -> None:
        while not stopping.is_set():
            try:
                await store.transact([hit("a", 1, plenty)])
                outcomes.append("served")
            except StoreUnavailable as error:
                outcomes.append(str(error).partition(":")[0])
            await asyncio.sleep(0.001)

    async def seen(outcome: str) -> None:
        count = outcomes.count(outcome)
        await until(lambda: outcomes.count(outcome) >= count + 20)

    running = [asyncio.ensure_future(traffic()) for _ in range(8)]
    await seen("served")
    await asyncio.to_thread(valkey.stop)
    await seen("open")
    await asyncio.to_thread(valkey.start)
    await recovered(store)
    failures = store.statistics().failures
    await seen("served")
    stopping.set()
    await asyncio.gather(*running)
    assert set(outcomes) == {"served", "unreachable", "open"}
    assert store.statistics().failures == failures
    await store.close()


async def test_failed_script_fails_its_requests_only(server: Server) -> None:
    """A script that fails, fails all requests of its batch, and no other's."""
    assert all(command.lstrip("+") in str(FAULTS) for command in NEEDED)
    with server.client() as client:
        client.acl_setuser("part", enabled=True, reset=True, passwords=["+secret"], keys=["ours*"], commands=NEEDED)
    store = RedisStore(target(f"unix://part:secret@{server.path}"), habits(timeout=PATIENT))
    bad = await asyncio.gather(store.transact([hit("ours")]), store.transact([hit("theirs")]), return_exceptions=True)
    good = await asyncio.gather(store.transact([hit("ours1")]), store.transact([hit("ours2")]))
    assert [str(error).partition(":")[0] for error in bad] == ["refused", "refused"]
    assert bad[0] is not bad[1], "each has its own traceback"
    assert [answer.granted for answer in good] == [True, True]
    assert await left(store, "ours") == 10
    await store.close()


async def test_close_answers_what_waits(server: Server) -> None:
    """Closing serves the requests in the queue first; later ones are refused."""
    store = RedisStore(target(server.url), habits(timeout=PATIENT, in_flight=1))
    waiting = [asyncio.ensure_future(store.transact([hit(f"k{n}")])) for n in range(3 * BATCH)]
    await until(lambda: store.statistics().waiting >= BATCH)
    await store.close()
    assert all(each.done() and each.result().granted for each in waiting)
    with pytest.raises(StoreUnavailable, match=r"^closed: "):
        await store.transact([hit("a")])


async def test_close_does_not_wait_for_a_hanging_server(valkey: Server) -> None:
    """Closing while the server hangs ends with the timeout of what waits."""
    store = RedisStore(target(valkey.url), habits(timeout=0.2, in_flight=1))
    await store.ping()
    valkey.freeze()
    waiting = [asyncio.ensure_future(store.transact([hit("a")])) for _ in range(2 * BATCH)]
    await until(lambda: store.statistics().waiting >= BATCH)
    async with asyncio.timeout(5):
        await store.close()
    assert {str(each.exception()).partition(":")[0] for each in waiting} == {"timeout"}


async def test_absent_server_is_said_to_be_unreachable(tmp_path: str) -> None:
    """A server that is not there is unreachable, at once, by socket and by port."""
    for url in (f"unix://{tmp_path}/none", f"127.0.0.1:{free_port()}"):
        store = RedisStore(target(url), habits(timeout=PATIENT))
        with pytest.raises(StoreUnavailable, match=r"^unreachable: .*check the address"):
            await store.ping()
        await store.close()


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$3\r\nabc\r\n", b":1\r\n", b"*0\r\n"])
async def test_server_that_is_no_redis_is_told_apart(said: bytes) -> None:
    """Whatever another kind of server says is an outage."""
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        while await reader.read(1_000):
            pass
        writer.close()
        gone.set()

    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    store = RedisStore(target(f"127.0.0.1:{other.sockets[0].getsockname()[1]}"), habits(timeout=PATIENT))
    with pytest.raises(StoreUnavailable, match=r"^protocol: .*no Redis"):
        await store.transact([hit("a")])
    await store.close()
    await gone.wait()
    other.close()
    await other.wait_closed()


async def test_password_beside_the_url_is_used_and_never_shown() -> None:
    """A password given beside the URL wins over the one in it, and stands in no representation and no error."""
    port = free_port()
    with running(VALKEY, "--requirepass", "hunter2:/@", port=port) as server:
        for url, password in (
            (f"127.0.0.1:{port}", "hunter2:/@"),
            (f"redis://:nothunter@127.0.0.1:{port}/3", "hunter2:/@"),
            (f"redis://default:hunter2%3A%2F%40@127.0.0.1:{port}", None),
        ):
            store = RedisStore(target(url, password=password), habits(timeout=PATIENT))
            await store.transact([hit("a")])
            assert "hunter" not in repr(store) + repr(vars(store)) + repr(vars(store._node))
            await store.close()
        with server.client(password="hunter2:/@", db=3) as client:
            assert client.dbsize() == 1
        store = RedisStore(target(f"redis://:hunter3@127.0.0.1:{port}"), habits(timeout=PATIENT))
        with pytest.raises(StoreUnavailable) as raised:
            await store.ping()
        assert "hunter" not in repr(raised.value) + repr(raised.value.__cause__)
        await store.close()
