"""Bytes <-> model for Envoy's two questions; the only module that sees Envoy's messages.

Both servicers take bytes and return bytes, so that no message can fail before our code sees it. What Envoy makes of
an answer is written down in envoy/service/auth/v3/external_auth.proto and its ext_authz filter; three of its habits
shape this module:

- It looks at ``status.code`` alone, and an empty response is code 0: allow. So status and one half of the
  ``http_response`` oneof are always written, also where protobuf would leave zeros out.
- A failed call is an authorization *error*, which ``failure_mode_allow`` lets pass. So whatever a client sends, Check
  answers.
- Newer releases honour ``append_action``, and its zero value appends behind the client's copy; older ones overwrite.
  So every header says OVERWRITE_IF_EXISTS_OR_ADD, which both understand alike.

An allowed answer is put together from bytes: what depends on the identity only is serialised once and remembered, the
rest (decision id, aliases seen, a new request id) is appended. That is 1 us instead of 6.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from genops_extauth._pb import ext_authz_pb2 as authz
from genops_extauth._pb import rls_pb2 as rls
from genops_extauth.gate import Gate
from genops_extauth.model import (
    Allowed,
    Denied,
    Descriptor,
    DescriptorStatus,
    Grant,
    Limited,
    Outcome,
    Reason,
    Request,
    StoreUnavailable,
)
from genops_extauth.policy import DENIALS, Denial

AUTHORIZATION = "envoy.service.auth.v3.Authorization"
RATE_LIMIT = "envoy.service.ratelimit.v3.RateLimitService"

_Handler = Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]

_UINT32_MAX = 2**32 - 1
_GRANTS_KEPT = 16_384  # as many as a gate's generation keeps


@dataclass(frozen=True, slots=True)
class Face:
    """The handlers of both services."""

    gate: Gate

    async def check(self, body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Answer envoy.service.auth.v3.Authorization/Check. Never raises, never aborts."""
        try:
            return write_check(await self.gate.check(read_check(body), context.time_remaining))
        except Exception:  # noqa: BLE001 - the last net: failure_mode_allow lets a failed call pass
            return _denied(Reason.INTERNAL)

    async def should_rate_limit(self, body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Answer envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit.

        Aborts with INVALID_ARGUMENT on a request that no gateway sends, with UNAVAILABLE where the store cannot answer;
        never with UNKNOWN, for which no failure mode of Envoy's is meant.
        """
        asked = read_limit(body)
        if isinstance(asked, str):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, asked)
        try:
            limited = await self.gate.limit(*asked)
        except StoreUnavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return write_limited(limited, headers=self.gate.generation.headers)

    def handlers(self) -> dict[str, dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]]:
        """All methods by service, with no (de)serialiser: bytes in, bytes out."""
        return {
            AUTHORIZATION: {"Check": grpc.unary_unary_rpc_method_handler(self.check)},
            RATE_LIMIT: {"ShouldRateLimit": grpc.unary_unary_rpc_method_handler(self.should_rate_limit)},
        }


# A route has a handful; a store runs all of a request in one script, and serves nobody else meanwhile.
_MOST_DESCRIPTORS = 100
_NO_DOMAIN = "rate limit domain must not be empty: the gateway's filter and rate_limits.domain name the same one"


def read_check(body: bytes) -> Request | Denied:
    """Read a CheckRequest. One that does not parse, or describes no HTTP request, is a refusal."""
    try:
        attributes = authz.CheckRequest.FromString(body).attributes
    except DecodeError:
        return Denied(Reason.REQUEST_MALFORMED, "not a CheckRequest")
    if not attributes.HasField("request") or not attributes.request.HasField("http"):
        return Denied(Reason.REQUEST_MALFORMED, "no HTTP attributes")
    http = attributes.request.http
    try:
        method, target, host = http.method.decode("ascii"), http.path.decode(), http.host.decode()
    except UnicodeDecodeError:
        return Denied(Reason.REQUEST_MALFORMED, "method, path or host is not text")
    headers, repeated, consistent = _headers(http)
    consistent = (
        consistent
        and headers.get(":path", http.path) == http.path
        and headers.get(":method", http.method) == http.method
    )
    return Request(method, target.partition("?")[0], host, headers, repeated, consistent)


def _headers(http: authz.AttributeContext.HttpRequest) -> tuple[dict[str, bytes], frozenset[str], bool]:
    """Read the headers in whichever encoding they came, which names came twice, and whether two encodings agree."""
    headers = dict(http.headers)
    repeated: frozenset[str] = frozenset()
    if not all(map(str.islower, headers)):
        headers, repeated = _merged(headers.items())
    if not http.HasField("header_map"):
        return headers, repeated, True
    raw = ((entry.key.decode("latin-1"), entry.raw_value or entry.value) for entry in http.header_map.headers)
    listed, repeated = _merged(raw)
    return listed, repeated, not headers or headers == listed


def request_of(method: str, target: str, host: str, fields: Iterable[tuple[bytes, bytes]]) -> Request:
    """Describe a request that comes from elsewhere than a gateway; `target` may have a query."""
    headers, repeated = _merged((name.decode("latin-1"), value) for name, value in fields)
    return Request(method, target.partition("?")[0], host, headers, repeated)


def _merged(fields: Iterable[tuple[str, bytes]]) -> tuple[dict[str, bytes], frozenset[str]]:
    """Join the fields of one name, as Envoy does in its `headers`, and tell which names came more than once."""
    merged: dict[str, bytes] = {}
    repeated = set()
    for spelling, value in fields:
        name = spelling.lower()
        if name in merged:
            repeated.add(name)
        merged[name] = merged[name] + b"," + value if name in merged else value
    return merged, frozenset(repeated)


def write_check(outcome: Outcome) -> bytes:
    """Write the CheckResponse of an outcome."""
    verdict = outcome.verdict
    if isinstance(verdict, Denied):
        return _denied(verdict.reason) + _field(4, _decision(outcome.decision_id))
    ok, metadata = _granted(verdict.grant)
    if verdict.aliases or verdict.request_id:
        ok += _extras(verdict)
    return _STATUS_OK + _field(3, ok) + _field(4, metadata + _decision(outcome.decision_id))


_STATUS_OK = b"\x0a\x00"  # CheckResponse.status, present and empty: google.rpc.Code.OK


@lru_cache(maxsize=_GRANTS_KEPT)
def _granted(grant: Grant) -> tuple[bytes, bytes]:
    """Serialise what depends on the grant only: an OkHttpResponse and a Struct."""
    response = authz.OkHttpResponse(
        headers=[_overwrite(name, value) for name, value in grant.headers], headers_to_remove=grant.removed
    )
    metadata = Struct()
    metadata.update(dict(grant.metadata))
    return response.SerializeToString(), metadata.SerializeToString()


def _extras(verdict: Allowed) -> bytes:
    """The rest of the OkHttpResponse: repeated fields may come in any number of pieces (protobuf's encoding guide)."""
    headers = [_overwrite("x-request-id", verdict.request_id)] if verdict.request_id else []
    return authz.OkHttpResponse(headers=headers, headers_to_remove=verdict.aliases).SerializeToString()


def _overwrite(name: str, value: str) -> authz.HeaderValueOption:
    return authz.HeaderValueOption(
        header=authz.HeaderValue(key=name.encode(), value=value.encode()),
        append_action=authz.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


@cache
def _denied(reason: Reason) -> bytes:
    """Serialise a refusal without its decision id; there are as many as reasons."""
    denial = DENIALS[reason]
    fields = {"content-type": "application/json", "cache-control": "no-store"}
    if denial.challenge:
        fields["www-authenticate"] = denial.challenge
    return authz.CheckResponse(
        status=authz.Status(code=denial.code, message=denial.error),
        denied_response=authz.DeniedHttpResponse(
            status=authz.HttpStatus(code=denial.status),
            headers=[_overwrite(name, value) for name, value in fields.items()],
            body=denial_body(denial),
        ),
    ).SerializeToString()


def denial_body(denial: Denial) -> bytes:
    """Write the JSON body of a refusal: one line, a stable `error` code and a sentence."""
    return json.dumps({"error": denial.error, "message": denial.message}).encode()


def _decision(decision_id: str) -> bytes:
    """One entry of a Struct: ``decision_id``. Strings only: descriptors match no other metadata values."""
    return _field(1, _field(1, b"decision_id") + _field(2, _field(3, decision_id.encode())))


def _field(number: int, payload: bytes) -> bytes:
    """Write one length-delimited field (protobuf's encoding guide); `number` is below 16."""
    size = len(payload)
    length = bytearray()
    while size >= 1 << 7:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes((number << 3 | 2,)) + length + payload


def read_limit(body: bytes) -> tuple[bytes, list[Descriptor], int] | str:
    """Read a RateLimitRequest: domain, descriptors and hits_addend; or say what is wrong with it."""
    try:
        message = rls.RateLimitRequest.FromString(body)
    except DecodeError:
        return "the body is not a RateLimitRequest"
    if not message.domain:
        return _NO_DOMAIN
    if not message.descriptors:
        return "rate limit descriptor list must not be empty: give the route rate_limits with actions"
    if len(message.descriptors) > _MOST_DESCRIPTORS:
        return f"more than {_MOST_DESCRIPTORS} rate limit descriptors: give the route fewer rate_limits"
    descriptors = [
        Descriptor(
            tuple((entry.key, entry.value) for entry in descriptor.entries),
            descriptor.hits_addend.value if descriptor.HasField("hits_addend") else None,
        )
        for descriptor in message.descriptors
    ]
    return message.domain, descriptors, message.hits_addend


def write_limited(limited: Limited, *, headers: bool) -> bytes:
    """Write the RateLimitResponse of a decision; `headers`: with the ``x-ratelimit-*`` fields for the client."""
    code = rls.RateLimitResponse.OVER_LIMIT if limited.over else rls.RateLimitResponse.OK
    return rls.RateLimitResponse(
        overall_code=code,
        statuses=[_status(status) for status in limited.statuses],
        response_headers_to_add=_limit_headers(limited) if headers else (),
    ).SerializeToString()


def _status(status: DescriptorStatus) -> rls.RateLimitResponse.DescriptorStatus:
    code = rls.RateLimitResponse.OVER_LIMIT if status.over else rls.RateLimitResponse.OK
    if status.limit is None:
        return rls.RateLimitResponse.DescriptorStatus(code=code)
    message = rls.RateLimitResponse.DescriptorStatus(
        code=code,
        current_limit=_current_limit(status.limit.requests_per_unit, status.limit.unit, status.limit.name),
        limit_remaining=min(status.remaining, _UINT32_MAX),
    )
    message.duration_until_reset.seconds = status.reset
    return message


@lru_cache(maxsize=1024)
def _current_limit(requests: int, unit: str, name: str) -> rls.RateLimitResponse.RateLimit:
    return rls.RateLimitResponse.RateLimit(requests_per_unit=requests, unit=unit.upper(), name=name)


def _limit_headers(limited: Limited) -> list[rls.HeaderValue]:
    """Tell the client of one limit: the refused one that lasts longest, else the one with least left."""
    met = [status for status in limited.statuses if status.limit is not None and status.over == limited.over]
    if not met:
        return []
    told = max(met, key=lambda status: status.reset) if limited.over else min(met, key=lambda status: status.remaining)
    fields = {
        "x-ratelimit-limit": told.limit.requests_per_unit if told.limit else 0,
        "x-ratelimit-remaining": told.remaining,
        "x-ratelimit-reset": told.reset,
    }
    if limited.over:
        fields["retry-after"] = told.reset
    return [rls.HeaderValue(key=name, value=str(value)) for name, value in fields.items()]
