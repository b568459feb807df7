"""Bytes to model and back, judged by an independent encoder: envoy-data-plane."""

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc
import pytest
from envoy_data_plane.envoy.config.core.v3 import HeaderMap, HeaderValue, HeaderValueOptionHeaderAppendAction
from envoy_data_plane.envoy.extensions.common.ratelimit.v3 import (
    RateLimitDescriptor,
    RateLimitDescriptorEntry,
    RateLimitDescriptorRateLimitOverride,
)
from envoy_data_plane.envoy.service.auth.v3 import (
    AttributeContext,
    AttributeContextHttpRequest,
    AttributeContextRequest,
    CheckRequest,
    CheckResponse,
)
from envoy_data_plane.envoy.service.ratelimit.v3 import RateLimitRequest, RateLimitResponse
from envoy_data_plane.envoy.type.v3 import RateLimitUnit
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.check_messages import read_check, write_check
from genops_extauth.declared import Limit
from genops_extauth.gate import Clocks, Gate, Generation
from genops_extauth.grpc_face import RATE_LIMIT, Face
from genops_extauth.hits import Answer, Book, Hit, Role
from genops_extauth.limit_compiler import compile_tree
from genops_extauth.limit_messages import LimitRequest, read_limit, write_limited
from genops_extauth.limit_rules import Settings
from genops_extauth.model import (
    UNLIMITED,
    Allowed,
    CurrentLimit,
    Denied,
    Descriptor,
    DescriptorStatus,
    Grant,
    Limited,
    Outcome,
    Override,
    Request,
    StoreUnavailable,
    Telling,
)
from genops_extauth.policy import Policy
from genops_extauth.reasons import Reason
from genops_extauth.refusal_table import DENIALS
from genops_extauth.server import GrpcServer, Transport
from genops_extauth.tiers import Tiers
from stores import until

GRANT = Grant(None, (("x-genops-team", "ml"),), ("x-genops-project",), (("team", "ml"),))


def check_request(headers: Mapping[str, str] | None = None, raw: list[tuple[str, bytes]] | None = None) -> bytes:
    http = AttributeContextHttpRequest(
        method="POST", path="/v1/chat?stream=true", host="api.test", headers=dict(headers or {})
    )
    if raw is not None:
        http.header_map = HeaderMap(headers=[HeaderValue(key=name, raw_value=value) for name, value in raw])
    return bytes(CheckRequest(attributes=AttributeContext(request=AttributeContextRequest(http=http))))


def read(body: bytes) -> Request:
    request = read_check(body)
    assert isinstance(request, Request)
    return request


def test_a_check_request_is_read() -> None:
    """Method, path without its query, host and headers arrive as Envoy sent them."""
    request = read(check_request({":path": "/v1/chat?stream=true", "authorization": "Bearer x"}))

    assert (request.method, request.path, request.host) == ("POST", "/v1/chat", "api.test")
    assert request.headers["authorization"] == b"Bearer x"
    assert request.consistent


def test_raw_headers_keep_their_bytes_and_their_number() -> None:
    """In the raw encoding a byte that is no UTF-8 arrives as it is, and a name that came twice is known to have."""
    request = read(check_request(raw=[("X-Genops-Team", b"\xff"), ("authorization", b"a"), ("Authorization", b"b")]))

    assert request.headers == {"x-genops-team": b"\xff", "authorization": b"a,b"}
    assert request.repeated == {"authorization"}


def test_names_are_compared_in_lower_case() -> None:
    """A name in capitals is the same header, and beside its lower-case form it is a second value."""
    request = read(check_request({"Authorization": "a", "authorization": "b"}))

    assert set(request.headers) == {"authorization"}
    assert request.repeated == {"authorization"}


