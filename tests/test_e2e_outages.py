"""Through a real Envoy, under traffic: the sidecar dies, the store dies, and both come back by themselves."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from gateway import Answer, Gateway, Upstream, envoy, limits_only, open_without_limiter, upstream
from genops_extauth._pb import rls_pb2 as rls
from genops_extauth.grpc_face import AUTHORIZATION, RATE_LIMIT
from road import Road
from sidecar import LIMIT, TRANSPORTS, Sidecar, folder, serving, settings, token
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


@pytest.mark.parametrize(("changes", "status"), [((), 503), ((open_without_limiter,), 200)], ids=["closed", "open"])
def test_the_gateway_chooses_what_a_dead_limiter_means(changes: tuple[Any, ...], status: int) -> None:
    """Where nobody limits, requests are refused, or pass with `failure_mode_deny: false`."""
    with contextlib.ExitStack() as stack:
        sidecar = stack.enter_context(serving())
        service = stack.enter_context(upstream())
        gateway = stack.enter_context(envoy(service, sidecar.grpc, changes=[limits_only, *changes]))
        assert gateway.get(headers=[("x-account", "acme")]).status == 200
        sidecar.kill()
        assert gateway.get(headers=[("x-account", "acme")]).status == status


BURST, ALLOWANCE, PROCESSES = 50, 5, 2
"""What a customer may do at once, a tenth of it, and how many sidecars there are. Ten tokens a day come back: none."""

TIERS = {
    "free": {"limit": "10/day", "burst": BURST},
    "lenient": {"limit": "10/day", "burst": 2, "outage": "open"},
    "premium": {"limit": "100000/hour"},
}


@dataclass(frozen=True)
class Bench:
    """Two sidecars of one store, each behind an Envoy of its own."""

    store: Server
    road: Road
    sidecars: list[Sidecar]
    gateways: list[Gateway]
    service: Upstream

    def left(self, customer: str, tier: str = "free") -> int:
        """What remains of a customer's bucket. Nothing is taken."""
        return int(self.limited(0, customer, tier, addend=0).statuses[0].limit_remaining)

    def limited(self, which: int, customer: str, tier: str, *, addend: int, phase: str = "") -> rls.RateLimitResponse:
        """Ask one of the sidecars, as a gateway with `hits_addend` would."""
        pairs = {"genops_phase": phase} if phase else {}
        pairs |= {"customer_tier": tier, "customer_id": customer}
        entries = [rls.RateLimitDescriptor.Entry(key=key.encode(), value=pairs[key].encode()) for key in pairs]
        descriptor = rls.RateLimitDescriptor(entries=entries)
        descriptor.hits_addend.value = addend
        asked = rls.RateLimitRequest(domain=b"genops", descriptors=[descriptor])
        with self.sidecars[which].calls(LIMIT) as call:
            return rls.RateLimitResponse.FromString(call(asked.SerializeToString()))

    def metrics(self, name: str) -> list[float]:
        return [sidecar.metric(name) for sidecar in self.sidecars]

    @contextlib.contextmanager
    def under_traffic(self) -> Iterator[None]:
        """Customers far from their limits, and others without a valid token: no verdict is wrong, whatever happens."""
        kinds: dict[str, Callable[[], object]] = {}
        for number, gateway in enumerate(self.gateways):
            kinds[f"good{number}"] = asks(gateway, "/good", token(**PREMIUM))
            kinds[f"bad{number}"] = asks(gateway, "/bad", token(exp=1))
        due = {kind: 200 if kind.startswith("good") else 401 for kind in kinds}
        with traffic(**kinds) as sent:
            sent.wait(**due)
            yield
            sent.wait(**due)
        assert {kind: set(sent.results(kind)) for kind in kinds} == {kind: {status} for kind, status in due.items()}
        assert "/bad" not in self.service.targets

    @contextlib.contextmanager
    def outage(self, kind: str) -> Iterator[None]:
        """The store away, under traffic; afterwards it is back, and all that was granted was charged."""
        begin, end = OUTAGES[kind]
        with self.under_traffic():
            begin(self)
            try:
                eventually(lambda: self.metrics("genops_store_outage") == [1, 1])
                yield
            finally:
                end(self)
            eventually(lambda: self.metrics("genops_store_outage") == [0, 0])
            eventually(lambda: self.metrics("genops_store_owed_tokens") == [0, 0])


OUTAGES: dict[str, tuple[Callable[[Bench], None], Callable[[Bench], None]]] = {
    "killed": (lambda bench: bench.store.stop(), lambda bench: bench.store.start()),
    "frozen": (lambda bench: bench.store.freeze(), lambda bench: bench.store.thaw()),
    "cut off": (lambda bench: bench.road.refuse(), lambda bench: bench.road.accept()),
    "mute": (lambda bench: bench.road.hold(), lambda bench: bench.road.release()),
}
"""How a store goes away and comes back. A killed one has forgotten everything; the others carry out what they got."""

each_outage = pytest.mark.parametrize("outage", OUTAGES)


@pytest.fixture(scope="module", params=TRANSPORTS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(running(VALKEY))
        road = stack.enter_context(Road(store.path).open())
        configured = settings(
            server={"transport": request.param},
            store={"url": road.url, "timeout": "300ms", "outage": {"processes": PROCESSES}},
            tiers=TIERS,
        )
        sidecars = [stack.enter_context(serving(configured)) for _ in range(PROCESSES)]
        service = stack.enter_context(upstream())
        gateways = [stack.enter_context(envoy(service, sidecar.grpc)) for sidecar in sidecars]
        yield Bench(store, road, sidecars, gateways, service)


@pytest.fixture
def customer() -> str:
    """A customer of this test alone."""
    return uuid.uuid4().hex


def at_once(gateway: Gateway, credential: str, count: int) -> list[Answer]:
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda _: gateway.get(token=credential), range(count)))


