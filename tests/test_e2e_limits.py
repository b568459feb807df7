"""Through a real Envoy: limits by tier, which hold across Envoys and sidecars."""

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from gateway import Answer, Gateway, envoy, ingress, limits_only, upstream
from manifests import Manifest
from sidecar import TRANSPORTS, folder, serving, settings, token
from stores import VALKEY, running

BURST = 5
"""What `settings` lets a free customer do at once; ten a day come back."""


@dataclass(frozen=True)
class Bench:
    """Two sidecars of one store: the first is asked by two Envoys, the second by another.

    `unauthorized` asks the first one for limits only.
    """

    first: Gateway
    first_too: Gateway
    second: Gateway
    unauthorized: Gateway


@pytest.fixture(scope="module", params=TRANSPORTS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(running(VALKEY)).url
        anonymous = {"limit": "10/day", "burst": BURST}
        configured = settings(
            server={"transport": request.param}, store={"url": store}, rate_limits={"anonymous": anonymous}
        )
        one, two = (stack.enter_context(serving(configured)) for _ in range(2))
        service = stack.enter_context(upstream())
        first, first_too, second = (stack.enter_context(envoy(service, sidecar.grpc)) for sidecar in (one, one, two))
        unauthorized = stack.enter_context(envoy(service, one.grpc, changes=[limits_only]))
        yield Bench(first, first_too, second, unauthorized)


@pytest.fixture
def customer() -> str:
    """A customer of this test alone."""
    return uuid.uuid4().hex


def free(customer: str) -> str:
    return token(customer_id=customer, customer_tier="free")


def spent(ask: Callable[[], Answer], at_most: int = 20) -> int:
    """How many requests pass until one does not."""
    return len(list(itertools.takewhile(lambda answer: answer.status == 200, (ask() for _ in range(at_most)))))


def test_a_free_customer_is_limited(bench: Bench, customer: str) -> None:
    """A free customer has its burst, each answer telling what is left; then 429 says when to come again."""
    told = [bench.first.get(token=free(customer)) for _ in range(BURST + 1)]
    assert [answer.status for answer in told] == [200] * BURST + [429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in told] == ["4", "3", "2", "1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit"] for answer in told} == {"10"}
    assert "retry-after" not in told[0].headers
    # Ten come back in a day: one in 8640 seconds.
    refused = told[-1].headers
    assert refused["retry-after"] == refused["x-ratelimit-reset"]
    assert 8_600 <= int(refused["retry-after"]) <= 8_640
    assert refused["content-type"] == "application/json"
    assert told[-1].json == {
        "error": "rate_limited",
        "message": "API rate limit exceeded for your tier",
        "limit": 10,
        "retry_after": int(refused["retry-after"]),
    }


def test_a_premium_customer_is_not(bench: Bench, customer: str) -> None:
    """A premium customer passes where a free one would not."""
    premium = token(customer_id=customer, customer_tier="premium")
    told = [bench.first.get(token=premium) for _ in range(4 * BURST)]
    assert {answer.status for answer in told} == {200}
    assert {answer.headers["x-ratelimit-limit"] for answer in told} == {"100000"}


def test_customers_do_not_share(bench: Bench, customer: str) -> None:
    """What one customer spends is not missing to another, also where names differ by a byte."""
    assert spent(lambda: bench.first.get(token=free(customer))) == BURST
    assert spent(lambda: bench.first.get(token=free(customer + "."))) == BURST


def test_an_unknown_tier_is_the_default_tier(bench: Bench, customer: str) -> None:
    """A tier that nobody configured is limited as the default one, and in its bucket."""
    assert spent(lambda: bench.first.get(token=token(customer_id=customer, customer_tier="platinum"))) == BURST
    assert spent(lambda: bench.first.get(token=free(customer))) == 0


def test_nobody_is_limited_by_address(bench: Bench) -> None:
    """Without identity the client's address has a bucket, which no header of the client changes."""
    forged = ([("x-forwarded-for", f"198.51.100.{n}"), ("x-genops-customer-id", f"c{n}")] for n in itertools.count())
    assert spent(lambda: bench.second.get("/open", headers=next(forged))) == BURST
    assert bench.second.get("/open").status == 429


def test_refused_requests_cost_nothing(bench: Bench, customer: str) -> None:
    """Who is refused by identity spends nobody's quota."""
    for _ in range(2 * BURST):
        assert bench.first.get(token=token(customer_id=customer, customer_tier="free", exp=1)).status == 401
    assert spent(lambda: bench.first.get(token=free(customer))) == BURST


@pytest.mark.parametrize("others", [["first_too"], ["second"], ["first_too", "second"]], ids="-".join)
def test_a_limit_holds_everywhere(bench: Bench, customer: str, others: list[str]) -> None:
    """Two Envoys at one sidecar, two sidecars at one store, all at once: together they let one burst pass."""
    gateways = [bench.first, *(getattr(bench, name) for name in others)]
    asking = [gateway for gateway in gateways for _ in range(2 * BURST)]
    mine = free(customer)
    with ThreadPoolExecutor(len(asking)) as threads:
        statuses = list(threads.map(lambda gateway: gateway.get(token=mine).status, asking))
    assert sorted(statuses) == [200] * BURST + [429] * (len(asking) - BURST)