@pytest.mark.parametrize(
    "body",
    [
        check_request({":path": "/other"}),
        check_request({":method": "GET"}),
        check_request({":authority": "other.test"}),
        check_request(raw=[(":authority", b"api.test"), (":authority", b"other.test")]),
        check_request({"authorization": "a"}, raw=[("authorization", b"b")]),
    ],
    ids=["path", "method", "authority", "two authorities", "encodings"],
)
def test_a_contradiction_is_noticed(body: bytes) -> None:
    """A pseudo-header beside another attribute, and two encodings that differ, make the request inconsistent."""
    assert not read(body).consistent


@pytest.mark.parametrize(("raw_value", "consistent"), [(b"a", True), (b"", True), (b"b", False)])
def test_a_header_has_one_value(raw_value: bytes, *, consistent: bool) -> None:
    """A header whose text and bytes differ makes the request inconsistent."""
    http = AttributeContextHttpRequest(method="GET", path="/", host="api.test")
    http.header_map = HeaderMap(headers=[HeaderValue(key="authorization", value="a", raw_value=raw_value)])
    request = read(bytes(CheckRequest(attributes=AttributeContext(request=AttributeContextRequest(http=http)))))

    assert request.consistent is consistent


def test_an_empty_encoding_says_nothing() -> None:
    """Where the raw encoding is there and holds nothing, the other one counts."""
    request = read(check_request({"authorization": "a"}, raw=[]))

    assert (request.headers.get("authorization"), request.consistent) == (b"a", True)


@pytest.mark.parametrize("body", [b"", b"\xff", bytes(CheckRequest(attributes=AttributeContext()))])
def test_what_is_no_check_request_is_refused(body: bytes) -> None:
    """A body that does not parse, and one without HTTP attributes, is a malformed request and not an error."""
    assert isinstance(denied := read_check(body), Denied)
    assert denied.reason is Reason.REQUEST_MALFORMED


@given(st.binary(max_size=400))
def test_no_bytes_break_the_readers(body: bytes) -> None:
    """Whatever the bytes, reading them gives a request or a refusal."""
    assert isinstance(read_check(body), Request | Denied)
    assert isinstance(read_limit(body), str | tuple)


def written(outcome: Outcome) -> CheckResponse:
    return CheckResponse.parse(write_check(outcome))


def facts(response: CheckResponse) -> dict[str, str | None]:
    assert response.dynamic_metadata is not None
    return {name: value.string_value for name, value in response.dynamic_metadata.fields.items()}


def test_an_allowed_answer_is_explicit() -> None:
    """Allowed is status OK and an ok_response, each header overwritten, with the facts as string metadata."""
    response = written(Outcome(Allowed(GRANT, ("x_genops_team",), "new-id"), "decision-1", None))

    assert response.status is not None
    assert response.status.code == 0
    assert response.denied_response is None
    assert response.ok_response is not None
    headers = {option.header.key: option for option in response.ok_response.headers if option.header}
    values = {name: option.header.value for name, option in headers.items() if option.header}
    assert values == {"x-genops-team": "ml", "x-request-id": "new-id"}
    actions = {option.append_action for option in headers.values()}
    assert actions == {HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD}
    assert all(option.append is None for option in headers.values())
    assert response.ok_response.headers_to_remove == ["x-genops-project", "x_genops_team"]
    assert facts(response) == {"team": "ml", "decision_id": "decision-1"}


def test_an_answer_for_nobody_strips_everything() -> None:
    """On an open route nothing is set and every reserved header is removed."""
    response = written(Outcome(Allowed(Policy().nobody), "decision-1", None))

    assert response.ok_response is not None
    assert response.ok_response.headers == []
    assert tuple(response.ok_response.headers_to_remove) == Policy().nobody.removed


@pytest.mark.parametrize("reason", Reason)
def test_a_denied_answer_is_explicit(reason: Reason) -> None:
    """Denied is a non-zero status and a denied_response with its HTTP status, a JSON body, and the decision's id."""
    response = written(Outcome(Denied(reason, "for the log alone"), "decision-1", None))

    assert response.status is not None
    assert response.status.code == DENIALS[reason].code != 0
    assert response.ok_response is None
    assert response.denied_response is not None
    assert response.denied_response.status is not None
    assert int(response.denied_response.status.code) == DENIALS[reason].status
    assert f'"error": "{DENIALS[reason].error}"' in response.denied_response.body
    assert facts(response) == {"decision_id": "decision-1"}
    assert b"for the log alone" not in bytes(response)


