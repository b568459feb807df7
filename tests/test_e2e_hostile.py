"""Whatever arrives on the gRPC port: Check refuses it in so many words, ShouldRateLimit decides or says why not."""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest
from envoy_data_plane.envoy.service.auth.v3 import (
    AttributeContext,
    AttributeContextHttpRequest,
    AttributeContextRequest,
    CheckRequest,
    CheckResponse,
)
from envoy_data_plane.envoy.service.ratelimit.v3 import RateLimitResponse, RateLimitResponseCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sidecar
from genops_extauth._pb import ext_authz_pb2 as authz
from genops_extauth._pb import rls_pb2 as rls
from sidecar import CHECK, LIMIT, TRANSPORTS, token

_ANSWERS = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE}


@dataclass(frozen=True)
class Asked:
    """The sidecar, as a gateway that speaks nonsense sees it. Both calls raise where the RPC fails."""

    check: Callable[[bytes], CheckResponse]
    limit: Callable[[bytes], RateLimitResponse]


@pytest.fixture(scope="module", params=TRANSPORTS)
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    configured = sidecar.settings(server={"transport": request.param})
    with sidecar.serving(configured) as served:
        with served.calls(CHECK) as check, served.calls(LIMIT) as limit:
            yield Asked(
                lambda body: CheckResponse.parse(check(body)), lambda body: RateLimitResponse.parse(limit(body))
            )
        assert served.metric("genops_internal_errors_total") == 0


def refusal(answer: CheckResponse) -> tuple[int, str]:
    """The HTTP status and the error code of an explicit refusal."""
    assert answer.status is not None
    assert answer.status.code != 0
    assert answer.denied_response is not None
    assert answer.denied_response.status is not None
    assert answer.ok_response is None
    return int(answer.denied_response.status.code), json.loads(answer.denied_response.body)["error"]


def passes(answer: CheckResponse) -> bool:
    """Whether it is an explicit pass; what is neither that nor a refusal fails."""
    if answer.status is not None and answer.status.code == 0:
        assert answer.ok_response is not None
        return True
    refusal(answer)
    return False


def request(headers: dict[str, bytes] | None = None, **http: bytes) -> bytes:
    """A CheckRequest with a good token."""
    message = authz.CheckRequest()
    asked = message.attributes.request.http
    for field, said in ({"method": b"GET", "path": b"/v1", "host": b"ai"} | http).items():
        setattr(asked, field, said)
    for name, value in ({"authorization": b"Bearer " + token().encode()} | (headers or {})).items():
        asked.headers[name] = value
    return message.SerializeToString()


def limits(*descriptors: rls.RateLimitDescriptor, domain: bytes = b"genops", hits: int = 0) -> bytes:
    return rls.RateLimitRequest(domain=domain, descriptors=descriptors, hits_addend=hits).SerializeToString()


def of(customer: str, hits: int | None = None) -> rls.RateLimitDescriptor:
    """The descriptor of a free customer, which has 5 hits."""
    entries = {b"customer_tier": b"free", b"customer_id": customer.encode()}
    message = rls.RateLimitDescriptor(
        entries=[rls.RateLimitDescriptor.Entry(key=key, value=value) for key, value in entries.items()]
    )
    if hits is not None:
        message.hits_addend.value = hits
    return message


def over(answer: RateLimitResponse) -> bool:
    assert answer.overall_code in (RateLimitResponseCode.OK, RateLimitResponseCode.OVER_LIMIT)
    return answer.overall_code is RateLimitResponseCode.OVER_LIMIT


def refused(call: Callable[[bytes], object], body: bytes) -> tuple[grpc.StatusCode, str]:
    """How the call failed, and what it said."""
    with pytest.raises(grpc.RpcError) as raised:
        call(body)
    return sidecar.failure(raised.value), str(raised.value)


def outcome(call: Callable[[bytes], RateLimitResponse], body: bytes) -> grpc.StatusCode:
    """How the call ended; where it ended well there is a verdict."""
    try:
        over(call(body))
    except grpc.RpcError as error:
        return sidecar.failure(error)
    return grpc.StatusCode.OK