@each_outage
def test_each_process_grants_its_allowance(bench: Bench, customer: str, outage: str) -> None:
    """While the store is away each process grants a tenth of a bucket, then refuses; afterwards the store has it.

    So does it of everything that was granted while a tier is open: its customers come back to a bucket in debt.
    """
    mine, theirs = (token(customer_id=customer, customer_tier=tier) for tier in ("free", "lenient"))
    before = [bench.gateways[0].get(token=mine).status for _ in range(10)]
    with bench.outage(outage):
        with ThreadPoolExecutor(PROCESSES) as threads:
            answers = list(threads.map(lambda gateway: at_once(gateway, mine, 4 * ALLOWANCE), bench.gateways))
        lenient = [answer.status for gateway in bench.gateways for answer in at_once(gateway, theirs, 6)]
    assert before == [200] * 10
    for told in answers:
        assert sorted(answer.status for answer in told) == [200] * ALLOWANCE + [429] * 3 * ALLOWANCE
        assert {answer.headers["retry-after"] for answer in told if answer.status == 429} == {"1"}
    assert lenient == [200] * 12
    granted = PROCESSES * ALLOWANCE
    if outage in ("killed", "cut off"):  # Nothing reached the store twice.
        forgotten = 10 if outage == "killed" else 0
        assert bench.left(customer) == BURST - 10 + forgotten - granted
    else:
        # What the store got and answered too late was counted there, and here: to the customer's cost, never to his
        # profit.
        assert BURST - 10 - 4 * granted <= bench.left(customer) <= BURST - 10 - granted
    refused = bench.gateways[0].get(token=theirs)
    # 12 of 2 tokens were spent: it takes 11 to come back until there is one, each 8,640 s, of which one has begun.
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) > 10 * 8_640


@each_outage
def test_a_charge_is_made_once(bench: Bench, customer: str, outage: str) -> None:
    """What is charged while the store is away is in the store afterwards, once, whatever it did with the first try."""
    with bench.outage(outage):
        for which in range(PROCESSES):
            charged = [bench.limited(which, customer, "free", addend=7, phase="charge") for _ in range(5)]
            assert {answer.overall_code for answer in charged} == {rls.RateLimitResponse.OK}
        assert min(bench.metrics("genops_store_owed_tokens")) >= 5 * 7
    # 70 of 50 tokens: 21 have to come back until there is one.
    assert bench.left(customer) == 0
    status = bench.limited(0, customer, "free", addend=1).statuses[0]
    assert 20 * 8_640 < status.duration_until_reset.seconds <= 21 * 8_640


def test_an_outage_is_told(bench: Bench, customer: str) -> None:
    """An outage stands in the log, when it begins and when it ends, in the metrics by its kind, and in readiness.

    The limiter is in health all the time, as identity is: it decides.
    """
    sidecar, gateway = bench.sidecars[0], bench.gateways[0]
    eventually(lambda: '"rate_limit": "ready"' in sidecar.get("/readyz")[1])
    told = len(sidecar.said("store_unavailable")), len(sidecar.said("store_available"))
    failures, granted, refused = (
        sidecar.metric(name)
        for name in (
            'genops_store_errors_total{kind="unreachable"}',
            "genops_store_outage_granted_total",
            "genops_store_outage_refused_total",
        )
    )
    exposed = 'genops_rate_limit_outage_exposure{limit="genops.customer_tier_%s.customer_id"}'
    assert [sidecar.metric(exposed % tier) for tier in ("free", "lenient")] == [PROCESSES * ALLOWANCE, float("inf")]
    bench.store.stop()
    eventually(lambda: len(sidecar.said("store_unavailable")) > told[0])
    line = sidecar.said("store_unavailable")[-1]
    degraded = "degraded: limits are kept in this process, within store.outage's allowance"
    assert (line["level"], line["consequence"]) == ("error", degraded)
    statuses = [gateway.get(token=token(customer_id=customer, customer_tier="free")).status for _ in range(7)]
    assert statuses == [200] * ALLOWANCE + [429, 429]
    assert sidecar.metric("genops_store_outage_granted_total") == granted + ALLOWANCE
    assert sidecar.metric("genops_store_outage_refused_total") == refused + 2
    assert sidecar.metric("genops_store_owed_tokens") == ALLOWANCE
    assert sidecar.metric('genops_store_errors_total{kind="unreachable"}') > failures
    assert [sidecar.health(name) for name in ("", AUTHORIZATION, RATE_LIMIT)] == ["SERVING"] * 3
    status, ready = sidecar.get("/readyz")
    assert status == 200
    assert degraded in ready
    bench.store.start()
    eventually(lambda: len(sidecar.said("store_available")) > told[1])
    eventually(lambda: sidecar.metric("genops_store_owed_tokens") == 0)
    assert bench.left(customer) == BURST - ALLOWANCE
    eventually(lambda: '"rate_limit": "ready"' in sidecar.get("/readyz")[1])


def test_what_could_not_be_charged_is_told() -> None:
    """A process that stops while the store is away ends in time, and says what was granted and never charged."""
    with folder() as place, serving(settings(store={"url": f"unix://{place / 'nobody'}"}, tiers=TIERS)) as sidecar:
        with upstream() as service, envoy(service, sidecar.grpc) as gateway:
            mine = token(customer_id="acme", customer_tier="free")
            assert [gateway.get(token=mine).status for _ in range(ALLOWANCE + 1)] == [200] * ALLOWANCE + [429]
        sidecar.stop()
        (line,) = sidecar.said("charges_lost")
        assert (line["level"], line["charges"], line["refunds"]) == ("error", ALLOWANCE, 0)
