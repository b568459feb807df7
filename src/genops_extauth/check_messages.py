"""CheckRequest -> Request, Outcome -> CheckResponse (envoy/service/auth/v3/external_auth.proto).

Three habits of Envoy's ext_authz filter shape the answers:

- It looks at ``status.code`` alone, and an empty response is code 0: allow. So status and one half of the
  ``http_response`` oneof are always written, also where protobuf would leave zeros out.
- A failed call is an authorization *error*, which ``failure_mode_allow`` lets pass. So whatever a client sends, there
  is an answer.
- Newer releases honour ``append_action``, and its zero value appends behind the client's copy; older ones overwrite.
  So every header says OVERWRITE_IF_EXISTS_OR_ADD, which both understand alike.

Answers are put together from bytes: what depends on the identity only is serialised once and remembered, the rest
(decision id, aliases seen, a new request id) is appended. That is 1 us instead of 8.
"""

from collections.abc import Iterable, Mapping
from functools import cache, lru_cache

from google.protobuf.message import DecodeError

from genops_extauth._pb import ext_authz_pb2 as authz
from genops_extauth.model import Allowed, Denied, Form, Grant, Outcome, Peer, Request
from genops_extauth.reasons import Reason
from genops_extauth.refusals import refusal
from genops_extauth.wire import field, number

_GRANTS_KEPT = 16_384  # as many as a gate's generation keeps
_NONE_REPEATED: frozenset[str] = frozenset()


def read_check(body: bytes) -> Request | Denied:
    """Read a CheckRequest. One that does not parse, or describes no HTTP request, is a refusal."""
    try:
        attributes = authz.CheckRequest.FromString(body).attributes
    except DecodeError:
        return Denied(Reason.REQUEST_MALFORMED, "not a CheckRequest")
    http = attributes.request.http
    method, path = http.method, http.path
    if not method:
        return Denied(Reason.REQUEST_MALFORMED, "no HTTP attributes")
    # Not copied into a dict, which costs as much as the parse: three of some twenty headers are looked at.
    headers: Mapping[str, bytes] = http.headers
    names = "\n".join(headers)
    repeated, agree = _NONE_REPEATED, True
    if names != names.lower() or http.HasField("header_map"):
        headers, repeated, agree = _headers(http)
        names = "\n".join(headers)
    host = http.host
    told_alike = headers.get(":path", path) == path and headers.get(":authority", host) == host
    consistent = agree and told_alike and headers.get(":method", method) == method
    try:
        target, _, query = path.decode().partition("?")
        return Request(
            method.decode("ascii"),
            target,
            host.decode(),
            headers,
            repeated,
            consistent,
            names,
            query,
            http.raw_body or http.body or None,
            attributes.context_extensions,
            _peer(attributes.source),
        )
    except UnicodeDecodeError:
        return Denied(Reason.REQUEST_MALFORMED, "method, path, host or peer is not text")


def _peer(source: authz.AttributeContext.Peer) -> Peer:
    principal = source.principal
    address = source.address.socket_address.address
    return Peer(address, principal.decode(), source.certificate.decode() if principal else "")


def _headers(http: authz.AttributeContext.HttpRequest) -> tuple[dict[str, bytes], frozenset[str], bool]:
    """Read unusual headers: in lower case, which names came twice, and whether two encodings agree."""
    headers, repeated = _merged(http.headers.items())
    entries = http.header_map.headers
    if not entries:
        return headers, repeated, True
    listed, repeated = _merged((entry.key.decode("latin-1"), entry.raw_value or entry.value) for entry in entries)
    one_value = not any(entry.value and entry.raw_value not in (b"", entry.value) for entry in entries)
    return listed, repeated, one_value and (not headers or headers == listed)


def request_of(method: str, target: str, host: str, fields: Iterable[tuple[bytes, bytes]]) -> Request:
    """Describe a request that comes from elsewhere than a gateway; `target` may have a query."""
    headers, repeated = _merged((name.decode("latin-1"), value) for name, value in fields)
    path, _, query = target.partition("?")
    return Request(method, path, host, headers, repeated, query=query)


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
        refused = _refused_up_to_id(verdict.reason, outcome.form, len(outcome.decision_id))
        return refused + outcome.decision_id.encode()
    if verdict.removed or verdict.request_id or verdict.removed_parameters:
        return _allowed(verdict.grant, _extras(verdict), outcome.decision_id)
    return _up_to_id(verdict.grant, len(outcome.decision_id)) + outcome.decision_id.encode()


_STATUS_OK = b"\x0a\x00"  # CheckResponse.status, present and empty: google.rpc.Code.OK


def _allowed(grant: Grant, extras: bytes, decision_id: str) -> bytes:
    """A CheckResponse, the decision's id at its very end. `extras` are further fields of its OkHttpResponse."""
    headers = b"".join(_overwrite(name, value) for name, value in grant.headers)
    metadata = b"".join(_fact(name, value) for name, value in grant.metadata)
    ok = field(3, headers + _removed(grant.removed) + extras)
    return _STATUS_OK + ok + field(4, metadata + _decision(decision_id))


@lru_cache(maxsize=_GRANTS_KEPT)
def _up_to_id(grant: Grant, size: int) -> bytes:
    """The usual answer for a grant, up to a decision id of `size` bytes: all that is the same each time."""
    return _allowed(grant, b"", "0" * size)[:-size]


def _extras(verdict: Allowed) -> bytes:
    request_id = _option("x-request-id", verdict.request_id) if verdict.request_id else b""
    parameters = b"".join(field(8, name.encode()) for name in verdict.removed_parameters)
    return request_id + _removed(verdict.removed) + parameters


def _option(name: str, value: str) -> bytes:
    """One HeaderValueOption, of an OkHttpResponse or a DeniedHttpResponse: field 2 of both."""
    header = field(1, name.encode()) + field(2, value.encode())
    return field(2, field(1, header) + number(3, authz.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD))


# Customers of a team share all but their id: a new token costs one new entry here, and not ten. What a client chooses
# is never remembered.
_overwrite = lru_cache(maxsize=4096)(_option)


def _removed(names: tuple[str, ...]) -> bytes:
    """OkHttpResponse.headers_to_remove."""
    return b"".join(field(5, name.encode()) for name in names)


@cache
def _refused_up_to_id(reason: Reason, form: Form, size: int) -> bytes:
    return (refused(reason, form) + field(4, _decision("0" * size)))[:-size]


def refused(reason: Reason, form: Form = "json") -> bytes:
    """Write a refusal without a decision id."""
    said = refusal(reason, form)
    headers = b"".join(_overwrite(name, value) for name, value in said.headers)
    denied = field(1, number(1, said.status)) + headers + field(3, said.body)
    return field(1, number(1, said.code) + field(2, said.error.encode())) + field(2, denied)


def _decision(decision_id: str) -> bytes:
    return _entry("decision_id", decision_id)


def _entry(name: str, value: str) -> bytes:
    """One entry of a Struct. Always a string: descriptors match no other metadata values."""
    return field(1, field(1, name.encode()) + field(2, field(3, value.encode())))


_fact = lru_cache(maxsize=4096)(_entry)
