"""API keys, certificates, header encodings and bodies as an attacker writes them, on the gRPC port."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from envoy_data_plane.envoy.service.auth.v3 import CheckResponse
from fuzz.edits import edited
from fuzz.seeds import SEEDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sidecar
from api_keys import issued
from genops_extauth._pb import ext_authz_pb2 as authz
from sidecar import CHECK, TRANSPORTS, Sidecar, token

DIGEST_KEY = b"d" * 44
KEY = issued(DIGEST_KEY, {"customer_id": "acme", "customer_tier": "free"})
WORKLOAD, HOP = "spiffe://prod.test/ns/ml/sa/trainer", "spiffe://prod.test/edge"
FORGED = KEY.key[:-1] + (b"0" if KEY.key[-1:] != b"0" else b"1")
CHAT = b'{"model":"small-1","max_tokens":10}'

Fields = list[tuple[bytes, bytes]]


def configured(transport: str) -> dict[str, Any]:
    identities = [{"spiffe": WORKLOAD, "attributes": {"customer_id": "batch", "customer_tier": "free"}}]
    anybody = ["jwt", "api_key", "certificate"]
    return sidecar.settings(
        server={"transport": transport},
        identity={
            "api_keys": {"digest_key_file": "digest-key", "directory": "keys", "store": False, "query": "api_key"},
            "certificates": {"xfcc_from": [HOP], "identities": identities},
        },
        governance={"required": ["customer_id"]},
        routes=[
            {"path": "/v1/chat", "methods": ["POST"], "body": {"models": {"*": ["small-*"]}, "max_tokens": {"*": 100}}},
            {"path": "/public", "auth": [*anybody, "anonymous"]},
        ],
    )


@dataclass(frozen=True)
class Asked:
    """The sidecar, asked for one path."""

    call: Callable[[bytes], bytes]

    def answer(self, message: authz.CheckRequest) -> CheckResponse:
        return CheckResponse.parse(self.call(message.SerializeToString()))

    def outcome(self, message: authz.CheckRequest) -> tuple[int, str]:
        """The status and the error of a refusal; 200 and who passes."""
        answer = self.answer(message)
        assert answer.status is not None
        if answer.ok_response is not None:
            assert (answer.status.code, answer.denied_response) == (0, None)
            told = {each.header.key: each.header.value for each in answer.ok_response.headers if each.header}
            return 200, told.get("x-genops-customer-id", "")
        assert answer.denied_response is not None
        assert answer.denied_response.status is not None
        assert answer.status.code != 0
        return int(answer.denied_response.status.code), json.loads(answer.denied_response.body)["error"]


@pytest.fixture(scope="module", params=TRANSPORTS)
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    with sidecar.folder() as place:
        (place / "digest-key").write_bytes(DIGEST_KEY)
        (place / "digest-key").chmod(0o600)
        (place / "keys").mkdir()
        name, record = KEY.file
        (place / "keys" / name).write_bytes(record)
        served = Sidecar(place, configured(request.param))
        served.start()
        try:
            with served.calls(CHECK) as check:
                yield Asked(check)
            assert served.metric("genops_internal_errors_total") == 0
        finally:
            served.stop()


def request(
    *listed: tuple[bytes, bytes], path: bytes = b"/v1/models", method: bytes = b"GET", body: bytes = b"", **named: bytes
) -> authz.CheckRequest:
    """A CheckRequest with headers in either encoding: `listed` ones, `named` ones with ``_`` for ``-``."""
    http = authz.AttributeContext.HttpRequest(method=method, path=path, host=b"ai", raw_body=body)
    for name, value in named.items():
        http.headers[name.replace("_", "-")] = value
    for key, value in listed:
        http.header_map.headers.add(key=key, raw_value=value)
    return authz.CheckRequest(attributes=authz.AttributeContext(request=authz.AttributeContext.Request(http=http)))


def bearer(credential: bytes | None = None) -> bytes:
    return b"Bearer " + (credential or token(customer_id="acme").encode())


def test_what_is_good_passes(asked: Asked) -> None:
    """Here a token passes, and an API key in its header, as a bearer token and in the query, in either encoding."""
    passing = (200, "acme")
    assert asked.outcome(request(authorization=bearer())) == passing
    assert asked.outcome(request((b"Authorization", bearer()))) == passing
    assert asked.outcome(request(x_api_key=KEY.key)) == passing
    assert asked.outcome(request((b"X-API-Key", KEY.key))) == passing
    assert asked.outcome(request(authorization=bearer(KEY.key))) == passing
    assert asked.outcome(request(path=b"/v1/models?a=b&api_key=" + KEY.key)) == passing


@pytest.mark.parametrize(
    "second",
    [
        {"authorization": bearer(KEY.key)},
        {"authorization": bearer()},
        {"authorization": bearer(b"no.token.atall")},
        {"path": b"/v1/models?api_key=" + KEY.key},
        {"path": b"/v1/models?api%5Fkey=" + KEY.key},
        {"path": b"/v1/models?api_key="},
    ],
    ids=["the same as a bearer token", "a token", "a bad token", "the same in the query", "misspelt", "an empty one"],
)
def test_a_key_and_another_credential_are_none(asked: Asked, second: dict[str, Any]) -> None:
    """Two credentials are refused, whichever they are, and whether each alone would pass or not."""
    assert asked.outcome(request(x_api_key=KEY.key, **second)) == (401, "ambiguous_credentials")


@pytest.mark.parametrize("path", [b"/v1/models", b"/public"])
@pytest.mark.parametrize(
    "twice",
    [
        [(b"x-api-key", KEY.key), (b"x-api-key", KEY.key)],
        [(b"x-api-key", KEY.key), (b"X-Api-Key", b"another-key-0123456789")],
        [(b"x-api-key", b""), (b"x-api-key", KEY.key)],
        [(b"authorization", bearer()), (b"authorization", bearer())],
        [(b"authorization", bearer()), (b"Authorization", b"Basic dTpw")],
        [(b"authorization", b"Basic dTpw"), (b"authorization", bearer())],
        [(b"authorization", b"Basic dTpw"), (b"authorization", bearer(KEY.key))],
    ],
    ids=["keys", "keys, two", "keys, one empty", "tokens", "token, Basic", "Basic, token", "Basic, key"],
)
def test_a_repeated_credential_is_none(asked: Asked, path: bytes, twice: Fields) -> None:
    """A credential's header that stands twice is refused, whatever is in it: also where anonymous callers may pass."""
    assert asked.outcome(request(*twice, path=path)) == (401, "ambiguous_credentials")