_FORGED = request({"authorization": b"Bearer " + token().encode()[:-8] + b"AAAAAAAA"})


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A message in which some bytes are others, and which may end early."""
    body = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body[: draw(st.integers(0, len(body)))])


# The sidecar is the same for all examples on purpose: none may harm it for the next.
_several = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_several
@given(body=st.binary(max_size=300) | damaged(_FORGED))
def test_no_bytes_pass_or_fail_a_check(asked: Asked, body: bytes) -> None:
    """Bytes that nobody signed are refused with a status of HTTP, whatever they are: the call does not fail."""
    status, error = refusal(asked.check(body))
    assert (status, error) in {(400, "invalid_request"), (401, "unauthenticated"), (401, "invalid_token")}


@_several
@given(body=st.binary(max_size=300) | damaged(limits(of("c1", 3), of("c2"), hits=1)))
def test_no_bytes_confuse_the_limiter(asked: Asked, body: bytes) -> None:
    """Any bytes are a verdict, INVALID_ARGUMENT or UNAVAILABLE: never UNKNOWN."""
    assert outcome(asked.limit, body) in _ANSWERS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        authz.CheckRequest(attributes=authz.AttributeContext()).SerializeToString(),
        b"\x00" * (5 << 20),
        request(method=b"\xff"),
        request(path=b"/\xff"),
        request(path=b"*"),
        request(path=b""),
        request(method=b""),
        request(method=b"GET /"),
        request({":path": b"/open"}),
    ],
    ids=[
        "empty",
        "no request",
        "5 MB of zeros",
        "method no text",
        "path no text",
        "path *",
        "no path",
        "no method",
        "two words of method",
        "two paths",
    ],
)
def test_what_is_no_request_is_refused(asked: Asked, body: bytes) -> None:
    """A CheckRequest that describes no request is a 400, also with a good token."""
    assert refusal(asked.check(body)) == (400, "invalid_request")


def test_a_large_request_is_decided(asked: Asked) -> None:
    """A request whose body came along, 5 MB of it, is decided as any other."""
    http = AttributeContextHttpRequest(
        method="POST", path="/v1", headers={"authorization": f"Bearer {token()}"}, raw_body=b"\xff" * (5 << 20)
    )
    attributes = AttributeContext(request=AttributeContextRequest(http=http))
    assert passes(asked.check(bytes(CheckRequest(attributes=attributes))))


def test_a_token_of_a_megabyte_is_refused(asked: Asked) -> None:
    """A token of 1 MB is a bad token, and nothing worse."""
    assert refusal(asked.check(request({"authorization": b"Bearer " + b"a" * 2**20}))) == (401, "invalid_token")


@pytest.mark.parametrize("value", [b"", b"Bearer", b"Bearer ", b"Bearer \xff", b"Basic \xff", b"\x00", b"Bearer " * 9])
def test_odd_credentials_are_refused(asked: Asked, value: bytes) -> None:
    """An Authorization field that is no bearer token is a 401."""
    assert refusal(asked.check(request({"authorization": value})))[0] == 401


@pytest.mark.parametrize("name", ["x-note", "x-genops-team", "x_genops_team", "x-customer-id", "x-request-id", ":odd"])
def test_headers_that_are_no_text_change_nothing(asked: Asked, name: str) -> None:
    """A header whose value is not UTF-8 does not stop a good token, and a reserved one is replaced or removed."""
    answer = asked.check(request({name: b"\xff\xfe"}))
    assert passes(answer)
    assert answer.ok_response is not None
    changed = [option.header.key for option in answer.ok_response.headers if option.header]
    assert (name in {*changed, *answer.ok_response.headers_to_remove}) == (name not in ("x-note", ":odd"))


def test_names_that_are_no_text_are_refused(asked: Asked) -> None:
    """The name of a reserved header that cannot be removed, for it is not a name, is a 400."""
    assert refusal(asked.check(request({"x-genops-t\u00e9am": b"forged"}))) == (400, "invalid_request")


def test_an_empty_domain_is_no_domain(asked: Asked) -> None:
    """A gateway without a domain is told to name one, where to write it, and that it is its own mistake."""
    code, details = refused(asked.limit, limits(of("c1"), domain=b""))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "rate_limits.domain" in details


def test_no_descriptors_are_no_request(asked: Asked) -> None:
    """A request without descriptors is the gateway's mistake too."""
    assert refused(asked.limit, limits())[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "body",
    [
        limits(rls.RateLimitDescriptor()),
        limits(of("c1"), domain=b"\xff"),
        limits(rls.RateLimitDescriptor(entries=[rls.RateLimitDescriptor.Entry()])),
        limits(rls.RateLimitDescriptor(entries=[rls.RateLimitDescriptor.Entry(key=b"\xff", value=b"\xff")])),
        limits(rls.RateLimitDescriptor(entries=[rls.RateLimitDescriptor.Entry(key=b"customer_tier")] * 1_000)),
    ],
    ids=["no entries", "another domain", "empty entry", "no text", "a thousand entries"],
)
def test_descriptors_of_no_limit_pass(asked: Asked, body: bytes) -> None:
    """What meets no limit is not limited, and the answer shows none."""
    answer = asked.limit(body)
    assert not over(answer)
    assert [status.current_limit for status in answer.statuses] == [None]
    assert answer.response_headers_to_add == []


