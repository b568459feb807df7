import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from certificates import Authority
from genops_extauth.embedded import EmbeddedValkey
from genops_extauth.model import StoreUnavailable
from genops_extauth.store_address import Target, Tls, target
from genops_extauth.store_client import Client, open_client
from proxy import before
from stores import OTHERS, REDIS, SERVERS, VALKEY, Server, free_port, running, until
from topologies import MASTER, clustered, command, named, watched

PATIENT = 30.0
SET = b"redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])"
KEYS = [b"genops:{a}:x"]


@pytest.fixture(params=[*SERVERS, *OTHERS], scope="module")
def each_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(VALKEY) as found:
        yield found


@contextlib.asynccontextmanager
async def client_of(place: str | Target, within: float = PATIENT) -> AsyncIterator[Client]:
    client = open_client(target(place) if isinstance(place, str) else place, within)
    try:
        yield client
    finally:
        await client.aclose()


async def set_through(place: str | Target) -> None:
    async with client_of(place) as client:
        assert await client.script(SET, KEYS, [b"v"]) == b"v"


async def test_scripts_answer_what_they_return(each_server: Server) -> None:
    """A script's answer comes as bytes, whole numbers, lists, and None for nothing, whatever the server."""
    script = b"return {KEYS[1], ARGV[1], 7, false, {'a'}}"
    async with client_of(each_server.url) as client:
        assert await client.script(script, KEYS, [b"\xff\x00"]) == [KEYS[0], b"\xff\x00", 7, None, [b"a"]]
        assert await client.script(b"return false", KEYS) is None


async def test_a_server_that_forgot_its_scripts_is_sent_them(server: Server) -> None:
    """A script is sent in full once, and again where the server does not know it any more."""
    async with client_of(server.url) as client:
        assert await client.script(SET, KEYS, [b"1"]) == b"1"
        with server.client() as other:
            other.script_flush()
        assert await client.script(SET, KEYS, [b"2"]) == b"2"


async def test_several_at_once_do_not_mix_their_answers(server: Server) -> None:
    """Whoever asks gets the answer to what it asked, however many ask at once."""
    async with client_of(server.url) as client:
        asked = [client.script(b"return ARGV[1]", KEYS, [number]) for number in range(100)]
        assert await asyncio.gather(*asked) == [str(number).encode() for number in range(100)]


async def test_whoever_hangs_up_takes_nobody_s_answer(server: Server) -> None:
    """An operation that is cancelled while its answer is under way leaves it to nobody else."""
    async with before(server.path) as proxy, client_of(proxy.url) as client:
        await client.script(b"return 0", KEYS)
        proxy.answering.clear()
        asked = asyncio.ensure_future(client.script(b"return 'first'", KEYS))
        start = proxy.asked
        await until(lambda: proxy.asked > start)
        asked.cancel()
        await asyncio.wait([asked])
        proxy.answering.set()
        assert await client.script(b"return 'second'", KEYS) == b"second"


async def test_a_restarted_server_is_asked_again() -> None:
    """A server that closed the connection in the meantime costs nobody an error."""
    with running(VALKEY) as server:
        async with client_of(server.url) as client:
            await client.script(SET, KEYS, [b"1"])
            server.stop()
            server.start()
            assert await client.script(SET, KEYS, [b"2"]) == b"2"


async def test_a_connection_that_breaks_meanwhile_is_made_anew(server: Server) -> None:
    """A script whose answer was lost with the connection is run again."""
    async with before(server.path) as proxy, client_of(proxy.url) as client:
        await client.script(SET, KEYS, [b"1"])
        proxy.answering.clear()
        asked = asyncio.ensure_future(client.script(SET, KEYS, [b"2"]))
        start = proxy.asked
        await until(lambda: proxy.asked > start)
        await proxy.cut()
        proxy.answering.set()
        assert await asked == b"2"


async def test_an_outage_is_told_in_time(server: Server) -> None:
    """A store that is not there, or says nothing, is told as an outage within the timeout, and used when it is back."""
    async with before(server.path) as proxy, client_of(proxy.url, within=0.5) as client:
        await proxy.refuse()
        with pytest.raises(StoreUnavailable, match=r"^unreachable: .*check the address"):
            await client.script(SET, KEYS, [b"1"])
        await proxy.listen()
        proxy.answering.clear()
        with pytest.raises(StoreUnavailable, match=r"^timeout: "):
            await client.script(SET, KEYS, [b"1"])
        proxy.answering.set()
        async with asyncio.timeout(PATIENT):
            while True:
                with contextlib.suppress(StoreUnavailable):
                    assert await client.script(SET, KEYS, [b"2"]) == b"2"
                    break


async def test_what_a_script_gets_wrong_is_told_and_spoils_nothing(server: Server) -> None:
    """An error of a script is told as one of the store, and the connection serves on."""
    async with before(server.path) as proxy, client_of(proxy.url) as client:
        with pytest.raises(StoreUnavailable, match="error: "):
            await client.script(b"return redis.error_reply('no')", KEYS)
        assert await client.script(SET, KEYS, [b"1"]) == b"1"
        assert proxy.accepted == 1


