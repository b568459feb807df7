"""What the store makes of each fault, against real servers that were made to have it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis

from genops_extauth.hits import Origin
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_habits import habits
from genops_extauth.redis_store import RedisStore
from genops_extauth.store_address import target
from proxy import Proxy, before
from spending import charge, spent, take
from stores import PATIENT, VALKEY, Server, eventually, recovered, running, until


@contextlib.asynccontextmanager
async def asking(url: str, late: float = PATIENT) -> AsyncIterator[RedisStore]:
    store = RedisStore(target(url), habits(timeout=late))
    try:
        yield store
    finally:
        await store.close()


async def kind(store: RedisStore) -> str:
    """What becomes of a request: its kind of failure, or that it is served."""
    try:
        await store.transact([take("a")])
    except StoreUnavailable as error:
        return str(error).partition(":")[0]
    return "served"


async def goes_through(store: RedisStore, expected: str, undo: Callable[[], object]) -> None:
    """A fault is told as `expected` until the circuit opens; when it is undone the store serves again, charged once."""
    assert await kind(store) == expected
    owed = [await store.transact([charge("b")]) for _ in range(3)]
    assert all(answer.granted and answer.origin is Origin.ALLOWANCE for answer in owed)
    while store.usable:
        assert await kind(store) in (expected, "open")
    assert await kind(store) == "open"
    assert store.owed().charges == 3
    with pytest.raises(StoreUnavailable, match=r"^open: "):
        await store.ping()

    await asyncio.to_thread(undo)
    await recovered(store)
    await until(lambda: not store.owed())
    assert await kind(store) == "served"
    assert await spent(store, "b") == 3
    assert store.statistics().opened == 1


@pytest.mark.parametrize(
    ("setting", "bad", "good", "expected"),
    [
        ("maxmemory", "1", "0", "full"),
        ("replicaof", "127.0.0.1 1", "no one", "read_only"),
        ("min-replicas-to-write", "1", "0", "read_only"),
    ],
)
async def test_server_that_takes_no_writes(server: Server, setting: str, bad: str, good: str, expected: str) -> None:
    """A server that is full, a replica, or without replicas fails requests and pings, and recovers by itself."""

    def turn(value: str) -> None:
        with server.client() as client:
            if setting == "replicaof":
                client.execute_command("REPLICAOF", *value.split())  # type: ignore[no-untyped-call] # redis-py leaves it bare
            else:
                client.config_set(setting, value)

    async with asking(server.url) as store:
        assert await kind(store) == "served"
        turn(bad)
        with pytest.raises(StoreUnavailable, match=f"^{expected}: "):
            await store.ping()
        await goes_through(store, expected, lambda: turn(good))


async def test_server_that_cannot_save(server: Server) -> None:
    """A server that stops writes because it cannot save (MISCONF) takes none, and recovers once it can."""
    folder = Path(server.path).parent
    (folder / "dump.rdb").mkdir()

    def saved(status: str) -> bool:
        return bool(client.info("persistence")["rdb_last_bgsave_status"] == status)

    with server.client() as client:
        client.config_set("save", "3600 1")
        async with asking(server.url) as store:
            client.bgsave()
            await until(lambda: saved("err"))

            def undo() -> None:
                (folder / "dump.rdb").rmdir()
                client.bgsave()

            await goes_through(store, "read_only", undo)


async def test_server_that_lets_nobody_in(server: Server) -> None:
    """A password that is wrong, or is missing, is told; with the right one back the store serves again."""
    with server.client() as client:
        async with asking(server.url) as store:
            assert await kind(store) == "served"
            client.config_set("requirepass", "secret")
            client.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.01)  # the end of file must have reached the loop
            await goes_through(store, "refused", lambda: client.config_set("requirepass", ""))


@pytest.mark.parametrize("missing", ["eval", "set", "key"])
async def test_user_without_rights(server: Server, missing: str) -> None:
    """A user who may not run the script, nor write in it, nor touch our keys, is told which rights he needs."""

    def grant(client: redis.Redis, *, everything: bool) -> None:
        commands = ["+eval", "+evalsha", "+time", "+mget", "+get", "+set", "+del"]
        if not everything and missing != "key":
            commands = [each for each in commands if missing not in each]
        keys = ["genops:*"] if everything or missing != "key" else ["other*"]
        client.acl_setuser("part", enabled=True, reset=True, passwords=["+secret"], keys=keys, commands=commands)

    with server.client() as client:
        grant(client, everything=False)
        async with asking(f"unix://part:secret@{server.path}") as store:
            with pytest.raises(StoreUnavailable, match="let the user run eval, evalsha, time, mget, get, set and del"):
                await store.ping()
            await goes_through(store, "refused", lambda: grant(client, everything=True))


async def test_server_that_loads_its_data(server: Server) -> None:
    """A server that reads its data serves nobody, and once it has, everybody."""
    with server.client() as client:
        client.mset({f"k{number}": "x" * 100 for number in range(600)})
        client.save()
    slow = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    server.stop()
    server.launch(*slow)
    await asyncio.to_thread(eventually, lambda: loads(server))
    async with asking(server.url) as store:
        kinds = {await kind(store)}
        assert kinds == {"loading"}
        async with asyncio.timeout(PATIENT):
            while "served" not in kinds:
                await asyncio.sleep(0.005)  # an open circuit answers at once: others must have their turn
                kinds.add(await kind(store))
    assert kinds <= {"loading", "open", "served"}


def loads(server: Server) -> bool:
    with server.client() as client:
        try:
            client.ping()
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            pass
        return False


async def test_server_that_is_part_of_a_cluster(server: Server) -> None:
    """A node of a Cluster, addressed as a single server, is told to be one."""
    with running(server.binary, "--cluster-enabled", "yes") as node:
        async with asking(node.url) as store:
            assert await kind(store) == "cluster"


async def test_server_that_was_killed(server: Server) -> None:
    """A server that was killed is unreachable; started again it serves."""
    async with asking(server.url) as store:
        await store.ping()
        await asyncio.to_thread(server.stop)
        await goes_through(store, "unreachable", server.start)


async def test_server_that_was_stopped(server: Server) -> None:
    """A server that was stopped (SIGSTOP) is late; resumed it serves, and what it was asked twice counts once."""
    async with asking(server.url, late=0.1) as store:
        await recovered(store)
        await asyncio.to_thread(server.freeze)
        await goes_through(store, "timeout", server.thaw)


async def test_server_that_sleeps() -> None:
    """A server that is busy with something else is late, and serves again when it is done."""
    with running(VALKEY, "--enable-debug-command", "local") as server:
        async with asking(server.url, late=0.1) as store:
            await recovered(store)
            sleeping = asyncio.ensure_future(asyncio.to_thread(_sleep, server))
            kinds = set()
            while not sleeping.done():
                await asyncio.sleep(0.005)
                kinds.add(await kind(store))
            await sleeping
            await recovered(store)
            assert await kind(store) == "served"
            assert kinds & {"timeout", "open"}


def _sleep(server: Server) -> None:
    with server.client() as client:
        client.execute_command("DEBUG", "SLEEP", "0.7")  # type: ignore[no-untyped-call] # redis-py leaves it bare


async def test_connection_that_stalls(valkey: Server) -> None:
    """A connection over which nothing comes back is late; when it flows again the store serves, charged once."""
    async with before(valkey.path) as proxy, asking(proxy.url, late=0.1) as store:
        await recovered(store)
        proxy.answering.clear()
        await goes_through(store, "timeout", Flow(proxy))


class Flow:
    """Lets a proxy answer again, from another thread."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy, self._loop = proxy, asyncio.get_running_loop()

    def __call__(self) -> None:
        self._loop.call_soon_threadsafe(self._proxy.answering.set)