@pytest.fixture
def customer() -> str:
    return uuid.uuid4().hex


def left(answer: RateLimitResponse) -> list[int]:
    return [status.limit_remaining for status in answer.statuses]


def test_no_hits_are_one(asked: Asked, customer: str) -> None:
    """hits_addend 0 is how protobuf says that nobody set it: one hit."""
    assert [left(asked.limit(limits(of(customer), hits=0))) for _ in range(2)] == [[4], [3]]


def test_a_descriptor_of_no_hits_takes_nothing(asked: Asked, customer: str) -> None:
    """A descriptor's own hits_addend of 0 looks, and takes nothing, whatever the request's says."""
    assert left(asked.limit(limits(of(customer), hits=2))) == [3]
    assert [left(asked.limit(limits(of(customer, 0), hits=2))) for _ in range(2)] == [[3], [3]]


@pytest.mark.parametrize("body", [{"hits": 2**32 - 1}, {"own": 2**32 - 1}, {"own": 2**53}, {"own": 2**64 - 1}], ids=str)
def test_too_many_hits_are_over_the_limit(asked: Asked, customer: str, body: dict[str, int]) -> None:
    """More hits than the bucket holds are refused, take nothing, and break nothing, up to the largest number."""
    assert over(asked.limit(limits(of(customer, body.get("own")), hits=body.get("hits", 0))))
    assert left(asked.limit(limits(of(customer, 0)))) == [5]


def test_a_refused_request_takes_nothing(asked: Asked, customer: str) -> None:
    """Where one of several descriptors is over, the others keep what they have, and the answer says which it was."""
    poor, rich = f"{customer}-poor", f"{customer}-rich"
    assert not over(asked.limit(limits(of(poor), hits=5)))
    answer = asked.limit(limits(of(rich), of(poor)))
    assert over(answer)
    assert [over_one.code is RateLimitResponseCode.OVER_LIMIT for over_one in answer.statuses] == [False, True]
    assert left(asked.limit(limits(of(rich, 0)))) == [5]


def test_very_many_descriptors_are_no_request(asked: Asked, customer: str) -> None:
    """A hundred descriptors are decided; a thousand are refused before they cost the store anything."""
    many = [of(f"{customer}{number}") for number in range(1_000)]
    assert not over(asked.limit(limits(*many[:100])))
    assert refused(asked.limit, limits(*many))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert left(asked.limit(limits(of(f"{customer}500", 0)))) == [5]
