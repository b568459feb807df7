"""A sidecar as its operator runs it: a process, its configuration in a file, its log to read."""

import contextlib
import copy
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

import leaks
import minting
from stores import eventually

TRANSPORTS = ("grpcio", "native")
CHECK = "/envoy.service.auth.v3.Authorization/Check"
LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

KEY = minting.ed_pair()
"""What the tokens of these tests are signed with."""

_SETTINGS: dict[str, Any] = {
    "server": {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "drain_delay": "0s"},
    "log": {"level": "debug"},
    # On a busy machine nobody is to be late but by a defect.
    "store": {"timeout": "5s"},
    "identity": {
        "jwt": [
            {
                "issuer": minting.ISSUER,
                "audiences": [minting.AUDIENCE],
                "algorithms": [KEY.algorithm],
                "keys": {"public_key_file": "key.pem"},
                "claims": {"customer_id": "customer_id", "customer_tier": "customer_tier"},
            }
        ]
    },
    "tiers": {"free": {"limit": "10/day", "burst": 5}, "premium": {"limit": "100000/hour"}},
    "routes": [{"methods": ["GET"], "path": "/open", "auth": "none"}],
}


def settings(**sections: Any) -> dict[str, Any]:
    """The configuration of these tests; a section that is a mapping adds to it, any other replaces it."""
    changed = copy.deepcopy(_SETTINGS)
    for name, section in sections.items():
        known = changed.get(name)
        changed[name] = {**known, **section} if isinstance(known, dict) and name != "tiers" else section
    return changed


def token(key: minting.KeyPair = KEY, /, **claims: Any) -> str:
    """A token that is good now; a claim can be changed, or left out with None."""
    return leaks.plant(minting.token(key, minting.claims(time.time(), **claims)).decode())


class Sidecar:
    """`genops-extauth serve` in `folder`. Addresses are known once it is started."""

    def __init__(self, folder: Path, configured: Mapping[str, Any], **environ: str) -> None:
        self.config = folder / "genops.yaml"
        self.grpc = self.http = self.debug = ""
        self._environ = {**os.environ, **environ}
        # Not beside the configuration: that folder is watched, and each line would be a change in it.
        said = folder / "said"
        said.mkdir()
        self._log, self._errors = said / "log", said / "errors"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "key.pem").write_bytes(KEY.public_pem())
        self.configure(configured)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def configure(self, configured: Mapping[str, Any] | str) -> None:
        """Write the configuration file anew, as editors do: another file takes its place."""
        text = configured if isinstance(configured, str) else yaml.safe_dump(dict(configured))
        written = self.config.with_suffix(".new")
        written.write_text(text)
        written.replace(self.config)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        before = len(self.said("listening"))
        with self._log.open("ab") as log, self._errors.open("ab") as errors:
            command = (sys.executable, "-m", "genops_extauth", "serve", "-c", self.config)
            self._process = subprocess.Popen(command, stdout=log, stderr=errors, env=self._environ)
        eventually(lambda: len(self.said("listening")) > before or self.ended is not None, within=30)
        assert self.ended is None, f"it ended with {self.ended}: {self.errors}"
        listening = self.said("listening")[-1]
        self.grpc, self.http, self.debug = (listening.get(face, "") for face in ("grpc", "http", "debug"))

    @property
    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        return None if self._process is None else self._process.poll()

    @property
    def errors(self) -> str:
        """What it wrote to standard error."""
        return self._errors.read_text() if self._errors.exists() else ""

    @property
    def log(self) -> str:
        """What it wrote to standard output."""
        return self._log.read_text() if self._log.exists() else ""

    def said(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of one event. The last line may still be under way."""
        lines = self.log.split("\n")[:-1]
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, as an operator never should."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop it as Kubernetes does, and wait. It ends well, and has nothing to say on standard error.

        Nothing that it ever showed holds a credential that a test sent, whichever test that was.
        """
        shown = self._pages()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                code = self._process.wait(timeout=20)
            finally:
                self._process.kill()
            assert (code, self.errors) == (0, "")
        leaks.search(log=self.log, errors=self.errors, **shown)

    def _pages(self) -> dict[str, str]:
        """What it shows to operators at its end, if it still does."""
        asked = {"/metrics": self.http, "/readyz": self.http, "/rlconfig": self.debug, "/stats": self.debug}
        shown = {}
        for path, address in asked.items():
            with contextlib.suppress(OSError, http.client.HTTPException):
                shown[path] = _get(address, path)[1] if address else ""
        return shown

    def get(self, path: str) -> tuple[int, str]:
        """Ask its HTTP port."""
        return _get(self.http, path)

    def metric(self, series: str) -> float:
        """The present value of one series, as Prometheus reads it; 0 where there is none."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    @contextlib.contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        # By default gRPC's clients share connections, also those to a server that is no more.
        with grpc.insecure_channel(self.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield channel

    @contextlib.contextmanager
    def calls(self, method: str) -> Iterator[Callable[[bytes], bytes]]:
        """Calls of one of its methods, over one connection as Envoy's. They raise grpc.RpcError."""
        with self.channel() as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)

            def ask(body: bytes) -> bytes:
                leaks.plant_all(body)
                answer = call(body, timeout=10)
                leaks.search(answer=answer.decode("latin-1"))
                return answer

            yield ask

    def health(self, service: str = "") -> str:
        """Ask for its health, as gateways do."""
        with self.channel() as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _get(address: str, path: str) -> tuple[int, str]:
    host, _, port = address.rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def failure(error: grpc.RpcError) -> grpc.StatusCode:
    """How a call failed. What is raised is a grpc.Call as well, which its type does not say."""
    return cast("grpc.Call", error).code()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="sidecar-") as name:
        yield Path(name)


@contextlib.contextmanager
def serving(configured: Mapping[str, Any] | None = None, **environ: str) -> Iterator[Sidecar]:
    """A sidecar that runs, for as long as the context."""
    with folder() as place:
        sidecar = Sidecar(place, settings() if configured is None else configured, **environ)
        try:
            sidecar.start()
            yield sidecar
        finally:
            sidecar.stop()
