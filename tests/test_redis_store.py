import asyncio
import contextlib
import inspect
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator

import hiredis
import pytest
import redis
import redis.exceptions

from genops_extauth import redis_store
from genops_extauth.bucket import Answer, Hit, Level, Shape, shape
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_link import FAULTS, Link, kind_of, translated
from genops_extauth.redis_store import BATCH, LONGEST, RedisStore
from stores import SERVERS, VALKEY, Server, free_port, running, until

TEN = shape(10, 36_000)
"""Ten tokens that do not come back within a test."""

NEEDED = ["+eval", "+evalsha", "+time", "+mget", "+set"]
"""The commands that a user of ours must be let run; `redis_link.FAULTS` says so."""

PATIENT = 30.0
"""A timeout, in seconds, that a working store meets however loaded the machine is."""


def hit(key: str, cost: int = 1, made: Shape = TEN) -> Hit:
    return Hit(key.encode(), made, cost)


async def left(store: RedisStore, key: str) -> int:
    return (await store.peek([hit(key, 0)])).levels[0].remaining


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
def own() -> Iterator[Server]:
    """A server to be broken."""
    with running(VALKEY) as server:
        yield server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url, timeout=PATIENT)
    yield store
    await store.close()


async def test_acquire_takes_all_or_nothing(store: RedisStore) -> None:
    """A group takes from all of its buckets or from none, and is told each level."""
    assert await store.acquire([hit("a", 4), hit("b", 8)]) == Answer(
        granted=True, levels=(Level(fits=True, remaining=6, reset=14_400), Level(fits=True, remaining=2, reset=28_800))
    )
    refused = await store.acquire([hit("a", 4), hit("b", 3)])
    assert not refused.granted
    assert [level.fits for level in refused.levels] == [True, False]
    assert [await left(store, "a"), await left(store, "b")] == [6, 2]


async def test_peek_stores_nothing(store: RedisStore, server: Server) -> None:
    """A peek leaves no key behind."""
    assert (await store.peek([hit("a", 10)])).granted
    assert not (await store.peek([hit("a", 11)])).granted
    with server.client() as client:
        assert client.dbsize() == 0


async def test_no_hits_ask_nothing(store: RedisStore) -> None:
    """A group without hits is granted without the store."""
    assert await store.acquire([]) == await store.peek([]) == Answer(granted=True, levels=())
    assert store.statistics().scripts == 0


async def test_requests_of_one_tick_share_a_script(store: RedisStore, server: Server) -> None:
    """Requests of one tick of the loop travel in one script call, and each gets its own answer."""
    answers = await asyncio.gather(*(store.acquire([hit("a", 1), hit(f"b{n}", n)]) for n in range(12)))
    assert [answer.granted for answer in answers] == [n < 10 for n in range(12)]
    assert [answer.levels[1].remaining for answer in answers[:10]] == [10 - n for n in range(10)]
    assert store.statistics().scripts == 1
    with server.client() as client:
        calls = client.info("commandstats")
    # The first call misses the script: asked again, once, with the text.
    assert calls["cmdstat_evalsha"]["calls"] == calls["cmdstat_eval"]["calls"] == 1


async def test_batch_is_bounded(store: RedisStore) -> None:
    """A script takes at most BATCH hits; what is more goes in the next."""
    await asyncio.gather(*(store.acquire([hit(f"k{n}"), hit(f"l{n}")]) for n in range(BATCH)))
    statistics = store.statistics()
    assert (statistics.scripts, statistics.requests, statistics.hits) == (2, BATCH, 2 * BATCH)


async def test_largest_group_goes_alone(store: RedisStore) -> None:
    """A group of LONGEST hits works, in a script of its own; a longer one is refused as an error of the caller."""
    many = [hit(f"k{n}") for n in range(LONGEST)]
    big, small = await asyncio.gather(store.acquire(many), store.acquire([hit("k0")]))
    assert big.granted
    assert small.granted
    assert await left(store, "k0") == 8
    assert store.statistics().scripts == 3
    with pytest.raises(ValueError, match=f"at most {LONGEST} buckets"):
        await store.acquire([*many, hit("more")])


async def test_two_shapes_of_a_key_in_one_batch_share_its_bucket(store: RedisStore) -> None:
    """Where a batch meets two shapes of a key, the first counts: nothing is granted twice."""
    first, second = await asyncio.gather(store.acquire([hit("a", 6)]), store.acquire([hit("a", 6, shape(100, 36_000))]))
    assert first.granted
    assert second == Answer(granted=False, levels=(Level(fits=False, remaining=4, reset=7_200),))
    one = await store.acquire([hit("b", 6), hit("b", 6, shape(100, 36_000))])
    assert [level.remaining for level in one.levels] == [10, 10]


