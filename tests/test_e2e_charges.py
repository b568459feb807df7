"""Through a real Envoy: costs known only after the response, charged when its stream is done, and refunds."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway import Answer, Gateway, envoy, ingress, open_without_limiter, upstream
from genops_extauth._pb import rls_pb2 as rls
from manifests import Manifest
from road import Road
from sidecar import LIMIT, TRANSPORTS, Sidecar, folder, serving, settings, token
from stores import VALKEY, eventually, running

DAILY, ONE_BACK = 100, 864
"""Tokens a day, and the seconds in which one comes back."""

LIMITS = """
domain: tokens
charge: response
descriptors:
  - key: plan
    value: strict
    descriptors:
      - {key: customer_id, rate_limit: {unit: day, requests_per_unit: 100}}
  - key: plan
    value: refundable
    descriptors:
      - {key: customer_id, rate_limit: {unit: day, requests_per_unit: 100, allow_refund: true}}
  - key: plan
    value: requests
    descriptors:
      - {key: customer_id, rate_limit: {unit: day, requests_per_unit: 100, charge: request}}
"""


def entries(plan: str) -> list[Manifest]:
    """What makes up a descriptor: a plan, and the customer that ext_authz found."""
    where = {"key": "envoy.filters.http.ext_authz", "path": [{"key": "customer_id"}]}
    return [
        {"generic_key": {"descriptor_key": "plan", "descriptor_value": plan}},
        {"metadata": {"descriptor_key": "customer_id", "metadata_key": where}},
    ]


def route(plan: str, *limits: Manifest) -> Manifest:
    """The route of a plan's customers, with limits of its own."""
    per_route = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
    limiter = {"@type": per_route, "domain": "tokens", "rate_limits": list(limits)}
    return {
        "match": {"prefix": f"/{plan}"},
        "route": {"cluster": "ai-inference"},
        "typed_per_filter_config": {"envoy.filters.http.ratelimit": limiter},
    }


CHARGE = {"generic_key": {"descriptor_key": "genops_phase", "descriptor_value": "charge"}}
USED: Any = {"format": "%RESP(x-used)%"}


def charging(bootstrap: Manifest) -> None:
    """Check at request time with an addend of 0, and charge what the service says once the stream is done."""
    (host,) = ingress(bootstrap)["route_config"]["virtual_hosts"]
    done = {"apply_on_stream_done": True, "hits_addend": USED}
    back = {**done, "hits_addend": {**USED, "is_negative_hits": True}}
    host["routes"] = [
        route("refund/strict", {"actions": entries("strict"), **back}),
        route("refund/refundable", {"actions": entries("refundable"), **back}),
        # A limit on requests: one is taken as it comes, and what it cost beyond that is charged.
        route("requests", {"actions": entries("requests")}, {"actions": [CHARGE, *entries("requests")], **done}),
        *(
            route(plan, {"actions": entries(plan), "hits_addend": {"number": 0}}, {"actions": entries(plan), **done})
            for plan in ("strict", "refundable")
        ),
    ]
    del host["rate_limits"]


def hasty(bootstrap: Manifest) -> None:
    """Wait for the limiter as long as Envoy does by itself, and then let pass."""
    open_without_limiter(bootstrap)
    (limiter,) = (each for each in ingress(bootstrap)["http_filters"] if each["name"].endswith("ratelimit"))
    limiter["typed_config"]["timeout"] = "0.02s"


@dataclass(frozen=True)
class Bench:
    """A sidecar behind an Envoy; `hasty` is another one, which waits 20 ms for a limit. `road` leads to the store."""

    sidecar: Sidecar
    gateway: Gateway
    hasty: Gateway
    road: Road