async def test_connection_that_is_slow(valkey: Server) -> None:
    """A network slower than the timeout is as good as none, and a little delay does no harm."""
    async with before(valkey.path) as proxy, asking(proxy.url, late=0.5) as store:
        proxy.delay = 0.02
        await recovered(store)
        assert await kind(store) == "served"
        proxy.delay = 5.0
        assert await kind(store) == "timeout"


async def test_connection_that_is_refused(valkey: Server) -> None:
    """Where nobody listens any more the circuit opens at once, and the store serves when somebody does again."""
    async with before(valkey.path) as proxy, asking(proxy.url) as store:
        await store.ping()
        await proxy.refuse()
        assert await kind(store) == "unreachable"
        while store.usable:
            assert await kind(store) in ("unreachable", "open")
        await proxy.listen()
        await recovered(store)
        assert await kind(store) == "served"


async def test_open_circuit_costs_nobody_time(valkey: Server) -> None:
    """While the circuit is open requests fail at once, whatever the timeout, and probes come at most once a second."""
    async with asking(valkey.url, late=0.1) as store:
        await recovered(store)
        await asyncio.to_thread(valkey.freeze)
        while store.usable:
            await kind(store)
        scripts, start = store.statistics().scripts, time.monotonic()
        kinds = {await kind(store) for _ in range(1_000)}
        seconds = time.monotonic() - start
        assert kinds == {"open"}
        assert seconds < 1.0
        assert store.statistics().scripts - scripts <= 1 + seconds / 0.05
        valkey.thaw()


async def test_caller_is_answered_by_his_own_deadline(valkey: Server) -> None:
    """Each caller is told by his own deadline, although others of his script wait longer."""
    async with asking(valkey.url) as store:
        await store.ping()
        await asyncio.to_thread(valkey.freeze)

        async def seconds(within: float | None) -> float:
            start = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"^timeout: "):
                await store.transact([take("a")], within)
            return time.monotonic() - start

        patient = asyncio.ensure_future(store.transact([take("a")]))
        first, second = await asyncio.gather(seconds(0.3), seconds(0.05))
        assert 0.04 <= second < first
        assert 0.29 <= first < PATIENT / 2
        assert not patient.done()
        assert store.usable, "a caller's hurry is no failure of the store"
        valkey.thaw()
        assert (await patient).granted


async def test_transitions_are_told(valkey: Server) -> None:
    """Operators hear once that a store is not asked any more, and why, and once that it answers again."""
    told: list[str] = []
    store = RedisStore(target(valkey.url), habits(tell=told.append, timeout=PATIENT))
    await store.ping()
    await asyncio.to_thread(valkey.stop)
    while store.usable:
        await kind(store)
    await asyncio.to_thread(valkey.start)
    await recovered(store)
    await store.close()
    assert len(told) == 2
    assert told[0].startswith("not asked until it answers a probe: unreachable: the store unix://")
    assert told[1].endswith("answers again")
