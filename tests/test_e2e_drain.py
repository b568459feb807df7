"""How it stops: SIGTERM loses no request, straight or through Envoy."""

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, ResponseReceived
from h2.settings import SettingCodes, Settings

from gateway import envoy, upstream
from genops_extauth._pb import ext_authz_pb2 as authz
from genops_extauth.grpc_face import AUTHORIZATION
from manifests import Manifest
from sidecar import CHECK, TRANSPORTS, Sidecar, serving, settings, token
from stores import VALKEY, eventually, running
from traffic import traffic

DELAY = 0.8
"""Seconds that a sidecar serves on after SIGTERM."""
SLACK = 0.2
"""Seconds that a busy machine may take to send a request."""

SERVING, NOT_SERVING = (health_pb2.HealthCheckResponse.ServingStatus.Value(name) for name in ("SERVING", "NOT_SERVING"))

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


def draining(transport: str, address: str = "127.0.0.1:0", store: str = "embedded:") -> dict[str, Any]:
    server = {"transport": transport, "drain_delay": f"{DELAY * 1000:g}ms", "grpc": address}
    return settings(server=server, store={"url": store})


@contextlib.contextmanager
def calling(sidecar: Sidecar) -> Iterator[Callable[[], str]]:
    """One Check of a good token: which half of the answer is filled."""
    message = authz.CheckRequest()
    message.attributes.request.http.MergeFrom(authz.AttributeContext.HttpRequest(method=b"GET", path=b"/v1"))
    message.attributes.request.http.headers["authorization"] = f"Bearer {token()}".encode()
    body = message.SerializeToString()
    with sidecar.calls(CHECK) as check:
        yield lambda: str(authz.CheckResponse.FromString(check(body)).WhichOneof("http_response"))


@contextlib.contextmanager
def watching(sidecar: Sidecar) -> Iterator[Callable[[], int]]:
    """Its health as it changes. It is a call that never ends: while it lasts the sidecar waits for it to stop."""
    with sidecar.channel() as channel:
        answers = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=AUTHORIZATION))
        yield lambda: int(next(answers).status)
        answers.cancel()


@contextlib.contextmanager
def stalled(address: str) -> Iterator[None]:
    """A client that watches health and reads nothing: its HTTP/2 window is 0, so the first answer cannot leave."""
    host, _, port = address.rpartition(":")
    peer = H2Connection(H2Configuration(client_side=True))
    peer.local_settings = Settings(client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 0})
    peer.initiate_connection()
    fields = {":method": "POST", ":scheme": "http", ":authority": address, ":path": "/grpc.health.v1.Health/Watch"}
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        stream = peer.get_next_available_stream_id()
        peer.send_headers(stream, [*fields.items(), ("te", "trailers"), ("content-type", "application/grpc")])
        peer.send_data(stream, bytes(5), end_stream=True)  # An uncompressed message of no bytes: the service "".
        events: list[Event] = []
        while not any(isinstance(event, ResponseReceived) for event in events):
            connection.sendall(peer.data_to_send())
            events = peer.receive_data(connection.recv(65536))
        connection.sendall(peer.data_to_send())
        yield


@each_transport
def test_a_client_that_stopped_reading_holds_nothing_up(transport: str) -> None:
    """A client that watches health and does not read keeps neither health from others nor SIGTERM from ending it."""
    server = {"transport": transport, "drain_delay": "0s", "shutdown_grace": "1s"}
    with serving(settings(server=server)) as sidecar, stalled(sidecar.grpc):
        assert sidecar.health() == "SERVING"
        sidecar.stop()


@each_transport
def test_no_call_is_lost(transport: str) -> None:
    """SIGTERM: it says NOT_SERVING at once and answers on for its delay; then it ends, with exit code 0."""
    with serving(draining(transport)) as sidecar, calling(sidecar) as call, traffic(check=call) as sent:
        with watching(sidecar) as health:
            assert health() == SERVING
            sent.wait(check="ok_response")
            asked = time.monotonic()
            sidecar.signal(signal.SIGTERM)
            assert health() == NOT_SERVING
        told = time.monotonic()
        assert told < asked + DELAY - SLACK
        assert [sidecar.get(path)[0] for path in ("/readyz", "/healthz")] == [503, 200]
        eventually(lambda: sidecar.ended is not None)
        assert (sidecar.ended, sidecar.errors) == (0, "")
        assert sidecar.said("draining")
        assert sidecar.said("stopped")
        # Whatever was sent later may have met a closed port.
        assert set(sent.results("check", until=asked + DELAY - SLACK)) == {"ok_response"}
        assert len(sent.results("check", since=told, until=asked + DELAY - SLACK)) > 10


@each_transport
def test_a_second_signal_ends_the_wait(transport: str) -> None:
    """Who sends SIGTERM again does not want to wait: it closes the port at once, and ends well."""
    with serving(settings(server={"transport": transport, "drain_delay": "10m"})) as sidecar:
        sidecar.signal(signal.SIGTERM)
        eventually(lambda: bool(sidecar.said("draining")))
        assert sidecar.ended is None
        sidecar.stop()


def often(bootstrap: Manifest) -> None:
    """Look at the sidecars' health oftener than the documentation does, in the proportion of our shorter delay."""
    (cluster,) = (c for c in bootstrap["static_resources"]["clusters"] if c["name"] == "genops-extauth")
    cluster["health_checks"][0] |= {"interval": "0.1s", "no_traffic_interval": "0.1s"}
    # What Envoy finds out within this time of its last finding it acts on afterwards: 1 s by default.
    cluster["common_lb_config"] = {"update_merge_window": "0.1s"}


@each_transport
def test_a_rolling_restart_is_not_noticed(transport: str) -> None:
    """Of two sidecars one after the other is stopped and started: through Envoy every request has its answer."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(running(VALKEY)).url
        sidecars = [stack.enter_context(serving(draining(transport, store=store))) for _ in range(2)]
        service = stack.enter_context(upstream())
        gateway = stack.enter_context(envoy(service, *(sidecar.grpc for sidecar in sidecars), changes=[often]))
        good, bad = token(customer_tier="premium"), token(exp=1)
        asks: dict[str, Callable[[], object]] = {
            "good": lambda: gateway.get("/good", good).status,
            "bad": lambda: gateway.get("/bad", bad).status,
        }
        with traffic(**asks) as sent:
            for sidecar in sidecars:
                sent.wait(good=200, bad=401)
                sidecar.stop()
                eventually(lambda: gateway.unhealthy)
                sidecar.configure(draining(transport, sidecar.grpc, store))
                sidecar.start()
                eventually(lambda: not gateway.unhealthy)
            sent.wait(good=200, bad=401)
        assert set(sent.results("good")) == {200}
        assert set(sent.results("bad")) == {401}
