"""Where fuzzing begins: `SEEDS`, by target, good and bad; and the `WORDS` that inputs are made of."""

import base64
import json
from collections.abc import Mapping

from fuzz.planted import (
    API_KEY,
    BAD,
    CERTIFICATE,
    FOREIGN_KEY,
    HOP,
    PARTNER,
    PARTNERS,
    SERVICE,
    TEAMLESS,
    TOKEN,
    WORKLOAD,
    claims,
)
from genops_extauth._pb import ext_authz_pb2 as authz

_CHAT = json.dumps({"model": "small-1", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}).encode()
_JSON = {"content-type": b"application/json", "content-length": str(len(_CHAT)).encode()}
_HASHED = b"By=spiffe://mesh.test/edge;Hash=0a;URI=" + WORKLOAD
_XFCC = (
    *(_HASHED, _HASHED + b",URI=" + WORKLOAD, b'Subject="CN=a\\";b";URI=' + WORKLOAD),
    *(b"Cert=" + CERTIFICATE, b"DNS=" + SERVICE),
)

METHODS = (b"GET", b"POST", b"OPTIONS", b"HEAD", b"get", b"GET /healthz", b"\xff")
PATHS = (
    *(b"/healthz", b"/healthz?x=/../v1", b"/healthz/", b"//healthz", b"/public/a", b"/public/../v1/chat", b"/page"),
    *(b"/v1/chat", b"/v1/chat?api_key=" + API_KEY, b"/v1/%63hat", b"/v1/chat;a=b", b"/v1/x%2Fy", b"/v1/\xc0\xaf", b"*"),
)
NAMES = (
    *("authorization", "Authorization", "x-api-key", "x_api_key", "x-genops-team", "x_genops_team", "X.GenOps.Team"),
    *("x-customer-id", "x-genops-customer-id", "x-request-id", "connection", "x-forwarded-client-cert", "origin"),
    *("access-control-request-method", "content-type", "content-length", "content-encoding", ":path", ":method"),
    *("x-envoy-auth-partial-body", "x-genops-t\u00e9am", "x-genops-", "cookie"),
)
VALUES = (
    *(b"Bearer " + each for each in (TOKEN, TEAMLESS, PARTNERS, API_KEY, *BAD.values())),
    *(API_KEY, FOREIGN_KEY, b"Basic dTpw", b"Bearer", b"bearer  x", b"\xff\xfe", b"forged", b"close, x-genops-team"),
    *_XFCC,
    *(b"https://app.test", b"application/grpc", b"application/json", b"true", b"gzip", b"0"),
)
BODIES = (
    *(_CHAT, b'{"model":"large","max_tokens":1}', b'{"model":"small-1","model":"large","max_tokens":1}', b"[]", b""),
    *(b'{"model":"other","max_tokens":5}', b'{"model":"small-1","max_tokens":1e3}', b'{"MODEL":"small-1"}', _CHAT[:-9]),
)
PRINCIPALS = (WORKLOAD, SERVICE, HOP, b"CN=trainer", b"spiffe://mesh.test/ns/,/sa/trainer", b"SPIFFE://mesh.test", b"")

WORDS = tuple(
    dict.fromkeys((*METHODS, *PATHS, *(name.encode() for name in NAMES), *VALUES, *BODIES, *PRINCIPALS, CERTIFICATE))
)


def request(
    method: bytes = b"GET", path: bytes = b"/v1/models", principal: bytes = b"", body: bytes = b"", **headers: bytes
) -> authz.CheckRequest:
    """A CheckRequest. Names of `headers` are written with underscores."""
    message = authz.CheckRequest()
    http = message.attributes.request.http
    http.method, http.path, http.host, http.body = method, path, b"api.test", body
    message.attributes.source.principal = principal
    message.attributes.source.address.socket_address.address = "192.0.2.1"
    for name, value in headers.items():
        http.headers[name.replace("_", "-")] = value
    return message


def listed(message: authz.CheckRequest) -> authz.CheckRequest:
    """The same request, its headers in the other encoding."""
    http = message.attributes.request.http
    for name, value in http.headers.items():
        http.header_map.headers.add(key=name.encode(), raw_value=value)
    http.headers.clear()
    return message


def _requests() -> list[authz.CheckRequest]:
    bearer = b"Bearer " + TOKEN
    chat = {"content_type": _JSON["content-type"], "content_length": _JSON["content-length"]}
    preflight = {"origin": b"https://app.test", "access_control_request_method": b"POST"}
    tenant, certified = request(path=b"/v1/x", x_api_key=API_KEY), request()
    tenant.attributes.context_extensions["tenant"] = "a"
    certified.attributes.source.principal, certified.attributes.source.certificate = WORKLOAD, CERTIFICATE
    return [
        *(request(authorization=b"Bearer " + each) for each in (TOKEN, TEAMLESS, PARTNERS, API_KEY, *BAD.values())),
        *(request(x_api_key=each) for each in (API_KEY, FOREIGN_KEY, b"gxk_", BAD["expired key"])),
        *(request(principal=each) for each in PRINCIPALS),
        *(request(principal=HOP, x_forwarded_client_cert=each) for each in _XFCC),
        *(request(method, path) for method in METHODS for path in PATHS),
        *(request(b"POST", b"/v1/chat", body=each, authorization=bearer, **chat) for each in BODIES),
        request(b"OPTIONS", b"/page", **preflight),
        request(b"OPTIONS", b"/page", authorization=bearer, **preflight | {"origin": b"https://evil.test"}),
        request(path=b"/v1/models?api_key=" + API_KEY),
        request(authorization=bearer, x_api_key=API_KEY),
        request(authorization=bearer, x_genops_team=b"forged", connection=b"close, x-genops-team"),
        listed(request(authorization=bearer, x_customer_id=b"forged", x_request_id=b"a b")),
        request(content_type=b"application/grpc"),
        # Found by the fuzzer: the second Authorization was nobody's business where anonymous callers may pass.
        listed(request(path=b"/public/a", authorization=b"Basic dTpw", Authorization=bearer)),
        request(path=b"/public/a", authorization=b"Basic dTpw," + bearer),
        tenant,
        certified,
    ]


def _tokens() -> list[bytes]:
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=")
    good = [TOKEN, TEAMLESS, PARTNERS]
    return [
        *good,
        *BAD.values(),
        *(each + b"=" for each in good),
        header + TOKEN[TOKEN.index(b".") :],
        TOKEN.rpartition(b".")[0] + b".",
        TOKEN + b".x.y",
    ]


def _payloads() -> list[bytes]:
    good = claims("globex", iss=PARTNER)
    odd: list[object] = ["", "a,b", "a\r\nb", "\u00e9", "x" * 300, ["a"], {"a": 1}, True, 1e300, -1, None, 10**30]
    changed = [good | {name: value} for name in good for value in odd]
    return [json.dumps(said).encode() for said in (good, *changed)]


SEEDS: Mapping[str, list[bytes]] = {
    "check": [message.SerializeToString(deterministic=True) for message in _requests()],
    "token": _tokens(),
    "claims": _payloads(),
}
