"""envoyproxy/ratelimit's place taken by ours: `genops-extauth ratelimit` as a process, with that one's environment."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import grpc
from envoy_data_plane.envoy.extensions.common.ratelimit.v3 import RateLimitDescriptor, RateLimitDescriptorEntry
from envoy_data_plane.envoy.service.ratelimit.v3 import RateLimitRequest, RateLimitResponse
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar import LIMIT
from stores import eventually

HERE: Mapping[str, str] = {
    # Free ports of the loopback, which its log tells, for one line of it is one of JSON.
    **dict.fromkeys(("HOST", "GRPC_HOST", "DEBUG_HOST"), "127.0.0.1"),
    **dict.fromkeys(("PORT", "GRPC_PORT", "DEBUG_PORT"), "0"),
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "json",
    # On a busy machine nobody is to be late but by a defect.
    "REDIS_TIMEOUT": "5s",
}

# No variable chooses the transport: nobody would take the slower one.
_LAUNCH = {
    "native": "from genops_extauth.cli import main; main()",
    "grpcio": "from genops_extauth import app, cli; app.choose_transport = lambda _: 'grpcio'; cli.main()",
}


def command(transport: str = "native") -> tuple[str, ...]:
    return (sys.executable, "-c", _LAUNCH[transport], "ratelimit")


class Ports:
    """What a limiter says at its ports; `listening` are their addresses."""

    def __init__(self, listening: Mapping[str, str]) -> None:
        self.listening = listening

    def http(self, method: str, path: str, body: str = "", face: str = "http") -> tuple[int, str]:
        """Ask one of its HTTP ports."""
        host, _, port = self.listening[face].rpartition(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def get(self, path: str, face: str = "http") -> tuple[int, str]:
        return self.http("GET", path, face=face)

    def metric(self, series: str, face: str = "http") -> float:
        """The present value of one series, as Prometheus reads it; 0 where there is none."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.get("/metrics", face)[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    @contextlib.contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        # By default gRPC's clients share connections, also those to a server that is no more.
        with grpc.insecure_channel(self.listening["grpc"], options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield channel

    def call(self, method: str, body: bytes = b"") -> bytes:
        """Call one of its methods. Raises grpc.RpcError."""
        with self.channel() as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            return call(body, timeout=10)

    def limit(self, domain: str, /, **entries: str) -> RateLimitResponse:
        """Ask it to limit one descriptor, by an encoder that shares nothing with ours."""
        descriptor = RateLimitDescriptor(
            entries=[RateLimitDescriptorEntry(key=key, value=value) for key, value in entries.items()]
        )
        body = bytes(RateLimitRequest(domain=domain, descriptors=[descriptor]))
        return RateLimitResponse.parse(self.call(LIMIT, body))

    def limit_of(self, domain: str, /, **entries: str) -> int | None:
        """The limit that a descriptor meets, in requests per unit. A unit of it is spent."""
        met = self.limit(domain, **entries).statuses[0].current_limit
        return None if met is None else met.requests_per_unit

    def health(self, service: str = "") -> str:
        """Ask for its health, as gateways do."""
        with self.channel() as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


class Limiter(Ports):
    """The process. `environ` is all that it has of the environment, but for its home."""

    def __init__(self, folder: Path, environ: Mapping[str, str], transport: str = "native") -> None:
        home = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME", "TMPDIR") if name in os.environ}
        self._environ = {**home, **HERE, **environ}
        self._command = command(transport)
        self._log, self._errors = folder / "log", folder / "errors"
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__({})

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.launch()
        eventually(lambda: bool(self.said("listening")) or self.ended is not None, within=30)
        assert self.ended is None, self.errors
        self.listening = self.said("listening")[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing that runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        with self._log.open("ab") as log, self._errors.open("ab") as errors:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=errors, env=self._environ)

    @property
    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        return None if self._process is None else self._process.poll()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def said(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of one event. The last line may still be under way."""
        lines = self._log.read_text().split("\n")[:-1]
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def terminate(self) -> None:
        """Ask it to stop, as Kubernetes does, and wait until it has heard."""
        assert self._process is not None
        self._process.terminate()
        eventually(lambda: bool(self.said("draining")) or self.ended is not None)

    def stop(self) -> int:
        """Stop it, and wait; returns its exit code."""
        assert self._process is not None
        self.terminate()
        self._process.terminate()  # The second signal ends the delay.
        try:
            return self._process.wait(timeout=20)
        finally:
            self._process.kill()


@contextlib.contextmanager
def limiting(folder: Path, environ: Mapping[str, str], transport: str = "native") -> Iterator[Limiter]:
    """One that runs for as long as the context, and ends well."""
    with Limiter(folder, environ, transport) as limiter:
        limiter.start()
        yield limiter
        if limiter.ended is None:
            assert limiter.stop() == 0, limiter.errors