@given(st.integers(1, 300), st.text(st.characters(codec="ascii"), max_size=200))
def test_lengths_of_any_size_are_written(headers: int, value: str) -> None:
    """The hand-written framing holds for answers of one byte a length and of three."""
    grant = Grant(None, tuple((f"x-genops-{i}", value) for i in range(headers)), (), (("team", value),))
    response = written(Outcome(Allowed(grant), "d", None))

    assert response.ok_response is not None
    assert len(response.ok_response.headers) == headers
    assert facts(response) == {"team": value, "decision_id": "d"}


def wanting(limit: bytes) -> bytes:
    """A request whose descriptor has a limit of these bytes; envoy-data-plane writes no unit that it does not know."""
    descriptor = b"\x12" + bytes([len(limit)]) + limit
    return bytes(RateLimitRequest(domain="d")) + b"\x12" + bytes([len(descriptor)]) + descriptor


def test_a_rate_limit_request_is_read() -> None:
    """Domain, entries in order, and both kinds of addend arrive; a descriptor's own 0 is not the same as none."""
    entries = [RateLimitDescriptorEntry(key="a", value="b"), RateLimitDescriptorEntry(key="c", value="")]
    message = RateLimitRequest(
        domain="genops",
        hits_addend=3,
        descriptors=[
            RateLimitDescriptor(entries=entries),
            RateLimitDescriptor(hits_addend=0),
            RateLimitDescriptor(hits_addend=2**64 - 1, is_negative_hits=True),
        ],
    )

    read_back = read_limit(bytes(message))

    refund = Descriptor((), 2**64 - 1, refund=True)
    assert read_back == (b"genops", [Descriptor(((b"a", b"b"), (b"c", b""))), Descriptor((), 0), refund], 3)


@pytest.mark.parametrize("unit", [unit for unit in RateLimitUnit if unit.value])
def test_a_limit_that_a_descriptor_brings_along_is_read(unit: RateLimitUnit) -> None:
    """A descriptor's own limit arrives with its requests and unit, a limit of 0 too."""
    limits = [
        RateLimitDescriptorRateLimitOverride(requests_per_unit=requests, unit=unit) for requests in (0, 2**32 - 1)
    ]
    message = RateLimitRequest(domain="d", descriptors=[RateLimitDescriptor(limit=limit) for limit in limits])

    read_back = read_limit(bytes(message))

    assert not isinstance(read_back, str)
    assert [each.override for each in read_back.descriptors] == [
        (0, unit.name.lower()),
        (2**32 - 1, unit.name.lower()),
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\xff", "not a RateLimitRequest"),
        (bytes(RateLimitRequest(descriptors=[RateLimitDescriptor()])), "domain must not be empty"),
        (bytes(RateLimitRequest(domain="genops")), "descriptor list must not be empty"),
        (bytes(RateLimitRequest(domain="genops", descriptors=[RateLimitDescriptor()] * 101)), "more than 100"),
        (wanting(b"\x08\x05"), "has the unit 0: name one from SECOND"),
        (wanting(b"\x10\x09"), "has the unit 9: name one from SECOND"),
    ],
    ids=["bytes", "domain", "descriptors", "many", "no unit", "strange unit"],
)
def test_what_no_gateway_sends_is_said(body: bytes, said: str) -> None:
    """What does not parse, says nothing, asks too much or has a limit without a unit is told apart, and what to do."""
    complaint = read_limit(body)

    assert isinstance(complaint, str)
    assert said in complaint


LIMIT = CurrentLimit(100, "hour", "free")
TELLING = Telling()
ASKED = LimitRequest(b"genops", [Descriptor(((b"customer_id", b"acme"),))], 0)


