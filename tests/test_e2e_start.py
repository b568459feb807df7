"""How it starts: where it listens, what keeps it from starting, and what does not."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import envoy, upstream
from genops_extauth._pb import rls_pb2 as rls
from genops_extauth.grpc_face import AUTHORIZATION, RATE_LIMIT
from sidecar import KEY, LIMIT, TRANSPORTS, Sidecar, folder, serving, settings, token
from stores import VALKEY, Server, alive, eventually, free_port

OK, OVER_LIMIT = rls.RateLimitResponse.OK, rls.RateLimitResponse.OVER_LIMIT

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as made:
        yield made


def refused(place: Path, configured: dict[str, Any], **environ: str) -> str:
    """The last thing that it says on standard error when it does not start; its exit code is 2.

    gRPC's core has its say there before.
    """
    (place / "key.pem").write_bytes(KEY.public_pem())
    (place / "genops.yaml").write_text(yaml.safe_dump(configured))
    ended = subprocess.run(
        [sys.executable, "-m", "genops_extauth", "serve", "-c", place / "genops.yaml"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environ},
    )
    assert ended.returncode == 2, ended.stderr
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("genops-extauth: ")
    return line


@contextlib.contextmanager
def taken(family: socket.AddressFamily, address: Any) -> Iterator[Any]:
    """Somebody else listens there."""
    with socket.socket(family) as other:
        other.bind(address)
        other.listen()
        yield other.getsockname()


@each_transport
def test_a_taken_port_is_said(place: Path, transport: str) -> None:
    """Where another process listens on its gRPC port, it ends with the address and what to do."""
    with taken(socket.AF_INET, ("127.0.0.1", 0)) as (_, port):
        said = refused(place, settings(server={"transport": transport, "grpc": f"127.0.0.1:{port}"}))
    assert f"server.grpc: cannot listen on 127.0.0.1:{port}" in said
    assert "stop the other process, or choose another" in said


@each_transport
def test_a_second_sidecar_takes_no_calls(place: Path, transport: str) -> None:
    """A second sidecar on the first one's port does not start: it would take half of the calls without a word."""
    with serving(settings(server={"transport": transport})) as first:
        said = refused(place, settings(server={"transport": transport, "grpc": first.grpc}))
        assert f"cannot listen on {first.grpc}" in said
        assert first.health() == "SERVING"


def test_a_taken_http_port_is_said(place: Path) -> None:
    """Where another process listens on its HTTP port, it ends with the address and what to do."""
    with taken(socket.AF_INET, ("127.0.0.1", 0)) as (_, port):
        said = refused(place, settings(server={"http": f"127.0.0.1:{port}"}))
    assert f"server.http: cannot listen on 127.0.0.1:{port}" in said
    assert "choose another" in said


@each_transport
def test_a_live_socket_is_left_alone(place: Path, transport: str) -> None:
    """Where another process listens on its unix socket, it ends and says so; the other one notices nothing."""
    address = f"unix:{place / 'grpc.sock'}"
    with serving(settings(server={"transport": transport, "grpc": address})) as first:
        said = refused(place, settings(server={"transport": transport, "grpc": address}))
        assert f"{address}: another process listens there; stop it, or choose another path" in said
        assert first.health() == "SERVING"


@each_transport
def test_a_file_is_no_socket(place: Path, transport: str) -> None:
    """Where a file stands in the place of its unix socket, it ends and says so, and the file stays what it is."""
    (place / "notes").write_text("dear to somebody")
    said = refused(place, settings(server={"transport": transport, "grpc": f"unix:{place / 'notes'}"}))
    assert "a file that is no socket stands there" in said
    assert (place / "notes").read_text() == "dear to somebody"


@each_transport
def test_a_missing_folder_is_said(place: Path, transport: str) -> None:
    """Where the folder of its unix socket does not exist, it ends and says which."""
    said = refused(place, settings(server={"transport": transport, "grpc": f"unix:{place / 'run' / 'grpc.sock'}"}))
    assert f"there is no folder {place / 'run'}; make it" in said


@each_transport
def test_it_serves_on_a_unix_socket(place: Path, transport: str) -> None:
    """On a unix socket Envoy is served as on a port, also where a killed process left the socket's file."""
    address = f"unix:{place / 'grpc.sock'}"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(serving(settings(server={"transport": transport, "grpc": address})))
        first.kill()
        assert (place / "grpc.sock").is_socket()
        first.start()
        assert first.grpc == address
        gateway = stack.enter_context(envoy(stack.enter_context(upstream()), first.grpc))
        assert gateway.get(token=token()).status == 200
        assert gateway.get().status == 401


@each_transport
def test_a_store_that_is_not_there_keeps_nothing_from_starting(place: Path, transport: str) -> None:
    """Without its store it starts, decides who passes, limits within its allowance, and says so.

    Once the store is there, it limits there, and what it granted before counts.
    """
    store = Server(VALKEY, place)
    configured = settings(server={"transport": transport}, store={"url": store.url})
    configured["identity"]["revocation"] = {"max_wait": "0s"}  # for the list of what is revoked, which is there too
    with contextlib.closing(contextlib.ExitStack()) as stack:
        sidecar = stack.enter_context(serving(configured))
        (line,) = sidecar.said("store_unavailable")
        assert line["level"] == "error"
        assert "check the address" in line["detail"]
        assert [sidecar.health(name) for name in ("", AUTHORIZATION, RATE_LIMIT)] == ["SERVING"] * 3
        status, ready = sidecar.get("/readyz")
        assert status == 200
        assert "degraded" in ready
        # A tenth of the bucket of 5, and at least one.
        assert [limit(sidecar).overall_code for _ in range(2)] == [OK, OVER_LIMIT]
        store.start()
        stack.callback(store.stop)
        eventually(lambda: sidecar.said("store_available") != [])
        eventually(lambda: sidecar.metric("genops_store_owed_tokens") == 0)
        assert [limit(sidecar).overall_code for _ in range(5)] == [OK] * 4 + [OVER_LIMIT]


def limit(sidecar: Sidecar) -> rls.RateLimitResponse:
    entries = [rls.RateLimitDescriptor.Entry(key=b"customer_id", value=b"acme")]
    asked = rls.RateLimitRequest(domain=b"genops", descriptors=[rls.RateLimitDescriptor(entries=entries)])
    with sidecar.calls(LIMIT) as call:
        return rls.RateLimitResponse.FromString(call(asked.SerializeToString()))


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{port}/0", "127.0.0.1:{port}"])
def test_a_store_over_tcp_may_come_later(url: str) -> None:
    """A store address where nobody listens yet is asked again until somebody does."""
    with folder() as place:
        store = Server(VALKEY, place, port=free_port())
        with serving(settings(store={"url": url.format(port=store.port)})) as sidecar:
            assert "degraded" in sidecar.get("/readyz")[1]
            try:
                store.start()
                eventually(lambda: '"rate_limit": "ready"' in sidecar.get("/readyz")[1])
            finally:
                store.stop()


def test_the_embedded_store_goes_with_it() -> None:
    """With no store configured it brings its own, which ends with it, also when it is killed."""
    with serving() as sidecar:
        (valkey,) = children(sidecar.pid)
        sidecar.signal(signal.SIGKILL)
        eventually(lambda: not alive(valkey))
        sidecar.kill()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
