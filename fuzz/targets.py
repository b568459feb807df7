"""What is fuzzed, and what must hold whatever comes: `TARGETS`, by name. Each takes bytes, and raises if it does not.

Every input is asked twice: the second answer, from the caches, must be the first one.
"""

import json
import re
from collections.abc import Callable, Coroutine, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

from fuzz.planted import (
    CREDENTIALS,
    FOREIGN_KEY,
    NOW,
    PARTNER,
    PROOFS,
    SCOPED,
    TIERS,
    TOKENS,
    Observed,
    gate,
    signed,
    verifier,
)
from genops_extauth._pb import ext_authz_pb2 as authz
from genops_extauth.grpc_face import Face
from genops_extauth.model import Denied, Identity

T = TypeVar("T")

_VALUE = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,}")
_SEPARATOR = re.compile(r"[!#$%&'*+.^_`|~]")
_BEARER = re.compile(rb"(?i)(?<![!-+\--~])bearer(?![!-+\--~])")  # a word, also among joined fields
_SDK = ("x-customer-id", "x-user-id", "x-tenant-id", "x-trace-id")
_SERVER_ERROR = 500
_LEEWAY = 30

_OBSERVED = Observed()
_FACE = Face(gate(_OBSERVED))
_VERIFIER = verifier()
# A gateway without a deadline.
_CALL: Any = SimpleNamespace(time_remaining=lambda: None)


def check(asked: bytes) -> None:
    """Ask Check, as a gateway does.

    There is an answer, and it is explicit. Whoever passes is the one whose credential is in these very bytes, or
    nobody, where the route lets nobody in. What we do not set of the reserved headers is removed. No credential is
    seen again, neither in the answer nor in the log.
    """
    assert answered(asked) == answered(asked), "what is remembered changes the answer"


def answered(asked: bytes) -> str | None:
    """Ask Check once, and judge the answer: the customer that passes, empty for nobody, None for a refusal."""
    written = _finished(_FACE.check(asked, _CALL))
    lines = _OBSERVED.lines()
    if _OBSERVED.defects:
        raise _OBSERVED.defects.pop()
    answer = authz.CheckResponse.FromString(written)
    assert answer.HasField("status")
    assert all(value.HasField("string_value") for value in answer.dynamic_metadata.fields.values())
    for credential in CREDENTIALS:
        assert credential not in written, "the answer repeats a credential"
    _judge_log(lines)
    if answer.WhichOneof("http_response") == "denied_response":
        _judge_refusal(answer)
        return None
    assert answer.WhichOneof("http_response") == "ok_response"
    assert answer.status.code == 0
    return _judge_pass(asked, answer.ok_response)


def token(presented: bytes) -> None:
    """Ask whose token this is: only that which an issuer signed is anybody's, byte by byte."""
    found = [_VERIFIER.verify(presented, NOW) for _ in range(2)]
    assert type(found[0]) is type(found[1]), "what is remembered changes the answer"
    for each in found:
        if isinstance(each, Identity):
            customer = each.attributes.get("customer_id")
            assert (presented, customer) in TOKENS.items(), "somebody, without a token of theirs"
        else:
            assert presented not in TOKENS, "a good token is refused"


def claims(payload: bytes) -> None:
    """Ask whose token this is, if a known issuer signs these bytes: a user may choose some of what they say."""
    found = _VERIFIER.verify(signed(payload), NOW)
    if isinstance(found, Denied):
        return
    assert isinstance(found, Identity)
    said = json.loads(payload)
    assert (said["iss"], said["sub"]) == (PARTNER, found.subject)
    assert said["exp"] > NOW - _LEEWAY
    assert said["iat"] <= NOW + _LEEWAY
    assert said["exp"] - said["iat"] <= 3600 + 2 * _LEEWAY
    for name, value in found.attributes.items():
        assert value == ("partner:" if name == "customer_id" else "") + said[name]
        assert _VALUE.fullmatch(value)
        assert "," not in value
    assert found.attributes.get("customer_tier", "free") in TIERS


TARGETS: Mapping[str, Callable[[bytes], None]] = {"check": check, "token": token, "claims": claims}