@pytest.fixture(scope="module", params=TRANSPORTS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        limits = stack.enter_context(folder())
        (limits / "tokens.yaml").write_text(LIMITS)
        way = stack.enter_context(Road(stack.enter_context(running(VALKEY)).path).open())
        configured = settings(
            server={"transport": request.param},
            store={"url": way.url},
            rate_limits={"directory": str(limits)},
        )
        sidecar = stack.enter_context(serving(configured))
        service = stack.enter_context(upstream())
        patient, in_a_hurry = (
            stack.enter_context(envoy(service, sidecar.grpc, changes=[charging, *more])) for more in ((), (hasty,))
        )
        yield Bench(sidecar, patient, in_a_hurry, way)


class Customer:
    """A customer of one test alone, with a plan."""

    def __init__(self, bench: Bench, plan: str) -> None:
        self.name = uuid.uuid4().hex
        self._bench, self._plan = bench, plan
        self._token = token(customer_id=self.name)

    def ask(self, used: int | None = None, *, path: str = "", hasty: bool = False) -> Answer:
        """Send a request, whose answer will have `used` so many tokens."""
        headers = [] if used is None else [("x-use", str(used))]
        gateway = self._bench.hasty if hasty else self._bench.gateway
        return gateway.get(f"/{path}{self._plan}", self._token, headers)

    def status(self) -> rls.RateLimitResponse.DescriptorStatus:
        """What the limiter says to a question that takes nothing."""
        pairs = {b"plan": self._plan.encode(), b"customer_id": self.name.encode()}
        descriptor = rls.RateLimitDescriptor(
            entries=[rls.RateLimitDescriptor.Entry(key=key, value=value) for key, value in pairs.items()]
        )
        descriptor.hits_addend.value = 0
        asked = rls.RateLimitRequest(domain=b"tokens", descriptors=[descriptor])
        with self._bench.sidecar.calls(LIMIT) as call:
            (status,) = rls.RateLimitResponse.FromString(call(asked.SerializeToString())).statuses
        return status

    def has_left(self, tokens: int) -> bool:
        """Whether that many tokens are left; less than none where it takes so long until there is one."""
        status = self.status()
        if tokens >= 0:
            return int(status.limit_remaining) == tokens
        seconds = int(status.duration_until_reset.seconds)
        return status.code == rls.RateLimitResponse.OVER_LIMIT and -(-seconds // ONE_BACK) == 1 - tokens


def test_what_an_answer_cost_is_charged(bench: Bench) -> None:
    """A request is checked before its cost is known, which takes nothing, and charged once its stream is done."""
    customer = Customer(bench, "strict")
    assert customer.ask(30).headers["x-ratelimit-remaining"] == "100"
    eventually(lambda: customer.has_left(70))
    assert customer.ask(20).headers["x-ratelimit-remaining"] == "70"
    eventually(lambda: customer.has_left(50))


def test_a_charge_goes_into_debt(bench: Bench) -> None:
    """What was used beyond the limit is owed: the next request is refused, for as long as that takes to come back."""
    customer = Customer(bench, "strict")
    assert customer.ask(150).status == 200
    eventually(lambda: customer.has_left(-50))
    refused = customer.ask(7)
    assert refused.status == 429
    assert refused.json["error"] == "rate_limited"
    assert 50 * ONE_BACK < int(refused.headers["retry-after"]) <= 51 * ONE_BACK
    # It cost nothing, not even a stream that was done: a further one says the same.
    assert customer.ask(7).status == 429
    assert customer.has_left(-50)


def test_exactly_spent_is_spent(bench: Bench) -> None:
    """Of a limit that is exactly used up nothing is left for a request whose cost nobody knows."""
    customer = Customer(bench, "strict")
    assert customer.ask(DAILY).status == 200
    eventually(lambda: customer.has_left(0))
    assert customer.ask(1).status == 429


def test_a_refund_gives_back(bench: Bench) -> None:
    """`is_negative_hits` gives back what a limit allows to be refunded, at most to the full bucket."""
    customer = Customer(bench, "refundable")
    customer.ask(150)
    eventually(lambda: customer.has_left(-50))
    assert customer.ask(3).status == 429
    assert customer.ask(60, path="refund/").status == 200
    eventually(lambda: customer.has_left(10))
    assert customer.ask(0).status == 200
    customer.ask(1_000, path="refund/")
    eventually(lambda: customer.has_left(DAILY))


def test_a_refund_that_is_not_allowed_gives_nothing(bench: Bench) -> None:
    """Without `allow_refund` a refund is no refund, and no charge either."""
    customer = Customer(bench, "strict")
    customer.ask(30)
    eventually(lambda: customer.has_left(70))
    asked = bench.sidecar.metric("genops_rate_limit_seconds_count")
    assert customer.ask(20, path="refund/").status == 200
    eventually(lambda: bench.sidecar.metric("genops_rate_limit_seconds_count") > asked)
    assert customer.has_left(70)


def test_a_limit_on_requests_can_be_charged_too(bench: Bench) -> None:
    """With the entry genops_phase=charge a cost is charged to a limit that takes one for each request."""
    customer = Customer(bench, "requests")
    assert customer.ask(10).headers["x-ratelimit-remaining"] == "99"
    eventually(lambda: customer.has_left(89))
    assert customer.ask(200).headers["x-ratelimit-remaining"] == "88"
    # A question for nothing waits for the debt alone.
    eventually(lambda: 111 * ONE_BACK < customer.status().duration_until_reset.seconds <= 112 * ONE_BACK)
    assert customer.ask(1).status == 429


@pytest.mark.parametrize(("plan", "left"), [("strict", 95), ("requests", 93)])
def test_an_answer_without_a_cost_is_free(bench: Bench, plan: str, left: int) -> None:
    """Where the service says nothing of a cost, nothing is charged: of requests, only the two that there were."""
    customer = Customer(bench, plan)
    assert customer.ask().status == 200
    assert customer.ask(5).status == 200
    eventually(lambda: customer.has_left(left))


def test_a_hasty_gateway_loses_no_charge(bench: Bench) -> None:
    """Where the store takes longer than the 20 ms that Envoy waits, what was used is charged all the same, once.

    While it does a process grants its allowance of an outage, a tenth, and so much is asked for here.
    """
    customer = Customer(bench, "strict")
    bench.road.delay(0.1)
    try:
        assert {customer.ask(2, hasty=True).status for _ in range(5)} == {200}
    finally:
        bench.road.delay(0)
    eventually(lambda: customer.has_left(90))