@pytest.mark.parametrize(
    "value",
    [b"caf\xe9", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"end\xc3", b"x" * 5_000 + b"\xff"],
    ids=["latin-1", "no first byte", "overlong", "surrogate", "beyond Unicode", "cut short", "long"],
)
def test_bytes_that_are_no_text_are_limited(bench: Bench, customer: str, value: bytes) -> None:
    """A header that is not UTF-8 meets the limit as any other: it neither fails the call nor finds another bucket."""
    assert spent(lambda: bench.unauthorized.get(headers=[("x-account", customer.encode() + value)])) == BURST


FILE = """
domain: plans
descriptors:
  - key: plan
    value: own
    descriptors:
      - {key: account, rate_limit: {unit: day, requests_per_unit: 1, body: "Until tomorrow, then."}}
  - key: plan
    value: monthly
    descriptors:
      - {key: account, rate_limit: {unit: month, requests_per_unit: 2, calendar: Europe/Berlin}}
  - key: plan
    value: double
    descriptors:
      - key: account
        rate_limits:
          - {unit: minute, requests_per_unit: 3}
          - {unit: day, requests_per_unit: 2}
"""


def plans(bootstrap: Manifest) -> None:
    """Ask for the limits of a file only, of plans and accounts that headers name."""
    limits_only(bootstrap)
    manager = ingress(bootstrap)
    (limiter,) = (each for each in manager["http_filters"] if each["name"].endswith("ratelimit"))
    limiter["typed_config"]["domain"] = "plans"
    named = [
        {"request_headers": {"header_name": f"x-{key}", "descriptor_key": key, "skip_if_absent": False}}
        for key in ("plan", "account")
    ]
    manager["route_config"]["virtual_hosts"][0]["rate_limits"] = [{"actions": named}]


@dataclass(frozen=True)
class Plans:
    """A sidecar that tells clients of limits as it does by itself, and one that says `less`, in the IETF's words."""

    usual: Gateway
    less: Gateway


@pytest.fixture(scope="module")
def planned() -> Iterator[Plans]:
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(folder())
        (directory / "plans.yaml").write_text(FILE)
        told: list[dict[str, object]] = [{}, {"body": "none", "headers": False, "ietf_headers": True}]
        service = stack.enter_context(upstream())
        gateways = []
        for telling in told:
            configured = settings(rate_limits={"directory": str(directory), **telling})
            sidecar = stack.enter_context(serving(configured))
            gateways.append(stack.enter_context(envoy(service, sidecar.grpc, changes=[plans])))
        yield Plans(*gateways)


def refusal(gateway: Gateway, plan: str, customer: str) -> Answer:
    """The first answer that is no pass."""
    asked = [("x-plan", plan), ("x-account", customer)]
    refused = next(answer for _ in range(5) if (answer := gateway.get(headers=asked)).status != 200)
    assert refused.status == 429
    return refused


def test_a_limit_may_have_words_of_its_own(planned: Plans, customer: str) -> None:
    """A limit's own body is sent as it is, as text."""
    refused = refusal(planned.usual, "own", customer)
    assert refused.body == b"Until tomorrow, then."
    assert refused.headers["content-type"] == "text/plain; charset=utf-8"
    assert refusal(planned.less, "own", customer).body == b"Until tomorrow, then."


def test_a_quota_of_a_month_says_when_it_is_renewed(planned: Plans, customer: str) -> None:
    """A quota of a calendar month is refused with a body that names the instant at which the next one begins."""
    refused = refusal(planned.usual, "monthly", customer)
    assert refused.headers["content-type"] == "application/json"
    said = refused.json
    renewed = datetime.fromisoformat(said.pop("quota_reset"))
    assert said == {
        "error": "quota_exceeded",
        "message": "Monthly request quota exceeded",
        "quota_limit": 2,
        "quota_remaining": 0,
    }
    there = renewed.astimezone(ZoneInfo("Europe/Berlin"))
    assert (there.day, there.hour, there.minute, there.second) == (1, 0, 0, 0)
    left = (renewed - datetime.now(UTC)).total_seconds()
    assert 0 < left < 32 * 86_400
    assert abs(int(refused.headers["retry-after"]) - left) < 60


def test_clients_may_be_told_less(planned: Plans, customer: str) -> None:
    """Without a body and in the IETF's words, all that a client is told is in RateLimit and Retry-After."""
    refused = refusal(planned.less, "monthly", customer)
    assert refused.body == b""
    assert not [name for name in refused.headers if name.startswith("x-ratelimit")]
    assert refused.headers["ratelimit-policy"] == '"limit-1";q=2;w=2592000'
    seconds = refused.headers["retry-after"]
    assert refused.headers["ratelimit"] == f'"limit-1";r=0;t={seconds}'


def test_the_limit_that_refuses_is_told(planned: Plans, customer: str) -> None:
    """Of several limits on one descriptor the one that refuses is told."""
    refused = refusal(planned.usual, "double", customer)
    assert refused.headers["x-ratelimit-limit"] == "2"
    assert int(refused.headers["retry-after"]) > 40_000