def _finished(call: Coroutine[object, None, T]) -> T:
    """What a call returns that never waits."""
    try:
        call.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    raise AssertionError("it waits, and nothing that is asked here is worth that")


def _judge_log(lines: list[str]) -> None:
    (line,) = (json.loads(line) for line in lines)
    said = {name: str(line.pop(name, "")) for name in ("path", "host", "method")}
    for credential in map(bytes.decode, CREDENTIALS):
        assert credential not in str(line), "the log repeats a credential"
        # Who writes a key into the path that was not made by us cannot be helped: it has no form.
        assert credential == FOREIGN_KEY.decode() or credential not in str(said), "the log repeats a credential"


def _judge_refusal(answer: authz.CheckResponse) -> None:
    denied = answer.denied_response
    assert answer.status.code != 0
    assert 400 <= denied.status.code < _SERVER_ERROR, "neither store nor keys can be away here"  # noqa: PLR2004 - HTTP's
    assert denied.body
    _headers(denied)


def _judge_pass(asked: bytes, ok: authz.OkHttpResponse) -> str:
    request = authz.CheckRequest.FromString(asked).attributes.request.http
    told, removed = _headers(ok), set(ok.headers_to_remove)
    assert told.keys().isdisjoint(removed), "what is removed last was set in vain"
    assert all(map(_NAME.fullmatch, removed))
    assert set(ok.query_parameters_to_remove) <= {"api_key"}
    for name in _names(request):
        folded = _SEPARATOR.sub("-", name)
        reserved = folded.startswith("x-genops-") or folded in _SDK or folded == "x-api-key"
        assert not reserved or name in told or name in removed, "a client's header passes for ours"
    customer = told.get("x-genops-customer-id", "")
    if customer:
        assert PROOFS[customer](asked), "somebody, without a credential of theirs"
    else:
        assert told.keys() <= {"x-request-id"}, "nobody, with attributes"
        assert _is_open(request), "nobody, where somebody is asked for"
    _judge_chat(request, customer)
    return customer


def _headers(part: authz.OkHttpResponse | authz.DeniedHttpResponse) -> dict[str, str]:
    """The headers that are set; each once, for all gateways alike."""
    found: dict[str, str] = {}
    for option in part.headers:
        name, value = option.header.key.decode("ascii"), option.header.value.decode("ascii")
        assert _NAME.fullmatch(name)
        assert _VALUE.fullmatch(value), "no value of a header"
        assert option.append_action == authz.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
        assert name not in found
        found[name] = value
    return found


def _names(request: authz.AttributeContext.HttpRequest) -> set[str]:
    listed = (entry.key.decode("latin-1") for entry in request.header_map.headers)
    return {name.lower() for name in (*request.headers, *listed)}


def _sent(request: authz.AttributeContext.HttpRequest, name: str) -> list[bytes]:
    """What the client sent under a name, read once more."""
    entries = [(entry.key.decode("latin-1"), entry.raw_value or entry.value) for entry in request.header_map.headers]
    return [value for key, value in entries or request.headers.items() if key.lower() == name]


def _is_open(request: authz.AttributeContext.HttpRequest) -> bool:
    """Whether a route lets nobody in. Where it asks, whoever shows a credential is somebody, or refused."""
    path, _, query = request.path.partition(b"?")
    if request.method == b"GET" and path == b"/healthz":
        return True
    if request.method == b"OPTIONS" and path == b"/page":
        known = _sent(request, "origin") == [b"https://app.test"]
        return known and any(_sent(request, "access-control-request-method"))
    authorization = _sent(request, "authorization")
    bears = any(map(_BEARER.search, authorization))
    shown = bears or len(authorization) > 1 or _sent(request, "x-api-key") or b"api_key=" in query
    return path.startswith(b"/public/") and not shown


def _judge_chat(request: authz.AttributeContext.HttpRequest, customer: str) -> None:
    if request.method == b"POST" and request.path.partition(b"?")[0] == b"/v1/chat":
        assert customer in SCOPED, "without the scope"
        body = json.loads(request.raw_body or request.body)
        assert body["model"] == "large" or body["model"].startswith("small-")
        assert max(body.get(name) or 0 for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")) <= 1000  # noqa: PLR2004 - the route's
