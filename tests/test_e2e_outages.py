"""Through a real Envoy, under traffic: the sidecar dies, the store dies, and both come back by themselves."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from gateway import Gateway, Upstream, envoy, open_without_limiter, upstream
from genops_extauth.grpc_face import AUTHORIZATION, RATE_LIMIT
from sidecar import TRANSPORTS, Sidecar, serving, settings, token
from stores import VALKEY, Server, eventually, free_port, running
from traffic import traffic

PREMIUM = {"customer_tier": "premium", "customer_id": "acme"}

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


def asks(gateway: Gateway, path: str, credential: str) -> Callable[[], int]:
    return lambda: gateway.get(path, credential).status


@each_transport
def test_a_dead_sidecar_lets_nobody_pass(transport: str) -> None:
    """While the sidecar is dead every answer is 503, none a pass or a verdict; it comes back by itself."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(upstream())
        address = f"127.0.0.1:{free_port()}"
        sidecar = stack.enter_context(serving(settings(server={"transport": transport, "grpc": address})))
        gateway = stack.enter_context(envoy(service, sidecar.grpc))
        good, bad = asks(gateway, "/good", token(**PREMIUM)), asks(gateway, "/bad", token(exp=1))
        with traffic(good=good, bad=bad) as sent:
            for _ in range(2):
                sent.wait(good=200, bad=401)
                sidecar.kill()
                died = time.monotonic()
                sent.wait(good=503, bad=503)
                assert set(sent.results("good", since=died)) == set(sent.results("bad", since=died)) == {503}
                sidecar.start()
            sent.wait(good=200, bad=401)
        assert set(sent.results("good")) == {200, 503}
        assert set(sent.results("bad")) == {401, 503}
        assert "/bad" not in service.targets


@dataclass(frozen=True)
class Bench:
    """A sidecar behind two Envoys: one refuses what nobody could limit, `open` lets it pass."""

    store: Server
    sidecar: Sidecar
    closed: Gateway
    open: Gateway
    service: Upstream


@pytest.fixture(scope="module", params=TRANSPORTS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(running(VALKEY))
        configured = settings(server={"transport": request.param}, store={"url": store.url, "timeout": "300ms"})
        sidecar = stack.enter_context(serving(configured))
        service = stack.enter_context(upstream())
        closed = stack.enter_context(envoy(service, sidecar.grpc))
        lenient = stack.enter_context(envoy(service, sidecar.grpc, changes=[open_without_limiter]))
        yield Bench(store, sidecar, closed, lenient, service)


OUTAGES: dict[str, tuple[Callable[[Server], None], Callable[[Server], None]]] = {
    "killed": (Server.stop, Server.start),
    "frozen": (Server.freeze, Server.thaw),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_dead_store_takes_nobodys_identity(bench: Bench, outage: str) -> None:
    """While the store is dead or silent, who may not pass is told so, and who may is limited as the gateway chose.

    Health says NOT_SERVING of the limiter alone. When the store is back, limits are too, with no restart.
    """
    begin, end = OUTAGES[outage]
    good, bad = token(**PREMIUM), token(exp=1)
    kinds = {"closed": bench.closed, "open": bench.open}
    asked = {f"good_{name}": asks(gateway, "/good", good) for name, gateway in kinds.items()}
    asked |= {f"bad_{name}": asks(gateway, "/bad", bad) for name, gateway in kinds.items()}
    with traffic(**asked) as sent:
        sent.wait(good_closed=200, good_open=200, bad_closed=401, bad_open=401)
        begin(bench.store)
        sent.wait(good_closed=503, good_open=200, bad_closed=401, bad_open=401)
        eventually(lambda: bench.sidecar.health(RATE_LIMIT) == "NOT_SERVING")
        assert [bench.sidecar.health(name) for name in ("", AUTHORIZATION)] == ["SERVING", "SERVING"]
        assert bench.sidecar.get("/readyz")[0] == 200
        end(bench.store)
        sent.wait(good_closed=200)
        eventually(lambda: bench.sidecar.health(RATE_LIMIT) == "SERVING")
        back = time.monotonic()
        sent.wait(good_closed=200, good_open=200)
    assert set(sent.results("good_closed")) == {200, 503}
    assert set(sent.results("good_closed", since=back)) == {200}
    assert set(sent.results("good_open")) == {200}
    assert set(sent.results("bad_closed")) == set(sent.results("bad_open")) == {401}
    assert "/bad" not in bench.service.targets


def test_an_outage_is_told(bench: Bench) -> None:
    """An outage of the store stands in the log, when it begins and when it ends, and in the metrics by its kind."""
    told = len(bench.sidecar.said("store_unavailable")), len(bench.sidecar.said("store_available"))
    bench.store.stop()
    eventually(lambda: len(bench.sidecar.said("store_unavailable")) > told[0])
    line = bench.sidecar.said("store_unavailable")[-1]
    assert (line["level"], line["consequence"]) == ("error", "identity works; rate limits cannot decide")
    before = bench.sidecar.metric('genops_store_errors_total{kind="unreachable"}')
    assert bench.closed.get(token=token(**PREMIUM)).status == 503
    assert bench.sidecar.metric('genops_store_errors_total{kind="unreachable"}') == before + 1
    bench.store.start()
    eventually(lambda: len(bench.sidecar.said("store_available")) > told[1])