async def test_replicas_share_the_buckets(store: RedisStore, server: Server) -> None:
    """Two stores on one server share its buckets, exactly."""
    other = RedisStore(server.url, timeout=PATIENT)
    answers = await asyncio.gather(*(each.acquire([hit("a")]) for each in (store, other) for _ in range(10)))
    assert sum(answer.granted for answer in answers) == 10
    await other.close()


async def test_forgotten_script_is_loaded_again(store: RedisStore, server: Server) -> None:
    """A server that forgot the script is sent it again, and the request counts once."""
    await store.acquire([hit("a")])
    with server.client() as client:
        client.script_flush()
    await store.acquire([hit("a")])
    assert await left(store, "a") == 8


@pytest.mark.parametrize("ticks", range(40))
async def test_cancelled_request_is_never_half_done(store: RedisStore, ticks: int) -> None:
    """Cancelled at any point, a request is counted in all of its buckets or in none, and its neighbours are served."""
    before = asyncio.ensure_future(store.acquire([hit("a"), hit("b")]))
    cancelled = asyncio.ensure_future(store.acquire([hit("a"), hit("b")]))
    after = asyncio.ensure_future(store.acquire([hit("a"), hit("b")]))
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


async def test_request_cancelled_in_the_queue_is_skipped(own: Server) -> None:
    """A request cancelled before its batch is sent is not counted; one that was sent is, and its answer is dropped."""
    store = RedisStore(own.url, timeout=PATIENT, in_flight=1)
    await store.ping()
    own.freeze()
    sent = asyncio.ensure_future(store.acquire([hit("sent")]))
    await until(lambda: store.statistics().scripts >= 2)
    queued = asyncio.ensure_future(store.acquire([hit("queued")]))
    other = asyncio.ensure_future(store.acquire([hit("other")]))
    await until(lambda: store.statistics().waiting >= 2)
    sent.cancel()
    queued.cancel()
    own.thaw()
    assert (await other).granted
    assert [await left(store, key) for key in ("sent", "queued", "other")] == [9, 10, 9]
    await store.close()


async def test_hanging_server_is_answered_for_in_time(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all scripts in flight hang, each caller is told so in time, and the server serves again once it can."""
    monkeypatch.setattr(redis_store, "BATCH", 1)
    store = RedisStore(own.url, timeout=0.2, in_flight=2)
    await store.ping()
    own.freeze()
    thousand = shape(1_000, 36_000_000)

    async def asked() -> float:
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"^timeout: .* did not answer in time"):
            await store.acquire([hit("a", 1, thousand)])
        return time.monotonic() - start

    seconds = await asyncio.gather(*(asked() for _ in range(40)))
    # One script after another, two at a time, they would take 4 s; the machine may do other things too.
    assert 0.1 < min(seconds) <= max(seconds) < 2
    assert store.statistics().failures == {"timeout": 40}
    own.thaw()
    await recovered(store)
    left_over = (await store.peek([hit("a", 0, thousand)])).levels[0].remaining
    assert 960 <= left_over <= 1_000, "each is counted once at most"
    await store.close()


async def recovered(store: RedisStore) -> None:
    async with asyncio.timeout(PATIENT):
        while True:
            try:
                return await store.ping()
            except StoreUnavailable:
                await asyncio.sleep(0.01)


async def test_queue_is_bounded(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the queue full, the next request is refused at once; those in it are served."""
    monkeypatch.setattr(redis_store, "WAITING", 5)
    store = RedisStore(own.url, timeout=PATIENT, in_flight=1)
    await store.ping()
    own.freeze()
    first = asyncio.ensure_future(store.ping())
    await until(lambda: store.statistics().scripts >= 2)
    queued = [asyncio.ensure_future(store.acquire([hit("a")])) for _ in range(5)]
    await until(lambda: store.statistics().waiting >= 5)
    with pytest.raises(StoreUnavailable, match=r"^overloaded: .* 5 requests wait for it already; add replicas or"):
        await store.acquire([hit("a")])
    own.thaw()
    await first
    assert [answer.granted for answer in await asyncio.gather(*queued)] == [True] * 5
    assert store.statistics().failures == {"overloaded": 1}
    await store.close()


async def test_idle_connection_that_broke_costs_no_request(server: Server, store: RedisStore) -> None:
    """A connection that the server closed while it was idle is made anew before the next request is sent."""
    await store.acquire([hit("a")])
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    # The end of file must have reached the loop: one turn that polls the sockets.
    await asyncio.sleep(0.01)
    await store.acquire([hit("a")])
    assert await left(store, "a") == 8
    assert store.statistics().failures == {}


async def test_reset_connections_cost_one_batch(own: Server) -> None:
    """When all idle connections were reset, which is no end of file, one batch fails and the others connect anew."""
    writers: list[asyncio.StreamWriter] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4_096):
                writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to = await asyncio.open_unix_connection(own.path)
        writers.append(writer)
        await asyncio.gather(pipe(reader, to), pipe(behind, writer))

    proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
    store = RedisStore(f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}", timeout=PATIENT, in_flight=3)

    async def on_all_connections() -> list[Answer]:
        return await asyncio.gather(*(store.acquire([hit(f"k{number}")]) for number in range(3 * BATCH)))

    await on_all_connections()
    assert len(writers) == 3
    for writer in writers:
        # Lingering for 0 seconds resets (socket(7)).
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    await until(lambda: all(link._connection._writer.transport.is_closing() for link in store._idle))  # type: ignore[union-attr] # connected
    with pytest.raises(StoreUnavailable, match=r"^unreachable: "):
        await store.ping()
    assert all(answer.levels[0].remaining == 8 for answer in await on_all_connections())
    assert len(writers) == 6
    await store.close()
    proxy.close()
    await until(lambda: all(writer.transport.is_closing() for writer in writers))
    await proxy.wait_closed()