def limited(
    *statuses: DescriptorStatus, asked: LimitRequest = ASKED, telling: Telling = TELLING, **more: Any
) -> RateLimitResponse:
    over = any(status.over for status in statuses)
    return RateLimitResponse.parse(write_limited(asked, Limited(over, statuses, **more), telling))


def test_a_rate_limit_answer_is_written() -> None:
    """Each descriptor has its status in order, with its limit, what is left and when the bucket is full."""
    response = limited(DescriptorStatus(), DescriptorStatus(over=False, limit=LIMIT, remaining=7, reset=36))

    assert response.overall_code.name == "OK"
    unmatched, met = response.statuses
    assert unmatched.current_limit is None
    assert unmatched.duration_until_reset is None
    assert met.current_limit is not None
    limit = met.current_limit
    assert (limit.requests_per_unit, limit.unit.name, limit.name) == (100, "HOUR", "free")
    assert met.duration_until_reset is not None
    assert met.duration_until_reset.total_seconds() == 36
    assert met.limit_remaining == 7
    assert response.raw_body == b""


def test_an_unlimited_descriptor_says_so() -> None:
    """What has no limit on purpose has the largest number there is left, and no limit, as envoyproxy/ratelimit says."""
    (status,) = limited(DescriptorStatus(remaining=UNLIMITED)).statuses

    assert (status.limit_remaining, status.current_limit, status.duration_until_reset) == (2**32 - 1, None, None)


@given(
    st.integers(0, 2**53), st.integers(0, 10**12), st.booleans(), st.text(st.characters(codec="ascii"), max_size=200)
)
def test_numbers_of_any_size_are_written(remaining: int, reset: int, over: bool, name: str) -> None:  # noqa: FBT001 - drawn
    """The hand-written framing holds for numbers and names of any length; what Envoy's fields cannot hold is cut."""
    limit = CurrentLimit(2**32 - 1, "year", name)
    (status,) = limited(DescriptorStatus(over, limit, remaining, reset)).statuses

    assert status.limit_remaining == min(remaining, 2**32 - 1)
    assert status.duration_until_reset is not None
    assert status.duration_until_reset.total_seconds() == min(reset, 315_576_000_000)
    assert status.current_limit is not None
    assert (status.current_limit.name, status.current_limit.requests_per_unit) == (name, 2**32 - 1)
    assert status.code.name == ("OVER_LIMIT" if over else "OK")


def test_headers_and_body_of_a_refusal_are_written() -> None:
    """The client's header fields arrive by name and value, in order, and the body as raw bytes."""
    response = limited(DescriptorStatus(over=True, limit=LIMIT, remaining=0, reset=60), told=0, retry=60)

    assert response.overall_code.name == "OVER_LIMIT"
    assert {header.key: header.value for header in response.response_headers_to_add} == {
        "x-ratelimit-limit": "100",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "60",
        "retry-after": "60",
        "content-type": "application/json",
    }
    assert json.loads(response.raw_body)["error"] == "rate_limited"


def test_the_gateway_is_told_what_it_asked() -> None:
    """With dynamic metadata on, an answer has the request in it, and what the limits that passed say of themselves."""
    descriptors = [
        Descriptor(((b"a", b"1"), (b"b", b"\xff"))),
        Descriptor((), 0, override=Override(42, "second")),
        Descriptor((), 2, override=Override(0, "week")),
    ]
    said = {"route": {"tier": "gold", "weights": [1, 2.5, None, True]}}
    response = limited(
        DescriptorStatus(),
        asked=LimitRequest(b"genops", descriptors, 3),
        telling=Telling(metadata=True),
        metadata=said,
    )

    assert response.dynamic_metadata is not None
    assert response.dynamic_metadata.to_dict() == {
        "domain": "genops",
        "descriptors": [
            {"entries": ["a=1", "b=\\xff"]},
            {"entries": [], "limit": "requests_per_unit:42 unit:SECOND", "hitsAddend": 0},
            {"entries": [], "limit": "unit:WEEK", "hitsAddend": 2},
        ],
        "hitsAddend": 3,
        "metadata": said,
    }


