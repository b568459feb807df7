"""Transports, ports, drain.

Two transports run the same handlers. ``grpcio`` is always there. ``native`` (pygrpc-native) does HTTP/2 in Rust
outside the GIL, and serves several times as many requests a core; it has no TLS, and no need of it beside a gateway
or on a unix socket.

Draining loses no request: health says NOT_SERVING first, gateways and Kubernetes take the address out of rotation
while we still serve (`drain_delay`), and only then the listener closes and calls in flight finish (`grace`).
"""

import asyncio
import contextlib
import importlib.util
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import grpc
from aiohttp import web
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health

from genops_extauth.server_tls import ServerTls

Transport = Literal["grpcio", "native"]
Handlers = Mapping[str, Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"]]

# A Check carries the client's headers (Envoy: at most 8 MiB) and as much of the body as the operator lets it; a
# message over the limit would fail the call, and failure_mode_allow would let the request pass. So the limit is far
# above what a gateway sends.
_LARGEST_MESSAGE = 64 << 20  # bytes

_OPTIONS = (
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    # Without this a second server on the port binds silently and takes half of the calls.
    ("grpc.so_reuseport", 0),
    # One Envoy worker keeps one connection and runs all its calls over it; the default of 100 (HTTP/2's
    # recommendation) makes it queue.
    ("grpc.max_concurrent_streams", 1 << 16),
)


_TOLD = 0.1  # seconds for telling those who watch health; it takes microseconds where they read
_TAKEN = "the address is taken, or not this machine's; stop the other process, or choose another"


class ListenError(Exception):
    """Raised when an address cannot be listened on; the message says what to do."""


def choose_transport(wanted: Literal["auto", "grpcio", "native"]) -> Transport:
    """Resolve ``server.transport``. Raises `ListenError` where ``native`` is asked for and not installed."""
    installed = importlib.util.find_spec("pygrpc_native") is not None
    if wanted == "native" and not installed:
        raise ListenError("server.transport: native needs `pip install 'genops-extauth[native]'`; or use auto")
    return "native" if installed and wanted != "grpcio" else "grpcio"


class GrpcServer:
    """The gRPC port: the given services, and grpc.health.v1 for each of them; `tls` on ``grpcio`` only."""

    def __init__(self, handlers: Handlers, address: str, transport: Transport, tls: ServerTls | None = None) -> None:
        self._address = address
        self.transport = transport
        self._tls = tls
        self._server = _native_server() if transport == "native" else _grpcio_server(tls)
        self.health = grpc_health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        for service, methods in handlers.items():
            generic = grpc.method_handlers_generic_handler(service, dict(methods))
            self._server.add_generic_rpc_handlers((generic,))
            self._server.add_registered_method_handlers(service, dict(methods))

    @property
    def certificate_expires(self) -> float | None:
        """When the certificate that clients are shown expires, in seconds since the epoch; None without TLS."""
        return None if self._tls is None else self._tls.expires

    async def start(self) -> str:
        """Listen, and return the address listened on (with the real port where 0 was asked for).

        Raises `ListenError`.
        """
        refuse_taken(self._address)
        try:
            port = self._bind()
        except RuntimeError as error:
            raise ListenError(f"server.grpc: cannot listen on {self._address}: {_TAKEN}") from error
        await self._server.start()
        return self._address if self._address.startswith("unix:") else f"{self._address.rpartition(':')[0]}:{port}"

    def _bind(self) -> int:
        if self._tls is None:
            return self._server.add_insecure_port(self._address)
        return self._server.add_secure_port(self._address, self._tls.credentials())

    async def serving(self, service: str, *, serving: bool) -> None:
        """Tell health watchers of a service; without effect once draining."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        with contextlib.suppress(TimeoutError):  # A client that watches and does not read must not stop the watch.
            async with asyncio.timeout(_TOLD):
                await self.health.set(service, status)

    async def stop(self, grace: float) -> None:
        """Take no new calls, and give those in flight `grace` seconds."""
        await self._server.stop(grace)


class HttpServer:
    """An HTTP port, that of a `setting`: health, readiness and metrics, or what operators look at."""

    def __init__(self, application: web.Application, address: str, setting: str = "server.http") -> None:
        self._address = address
        self._setting = setting
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False)

    async def start(self) -> str:
        """Listen, and return the address listened on. Raises `ListenError`."""
        host, _, port = self._address.rpartition(":")
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port), reuse_port=False).start()
        except OSError as error:
            raise ListenError(f"{self._setting}: cannot listen on {self._address}: {_TAKEN}") from error
        return f"{host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close the port and every connection."""
        await self._runner.cleanup()


def _grpcio_server(tls: ServerTls | None) -> grpc.aio.Server:
    return grpc.aio.server(options=_OPTIONS, interceptors=() if tls is None else tls.interceptors())


def _native_server() -> grpc.aio.Server:
    # `from pygrpc_native import aio` recurses without end in 0.5.0.
    import pygrpc_native.aio  # noqa: PLC0415 - the extra may not be installed

    server: grpc.aio.Server = pygrpc_native.aio.Server(options=_OPTIONS, io_threads=1)
    return server


def refuse_taken(address: str) -> None:
    """Raise `ListenError` where somebody listens on `address` already; remove the socket file of one who died.

    Both transports would take over a live unix socket without a word. A file that is no socket refuses connections
    too: it is left alone, whatever a configuration with a slip of the pen names.
    """
    if not address.startswith("unix:"):
        return
    path = Path(address.removeprefix("unix:"))
    if not path.parent.is_dir():
        raise ListenError(f"{address}: there is no folder {path.parent}; make it, or choose another path")
    if path.exists() and not path.is_socket():
        raise ListenError(f"{address}: a file that is no socket stands there; choose another path")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # Somebody listens, and has a full queue.
        except OSError:
            return
    raise ListenError(f"{address}: another process listens there; stop it, or choose another path")


async def drain(grpc_server: GrpcServer, hurry: asyncio.Event, delay: float, grace: float) -> None:
    """Stop without losing a request: NOT_SERVING, serve on for `delay` seconds (or until `hurry`), then finish."""
    # Beside us, for it waits for every client that watches, and one of them may have stopped reading.
    telling = asyncio.create_task(grpc_server.health.enter_graceful_shutdown())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(delay, _TOLD)):
            await (hurry.wait() if delay else telling)
    await grpc_server.stop(grace)
    telling.cancel()