async def test_restart_under_traffic_recovers(own: Server) -> None:
    """A store that is stopped and started under traffic fails requests meanwhile, and none once it is back."""
    store = RedisStore(own.url, timeout=1.0)
    plenty = shape(10**6, 36_000)
    stopping = asyncio.Event()
    outcomes: list[str] = []

    async def traffic() -> None:
        while not stopping.is_set():
            try:
                await store.acquire([hit("a", 1, plenty)])
                outcomes.append("served")
            except StoreUnavailable as error:
                outcomes.append(str(error).partition(":")[0])
            await asyncio.sleep(0.001)

    async def seen(outcome: str) -> None:
        count = outcomes.count(outcome)
        await until(lambda: outcomes.count(outcome) >= count + 20)

    running = [asyncio.ensure_future(traffic()) for _ in range(8)]
    await seen("served")
    await asyncio.to_thread(own.stop)
    await seen("unreachable")
    await asyncio.to_thread(own.start)
    await recovered(store)
    failures = store.statistics().failures
    await seen("served")
    stopping.set()
    await asyncio.gather(*running)
    assert set(outcomes) == {"served", "unreachable"}
    assert store.statistics().failures == failures
    await store.close()


async def test_failed_script_fails_its_requests_only(server: Server) -> None:
    """A script that fails, fails all requests of its batch, and no other's."""
    assert all(command.lstrip("+") in str(FAULTS) for command in NEEDED)
    with server.client() as client:
        client.acl_setuser("part", enabled=True, reset=True, passwords=["+secret"], keys=["ours*"], commands=NEEDED)
    store = RedisStore(f"unix://part:secret@{server.path}", timeout=PATIENT)
    bad = await asyncio.gather(store.acquire([hit("ours")]), store.acquire([hit("theirs")]), return_exceptions=True)
    good = await asyncio.gather(store.acquire([hit("ours1")]), store.acquire([hit("ours2")]))
    assert [str(error).partition(":")[0] for error in bad] == ["refused", "refused"]
    assert bad[0] is not bad[1], "each has its own traceback"
    assert [answer.granted for answer in good] == [True, True]
    assert await left(store, "ours") == 10
    await store.close()


async def test_close_answers_what_waits(server: Server) -> None:
    """Closing serves the requests in the queue first; later ones are refused."""
    store = RedisStore(server.url, timeout=PATIENT, in_flight=1)
    waiting = [asyncio.ensure_future(store.acquire([hit(f"k{n}")])) for n in range(3 * BATCH)]
    await until(lambda: store.statistics().waiting >= BATCH)
    await store.close()
    assert all(each.done() and each.result().granted for each in waiting)
    with pytest.raises(StoreUnavailable, match=r"^closed: "):
        await store.acquire([hit("a")])
    await store.close()


async def test_close_does_not_wait_for_a_hanging_server(own: Server) -> None:
    """Closing while the server hangs ends with the timeout of what waits."""
    store = RedisStore(own.url, timeout=0.2, in_flight=1)
    await store.ping()
    own.freeze()
    waiting = [asyncio.ensure_future(store.acquire([hit("a")])) for _ in range(2 * BATCH)]
    await until(lambda: store.statistics().waiting >= BATCH)
    async with asyncio.timeout(5):
        await store.close()
    assert {str(each.exception()).partition(":")[0] for each in waiting} == {"timeout"}


def config(**options: str) -> tuple[str, ...]:
    return tuple(text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value))