def test_metadata_is_left_out_where_there_is_none() -> None:
    """Of a request without an addend, whose limits say nothing, neither is told; without the mode nothing is."""
    response = limited(DescriptorStatus(), telling=Telling(metadata=True), metadata={})

    assert response.dynamic_metadata is not None
    assert set(response.dynamic_metadata.fields) == {"domain", "descriptors"}
    assert limited(DescriptorStatus(), metadata={"a": 1}).dynamic_metadata is None


class Slow:
    """A store that answers once it is `open`, and keeps what it was asked; `error` is raised in place of an answer."""

    def __init__(self, error: Exception | None = None) -> None:
        self.open = asyncio.Event()
        self.asked: list[Hit] = []
        self.made: list[Hit] = []
        self._error = error

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        assert within is None or 0 <= within < 30
        self.asked += hits
        await self.open.wait()
        if self._error is not None:
            raise self._error
        self.made += hits
        return Book().transact(hits, 0)


class Silent:
    """An observer that keeps nothing."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_: None


Call = Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]]


@contextlib.asynccontextmanager
async def calls(store: Slow, transport: Transport, telling: Telling = TELLING) -> AsyncIterator[tuple[Call, Gate]]:
    """ShouldRateLimit of a real server, asked over a real connection."""
    tree = compile_tree((), Settings(), Tiers("genops", {"free": Limit(3, "hour")}, "free"))
    generation = Generation({}, Policy(), tree, telling=telling)
    gate = Gate(generation, store, Clocks(lambda: 1e9, lambda: 0.0), Silent(), new_id=lambda: "0123456789")
    server = GrpcServer(Face(gate).handlers([RATE_LIMIT]), "127.0.0.1:0", transport)
    address = await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel.unary_unary(f"/{RATE_LIMIT}/ShouldRateLimit"), gate
    finally:
        store.open.set()
        await server.stop(0)


@pytest.fixture(params=["grpcio", "native"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """Both transports. Channels go where nobody minds that grpc.aio waits for a thread: not below our package."""
    gc.disable()
    yield request.param
    gc.enable()
    gc.collect()


def usage(**more: Any) -> bytes:
    entries = [RateLimitDescriptorEntry(key="customer_id", value="acme"), *more.pop("entries", ())]
    return bytes(RateLimitRequest(domain="genops", descriptors=[RateLimitDescriptor(entries=entries, **more)]))


CHARGE = RateLimitDescriptorEntry(key="genops_phase", value="charge")


async def test_a_charge_outlives_the_call(transport: Transport) -> None:
    """Envoy hangs up on a charge after its timeout, and the charge is made nevertheless; a question ends there."""
    store = Slow()
    async with calls(store, transport) as (call, gate):
        for body in (usage(), usage(entries=[CHARGE], hits_addend=7)):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(body, timeout=0.2)
            assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: len(store.asked) == 2)
        store.open.set()
        await gate.settled()

        assert [(hit.role, hit.cost) for hit in store.made] == [(Role.CHARGE, 7)]


async def test_failures_have_codes_that_gateways_know(transport: Transport) -> None:
    """What no gateway sends is INVALID_ARGUMENT, an outage UNAVAILABLE; neither is UNKNOWN, which Envoy lets pass."""
    store = Slow(StoreUnavailable("timeout: down"))
    store.open.set()
    async with calls(store, transport) as (call, _):
        for body, code, said in (
            (b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "not a RateLimitRequest"),
            (usage(), grpc.StatusCode.UNAVAILABLE, "timeout: down"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call(body, timeout=10)
            assert failed.value.code() is code
            assert said in str(failed.value.details())


async def test_an_answer_that_cannot_be_written_is_no_unknown(transport: Transport) -> None:
    """A defect of ours after the decision is UNAVAILABLE too, and says nothing of itself."""
    store = Slow()
    store.open.set()
    names = ("limit", "remaining")  # one too few
    async with calls(store, transport, Telling(names=names)) as (call, _):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(usage(), timeout=10)

    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert failed.value.details() == "internal error"
