"""Bytes to model and back, judged by an independent encoder: envoy-data-plane."""

from collections.abc import Mapping

import pytest
from envoy_data_plane.envoy.config.core.v3 import HeaderMap, HeaderValue, HeaderValueOptionHeaderAppendAction
from envoy_data_plane.envoy.extensions.common.ratelimit.v3 import RateLimitDescriptor, RateLimitDescriptorEntry
from envoy_data_plane.envoy.service.auth.v3 import (
    AttributeContext,
    AttributeContextHttpRequest,
    AttributeContextRequest,
    CheckRequest,
    CheckResponse,
)
from envoy_data_plane.envoy.service.ratelimit.v3 import RateLimitRequest, RateLimitResponse
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.check_messages import read_check, write_check
from genops_extauth.limit_messages import read_limit, write_limited
from genops_extauth.model import (
    Allowed,
    CurrentLimit,
    Denied,
    Descriptor,
    DescriptorStatus,
    Grant,
    Limited,
    Outcome,
    Reason,
    Request,
)
from genops_extauth.policy import DENIALS, NOBODY

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
        check_request({"authorization": "a"}, raw=[("authorization", b"b")]),
    ],
    ids=["path", "method", "encodings"],
)
def test_a_contradiction_is_noticed(body: bytes) -> None:
    """A pseudo-header beside another attribute, and two encodings that differ, make the request inconsistent."""
    assert not read(body).consistent


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
    response = written(Outcome(Allowed(NOBODY), "decision-1", None))

    assert response.ok_response is not None
    assert response.ok_response.headers == []
    assert tuple(response.ok_response.headers_to_remove) == NOBODY.removed


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


def test_a_rate_limit_request_is_read() -> None:
    """Domain, entries in order, and both kinds of addend arrive; a descriptor's own 0 is not the same as none."""
    entries = [RateLimitDescriptorEntry(key="a", value="b"), RateLimitDescriptorEntry(key="c", value="")]
    message = RateLimitRequest(
        domain="genops",
        hits_addend=3,
        descriptors=[RateLimitDescriptor(entries=entries), RateLimitDescriptor(hits_addend=0)],
    )

    read_back = read_limit(bytes(message))

    assert read_back == (b"genops", [Descriptor(((b"a", b"b"), (b"c", b""))), Descriptor((), 0)], 3)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\xff", "not a RateLimitRequest"),
        (bytes(RateLimitRequest(descriptors=[RateLimitDescriptor()])), "domain must not be empty"),
        (bytes(RateLimitRequest(domain="genops")), "descriptor list must not be empty"),
    ],
)
def test_what_no_gateway_sends_is_said(body: bytes, said: str) -> None:
    """A body that does not parse, an empty domain and an empty list are told apart, and told what to do."""
    complaint = read_limit(body)

    assert isinstance(complaint, str)
    assert said in complaint


LIMIT = CurrentLimit(100, "hour", "free")


def limited(*statuses: DescriptorStatus, headers: bool = True) -> RateLimitResponse:
    over = any(status.over for status in statuses)
    return RateLimitResponse.parse(write_limited(Limited(over, statuses), headers=headers))


def told(response: RateLimitResponse) -> dict[str, str]:
    return {header.key: header.value for header in response.response_headers_to_add}


def test_a_rate_limit_answer_is_written() -> None:
    """Each descriptor has its status in order, with its limit, what is left and when the bucket is full."""
    response = limited(DescriptorStatus(), DescriptorStatus(over=False, limit=LIMIT, remaining=7, reset=36))

    assert response.overall_code.name == "OK"
    unmatched, met = response.statuses
    assert unmatched.current_limit is None
    assert met.current_limit is not None
    assert (met.current_limit.requests_per_unit, met.current_limit.unit.name) == (100, "HOUR")
    assert met.duration_until_reset is not None
    assert met.duration_until_reset.total_seconds() == 36
    assert met.limit_remaining == 7
    assert told(response) == {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "7", "x-ratelimit-reset": "36"}


def test_a_refusal_tells_when_to_come_back() -> None:
    """Over the limit, the headers speak of the refused descriptor that lasts longest, with Retry-After."""
    response = limited(
        DescriptorStatus(over=False, limit=LIMIT, remaining=1, reset=9000),
        DescriptorStatus(over=True, limit=LIMIT, remaining=0, reset=12),
        DescriptorStatus(over=True, limit=LIMIT, remaining=0, reset=60),
    )

    assert response.overall_code.name == "OVER_LIMIT"
    assert [status.code.name for status in response.statuses] == ["OK", "OVER_LIMIT", "OVER_LIMIT"]
    assert told(response)["retry-after"] == told(response)["x-ratelimit-reset"] == "60"


def test_headers_are_left_out_when_nothing_was_met_or_wanted() -> None:
    """Without a limit met, or with headers off, the client is told of none."""
    assert told(limited(DescriptorStatus())) == {}
    assert told(limited(DescriptorStatus(limit=LIMIT), headers=False)) == {}