@pytest.mark.parametrize(
    "key",
    [
        FORGED,
        KEY.key.upper(),
        KEY.key + b"0",
        KEY.key[:-1],
        b" " + KEY.key,
        KEY.key + b"\x00",
        b"gxk_",
        b"",
        b"\xff" * 40,
        b"k" * 2**20,
        KEY.key + b"," + KEY.key,
    ],
    ids=["checksum", "case", "longer", "shorter", "blank", "NUL", "prefix", "empty", "no text", "1 MB", "joined"],
)
def test_a_key_has_one_spelling(asked: Asked, key: bytes) -> None:
    """What is nearly a key is none, and is never taken for the absence of one."""
    assert asked.outcome(request(x_api_key=key)) == (401, "invalid_api_key")
    assert asked.outcome(request(x_api_key=key, path=b"/public")) == (401, "invalid_api_key")


@pytest.mark.parametrize("other", [(b"x-note", b"b"), (b"x-note", b""), (b"cookie", b"c")], ids=str)
def test_encodings_that_differ_are_refused(asked: Asked, other: tuple[bytes, bytes]) -> None:
    """A request whose two encodings of the headers say different things is a 400; where they agree it passes."""
    named, listed = {"x_api_key": KEY.key, "x_note": b"a"}, [(b"X-API-Key", KEY.key), (b"X-Note", b"a")]
    assert asked.outcome(request(*listed, **named)) == (200, "acme")
    for differing in ([*listed, other], [listed[0], other], listed[:1]):
        assert asked.outcome(request(*differing, **named)) == (400, "invalid_request")


