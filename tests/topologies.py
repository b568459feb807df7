"""Several servers together, for tests: a primary with replicas and sentinels, and a Cluster."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from stores import Server, eventually, free_port, running

MASTER = "main"


@dataclass(frozen=True, slots=True)
class Watched:
    """A primary, its replica, and the ports of their sentinels."""

    servers: tuple[Server, ...]
    sentinels: tuple[int, ...]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.sentinels)}/{MASTER}"

    def primary(self) -> Server:
        """The server that the sentinels name."""
        port = named(self.sentinels[0])
        return next(server for server in self.servers if server.port == port)

    def agreed(self) -> bool:
        """Whether the sentinels know each other and the replica."""
        for port in self.sentinels:
            with redis.Redis(port=port, decode_responses=True) as client:
                known = client.sentinel_master(MASTER)
            if known["num-other-sentinels"] != len(self.sentinels) - 1 or known["num-slaves"] < 1:
                return False
        return True


def named(sentinel: int) -> int:
    with redis.Redis(port=sentinel) as client:
        return int(client.sentinel_get_master_addr_by_name(MASTER)[1])


@contextlib.contextmanager
def watched(binary: str, *, password: str = "", sentinel_password: str = "") -> Iterator[Watched]:
    """A primary with a replica, watched by three sentinels."""
    with contextlib.ExitStack() as stack:
        auth = ("--requirepass", password, "--masterauth", password) if password else ()
        quick = ("--repl-diskless-sync-delay", "0", *auth)
        first = stack.enter_context(running(binary, *quick, port=free_port()))
        follow = ("--replicaof", "127.0.0.1", str(first.port))
        second = stack.enter_context(running(binary, *quick, *follow, port=free_port()))
        eventually(lambda: follows(second, password), within=30)
        sentinels = [stack.enter_context(sentinel(binary, first.port, password, sentinel_password)) for _ in range(3)]
        found = Watched((first, second), tuple(each.port for each in sentinels))
        if not sentinel_password:
            eventually(found.agreed, within=30)
        yield found


@contextlib.contextmanager
def sentinel(binary: str, port: int, password: str, own: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sentinel-") as folder:
        lines = [
            f"sentinel monitor {MASTER} 127.0.0.1 {port} 2",
            f"sentinel down-after-milliseconds {MASTER} 500",
            f"sentinel failover-timeout {MASTER} 5000",
            *([f"sentinel auth-pass {MASTER} {password}"] if password else []),
            *([f"requirepass {own}", f"sentinel sentinel-pass {own}"] if own else []),
        ]
        file = Path(folder) / "sentinel.conf"
        file.write_text("\n".join(lines) + "\n")
        with running(binary, port=free_port(), first=(str(file), "--sentinel")) as server:
            yield server


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes of a Cluster: primaries first, then, in the same order, their replicas."""

    nodes: tuple[Server, ...]
    primaries: int

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    def settled(self) -> bool:
        """Whether every node knows all the others, and that every slot is served."""
        infos = [str(command(node, "CLUSTER", "INFO")) for node in self.nodes]
        return all("state:ok" in info and f"known_nodes:{len(self.nodes)}" in info for info in infos)


def command(server: Server, *words: str | int) -> object:
    """What a server answers to a command."""
    with server.client(decode_responses=True) as client:
        answer: object = client.execute_command(*words)  # type: ignore[no-untyped-call] # redis-py leaves it bare
        return answer


@contextlib.contextmanager
def clustered(binary: str, *, primaries: int = 3, replicas: int = 0) -> Iterator[Cluster]:
    """A Cluster whose slots are divided evenly."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--repl-diskless-sync-delay", "0")
    with contextlib.ExitStack() as stack:
        # The bus has its own port: 10,000 more than the other, the default, is often none.
        buses = [free_port() for _ in range(primaries + replicas)]
        nodes = [
            stack.enter_context(running(binary, *options, "--cluster-port", str(bus), port=free_port()))
            for bus in buses
        ]
        _join(nodes, buses[0], primaries)
        cluster = Cluster(tuple(nodes), primaries)
        eventually(cluster.settled, within=30)
        for number, replica in enumerate(nodes[primaries:]):
            _follow(replica, nodes[number % primaries])
        yield cluster


def _join(nodes: Sequence[Server], bus: int, primaries: int) -> None:
    edges = [16_384 * number // primaries for number in range(primaries + 1)]
    for number, node in enumerate(nodes):
        command(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        if number < primaries:
            command(node, "CLUSTER", "ADDSLOTSRANGE", edges[number], edges[number + 1] - 1)
        if number:
            command(node, "CLUSTER", "MEET", "127.0.0.1", nodes[0].port, bus)


def _follow(replica: Server, primary: Server) -> None:
    identity = str(command(primary, "CLUSTER", "MYID"))
    command(replica, "CLUSTER", "REPLICATE", identity)
    eventually(lambda: follows(replica), within=30)


def follows(replica: Server, password: str = "") -> bool:
    """Whether a replica has all that its primary has."""
    with replica.client(password=password or None) as client:
        return bool(client.info("replication").get("master_link_status") == "up")