@pytest.mark.parametrize(
    ("options", "user", "kind"),
    [
        (config(requirepass="right"), "", "refused: .*check the user and password"),
        (config(requirepass="right"), ":wrong@", "refused: .*check the user and password"),
        (config(maxmemory="1"), "", "full: .*raise its maxmemory"),
        (config(replicaof="127.0.0.1 1"), "", "read_only: .*use the address of the primary"),
        (config(maxclients="1"), "", "unreachable: "),
    ],
)
async def test_what_a_real_server_refuses_is_said(options: tuple[str, ...], user: str, kind: str) -> None:
    """Whatever a server refuses is an outage that says what to do."""
    with running(VALKEY, *options) as server:
        store = RedisStore(f"unix://{user}{server.path}", timeout=PATIENT)
        with server.client() as client:
            if "--maxclients" in options:
                client.ping()
            with pytest.raises(StoreUnavailable, match=f"^{kind}"):
                await store.acquire([hit("a")])
        await store.close()


async def test_absent_server_is_said_to_be_unreachable(tmp_path: str) -> None:
    """A server that is not there is unreachable, at once, by socket and by port."""
    for url in (f"unix://{tmp_path}/none", f"127.0.0.1:{free_port()}"):
        store = RedisStore(url, timeout=PATIENT)
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
    store = RedisStore(f"127.0.0.1:{other.sockets[0].getsockname()[1]}", timeout=PATIENT)
    with pytest.raises(StoreUnavailable, match=r"^protocol: .*no Redis"):
        await store.acquire([hit("a")])
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
            store = RedisStore(url, password=password, timeout=PATIENT)
            await store.acquire([hit("a")])
            assert "hunter" not in repr(store) + repr(store._idle) + repr(vars(store))
            await store.close()
        with server.client(password="hunter2:/@", db=3) as client:
            assert client.dbsize() == 1
        store = RedisStore(f"redis://:hunter3@127.0.0.1:{port}", timeout=PATIENT)
        with pytest.raises(StoreUnavailable) as raised:
            await store.ping()
        assert "hunter" not in repr(raised.value) + repr(raised.value.__cause__)
        await store.close()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost", "redis://localhost:6379/0"),
        ("redis:7000", "redis://redis:7000/0"),
        ("[::1]:7000", "redis://::1:7000/0"),
        ("redis://user:secret@example.com:7000/3", "redis://example.com:7000/3"),
        ("redis://example.com?db=4", "redis://example.com:6379/4"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix://user:secret@/run/redis.sock?db=2", "unix:///run/redis.sock"),
    ],
)
def test_url_is_understood(url: str, address: str) -> None:
    """A store is named by a URL, or by host and port alone."""
    assert Link(url).address == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "rediss://secret@host",
        "redis+sentinel://secret@host/name",
        "redis+cluster://secret@host",
        "http://secret@host",
        "embedded:",
        "redis://",
        "redis://secret@:6379",
        "redis://secret@host:port",
        "redis://secret@host:99999",
        "redis://secret@host/name",
        "redis://secret@host/0?ssl=true",
        "redis://secret@host/0#secret",
        "unix://secret@host/run/redis.sock",
        "unix://",
        "redis://secret@[host",
    ],
)
def test_url_that_is_not_understood_is_refused(url: str) -> None:
    """Any other URL is refused with what to write, and is not repeated, for it may hold a password."""
    with pytest.raises(ValueError, match=r"write|may name") as raised:
        RedisStore(url)
    assert "secret" not in str(raised.value)
    assert raised.value.__context__ is None or raised.value.__suppress_context__


def foreign() -> list[type[Exception]]:
    """All that redis-py, hiredis and the socket may raise."""
    modules = (redis.exceptions, hiredis)
    found = [each for module in modules for _, each in inspect.getmembers(module, inspect.isclass)]
    others = {
        redis.exceptions.ChildDeadlockedError,
        redis.exceptions.IncorrectPolicyType,
    }  # misuse of what we do not use
    raised = [each for each in found if issubclass(each, Exception) and each not in others]
    return [*raised, OSError, TimeoutError, ConnectionResetError]


@pytest.mark.parametrize("raised", foreign(), ids=lambda each: f"{each.__module__}.{each.__name__}")
def test_every_foreign_exception_is_translated(raised: type[Exception]) -> None:
    """Whatever the client library can raise becomes StoreUnavailable, with a kind and an advice."""
    error = raised.__new__(raised)
    outage = translated(error, "redis://host:1/0")
    assert isinstance(outage, StoreUnavailable)
    assert str(outage).startswith(f"{kind_of(error)}: the store redis://host:1/0 cannot be used: ")
    assert outage.__cause__ is error


def test_no_fault_hides_another() -> None:
    """Each row of the table is reached: no earlier one is more general."""
    for number, (fault, _, _) in enumerate(FAULTS):
        assert not any(issubclass(fault, earlier) for earlier, _, _ in FAULTS[:number]), fault


def test_defect_of_ours_is_not_dressed_as_an_outage() -> None:
    """An exception that is none of the store's passes as it is."""
    error = KeyError("ours")
    assert kind_of(error) is None
    assert translated(error, "") is error