async def test_users_and_passwords_are_told_to_the_server() -> None:
    """It logs in as the user of the target; a wrong password and a missing right are told, and never repeated."""
    allowed = ("on", ">inner", "~genops:*", "+eval", "+evalsha", "+set", "+get", "+select")
    with running(VALKEY, "--user", "sidecar", *allowed, "--requirepass", "other") as server:
        for place in (target(f"unix://sidecar@{server.path}", password="inner"), target(server.url, password="other")):
            await set_through(place)
        wrong = target(f"unix://sidecar@{server.path}", password="wrong-password")
        async with client_of(wrong) as client:
            with pytest.raises(StoreUnavailable, match=r"^refused: .*check the user and password") as told:
                await client.script(SET, KEYS, [b"1"])
            assert "wrong-password" not in str(told.value) + repr(client)
        async with client_of(target(f"unix://sidecar@{server.path}", password="inner")) as client:
            with pytest.raises(StoreUnavailable, match=r"^refused: .*let the user run"):
                await client.script(SET, [b"others:x"], [b"1"])


@pytest.mark.skipif(REDIS is None, reason="install redis-server: the Valkey of the wheel has no TLS")
async def test_tls_is_the_target_s() -> None:
    """It believes the authorities of the target, shows its certificate, and wants its server's name."""
    with tempfile.TemporaryDirectory(prefix="tls-") as folder:
        ca = Authority(Path(folder))
        own, client = ca.issue("localhost"), ca.issue("client")
        options = (
            *("--tls-port", str(port := free_port()), "--tls-ca-cert-file", str(ca.file), "--tls-auth-clients", "yes"),
            *("--tls-cert-file", str(own.certificate), "--tls-key-file", str(own.key)),
        )
        tls = Tls(str(ca.file), str(client.certificate), str(client.key), "localhost")
        with running(str(REDIS), *options):
            await set_through(target(f"rediss://127.0.0.1:{port}", tls=tls))
            async with client_of(target(f"rediss://127.0.0.1:{port}", tls=Tls(str(ca.file)))) as stranger:
                with pytest.raises(StoreUnavailable, match=r"^(tls|unreachable): "):
                    await stranger.script(SET, KEYS, [b"1"])


async def test_the_embedded_store_is_one_once_started() -> None:
    """An embedded store is used at the address that it has once it runs, and has none before."""
    async with EmbeddedValkey() as valkey:
        await set_through(valkey.url)
    with pytest.raises(ValueError, match="no address until it is started"):
        open_client(target("embedded:"), 1.0)


def _demoted(server: Server) -> bool:
    """Whether it is a replica; while it becomes one it closes its connections."""
    try:
        return str(command(server, "ROLE")).startswith("['slave'")
    except redis.ConnectionError:
        return False


async def test_sentinels_tell_where_it_is_now() -> None:
    """After a failover the next operation is the new primary's, which the sentinels name."""
    with watched(VALKEY) as several:
        async with client_of(several.url) as client:
            await client.script(SET, KEYS, [b"1"])
            old, port = several.primary(), several.sentinels[0]
            with redis.Redis(port=port) as sentinel:
                sentinel.sentinel_failover(MASTER)
            await until(lambda: named(port) != old.port)
            async with asyncio.timeout(PATIENT):
                while True:
                    with contextlib.suppress(StoreUnavailable):
                        assert await client.script(SET, KEYS, [b"2"]) == b"2"
                        break
            await until(lambda: _demoted(old))
            assert await client.script(SET, KEYS, [b"3"]) == b"3"
            assert command(several.primary(), "GET", KEYS[0].decode()) == "3"


async def test_each_slot_of_a_cluster_is_found() -> None:
    """Keys of any slot are found on their node, whichever node is asked first, and again after a slot has moved."""
    with clustered(VALKEY, primaries=3) as cluster:
        async with client_of(cluster.url) as client:
            for name in "abcdefgh":
                assert await client.script(SET, [b"genops:{%s}" % name.encode()], [name.encode()]) == name.encode()
            slot = command(cluster.nodes[0], "CLUSTER", "KEYSLOT", "genops:{a}")
            ids = [str(command(node, "CLUSTER", "MYID")) for node in cluster.nodes]
            owners = [node for node in cluster.nodes if "genops:{a}" in str(command(node, "KEYS", "*"))]
            there = next(node for node in cluster.nodes if node not in owners)
            command(there, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[cluster.nodes.index(owners[0])])
            command(owners[0], "CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[cluster.nodes.index(there)])
            command(owners[0], "DEL", "genops:{a}")
            assert await client.script(SET, [b"genops:{a}"], [b"asked"]) == b"asked"
            for node in (there, owners[0]):
                command(node, "CLUSTER", "SETSLOT", str(slot), "NODE", ids[cluster.nodes.index(there)])
            assert await client.script(SET, [b"genops:{a}"], [b"moved"]) == b"moved"
            assert command(there, "GET", "genops:{a}") == "moved"


async def test_a_node_that_is_gone_is_passed_over() -> None:
    """Where the first node of a cluster is not there, the next one is asked."""
    with clustered(VALKEY, primaries=1) as cluster:
        place = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{cluster.nodes[0].port}"
        await set_through(place)