def test_a_credential_in_one_encoding_is_none(asked: Asked) -> None:
    """A credential that only one of two encodings has does not pass, whichever it is."""
    for listed, named in (([(b"x-note", b"a")], KEY.key), ([(b"x-api-key", KEY.key)], FORGED)):
        assert asked.outcome(request(*listed, x_api_key=named))[0] in (400, 401)


@pytest.mark.parametrize("name", [b"x-genops-te\xff", b"x-genops-team\r\nx-a", b"x-genops-\x00", b"X-GENOPS- "])
def test_names_that_no_gateway_sends_are_refused(asked: Asked, name: bytes) -> None:
    """A reserved name that could not be removed, for it is no name of a header, is a 400."""
    assert asked.outcome(request((b"x-api-key", KEY.key), (name, b"forged"))) == (400, "invalid_request")


def test_values_that_are_no_text_change_nothing(asked: Asked) -> None:
    """Values that are no text, in the list of headers, do not stop a good key; reserved ones do not arrive."""
    message = request((b"x-api-key", KEY.key), (b"X_GenOps.Team", b"\xff\x00"), (b"x-genops-customer-id", b"\xfe"))
    ok = asked.answer(message).ok_response
    assert ok is not None
    assert {"x_genops.team", "x-api-key"} <= set(ok.headers_to_remove)
    assert asked.outcome(message) == (200, "acme")


def test_very_many_headers_are_decided(asked: Asked) -> None:
    """Ten thousand headers, and a thousand spellings of reserved ones, are decided; each spelling is removed."""
    many = [(b"x-note-%d" % number, b"v" * 50) for number in range(10_000)]
    forged = [b"x_genops.%d" % number for number in range(1_000)]
    ok = asked.answer(request((b"x-api-key", KEY.key), *many, *((name, b"forged") for name in forged))).ok_response
    assert ok is not None
    assert {name.decode() for name in forged} <= set(ok.headers_to_remove)
    assert asked.outcome(request(*many)) == (401, "unauthenticated")


def chat(body: bytes = CHAT, **headers: bytes) -> authz.CheckRequest:
    headers = {"content_type": b"application/json", "content_length": b"%d" % len(body)} | headers
    return request(path=b"/v1/chat", method=b"POST", body=body, x_api_key=KEY.key, **headers)


def test_a_body_within_the_rules_passes(asked: Asked) -> None:
    """Here a body with an admitted model and a number of tokens passes."""
    assert asked.outcome(chat()) == (200, "acme")


@pytest.mark.parametrize(
    "message",
    [
        chat(content_length=b"%d" % (len(CHAT) + 1)),
        chat(content_length=b"%d" % (len(CHAT) - 1)),
        chat(content_length=b"-1"),
        chat(content_length=b"35,35"),
        chat(content_length=b"9" * 5000),
        chat(x_envoy_auth_partial_body=b"true"),
        chat(content_type=b"text/plain"),
        chat(content_encoding=b"gzip"),
        chat(b""),
        chat(CHAT[:-1]),
        chat(CHAT + b"x"),
        chat(b'{"model":"small-1","max_tokens":1,"model":"large"}'),
        chat(b'{"model":"small-1","max_tokens":1,"MODEL":"large"}'),
        chat(b'{"model":"small-1","max_tokens":' + b"9" * 5000 + b"}"),
        chat(b'{"a":' * 20_000),
        chat(b'"' * 200_000),
        chat(b"\xef\xbb\xbf" + CHAT),
        chat(CHAT.decode().encode("utf-16")),
    ],
    ids=[
        *("longer than it says", "shorter", "negative", "two lengths", "endless length", "partial", "text", "gzip"),
        *("none", "cut off", "more", "twice", "other spelling", "endless number", "deep", "quotes", "BOM", "UTF-16"),
    ],
)
def test_a_body_with_two_readings_is_refused(asked: Asked, message: authz.CheckRequest) -> None:
    """A body that is not what its headers say, or that two parsers could read in two ways, is a 400."""
    assert asked.outcome(message) == (400, "invalid_body")


def of_peer(principal: bytes, certificate: bytes = b"", **headers: bytes) -> authz.CheckRequest:
    message = request(**headers)
    message.attributes.source.principal = principal
    message.attributes.source.certificate = certificate
    return message


def test_only_a_hop_speaks_for_others(asked: Asked) -> None:
    """XFCC counts from a trusted hop alone; from anybody else it is what a client wrote."""
    forwarded = f"By={HOP};URI={WORKLOAD}".encode()
    assert asked.outcome(of_peer(WORKLOAD.encode())) == (200, "batch")
    assert asked.outcome(of_peer(HOP.encode(), x_forwarded_client_cert=forwarded)) == (200, "batch")
    for stranger in (b"", b"spiffe://prod.test/edge2", b"CN=edge", HOP.upper().encode()):
        status, _ = asked.outcome(of_peer(stranger, x_forwarded_client_cert=forwarded))
        assert status == 401
    assert asked.outcome(of_peer(HOP.encode())) == (401, "unauthenticated")


@pytest.mark.parametrize(
    "said",
    [
        f"URI={WORKLOAD},URI={WORKLOAD}",
        f"URI=spiffe://prod.test/other;URI={WORKLOAD}",
        f'Subject="CN=\\\\";URI={WORKLOAD};x="',
        f"URI={WORKLOAD};Hash=a;Hash=b",
        f"uri={WORKLOAD}",
        f"URI={WORKLOAD}\x00",
        "",
        "Cert=" + "A" * 20_000,
        "Cert=%ff%00",
    ],
    ids=["two elements", "two names", "escapes", "twice", "case", "NUL", "empty", "long", "no certificate"],
)
def test_what_a_hop_says_has_one_reading(asked: Asked, said: str) -> None:
    """A hop's XFCC that could be read in two ways is a bad certificate, and not the absence of one."""
    message = of_peer(HOP.encode(), x_forwarded_client_cert=said.encode())
    assert asked.outcome(message) == (401, "invalid_certificate")


def test_a_certificate_that_is_none_is_refused(asked: Asked) -> None:
    """A principal that is no text is a 400; a certificate that cannot be read is refused, whatever the principal is."""
    assert asked.outcome(of_peer(b"\xff")) == (400, "invalid_request")
    for certificate in (b"x", b"%", b"-----BEGIN CERTIFICATE-----%0AAAAA%0A-----END CERTIFICATE-----", b"A" * 2**20):
        assert asked.outcome(of_peer(WORKLOAD.encode(), certificate)) == (401, "invalid_certificate")


# The sidecar is the same for all examples on purpose: none may harm it for the next.
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_edit_makes_a_stranger_pass(asked: Asked, data: st.DataObject) -> None:
    """The fuzzer's requests hold credentials of another place: edited at will, they pass for nobody else here."""
    random: Random = data.draw(st.randoms(use_true_random=False))
    body = edited("check", data.draw(st.sampled_from(SEEDS["check"])), random)
    answer = CheckResponse.parse(asked.call(body))
    assert answer.status is not None
    if answer.ok_response is None:
        assert answer.status.code != 0
        assert answer.denied_response is not None
    else:
        assert {each.header.key for each in answer.ok_response.headers if each.header} <= {"x-request-id"}
