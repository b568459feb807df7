"""Through a real Envoy: who passes, as whom, and what the service behind it can believe."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

import minting
from gateway import Answer, Fields, Gateway, Upstream, envoy, upstream, without_walls
from sidecar import KEY, TRANSPORTS, serving, settings, token

GOOD = {"customer_id": "acme", "customer_tier": "premium", "team": "search", "project": "p1"}
OURS = {
    "x-genops-team": "search",
    "x-genops-project": "p1",
    "x-genops-customer-id": "acme",
    "x-genops-customer-tier": "premium",
}

NAMES = ("team", "project", "customer-id", "customer-tier", "cost-center", "session-id", "environment", "anything")
SDK = ("customer-id", "user-id", "tenant-id", "trace-id")
SPELLINGS: dict[str, Callable[[str], str]] = {
    "dashes": str,
    "capitals": str.title,
    "shouting": str.upper,
    "underscores": lambda name: name.replace("-", "_"),
    "dots": lambda name: name.replace("-", "."),
    "mixture": lambda name: name.replace("-", "_", 1).replace("-", ".", 1),
    "capital underscores": lambda name: name.title().replace("-", "_"),
}


@dataclass(frozen=True)
class Bench:
    """A sidecar behind two Envoys: the documented one, and one that leaves forged headers to the sidecar."""

    documented: Gateway
    bare: Gateway
    service: Upstream


@pytest.fixture(scope="module", params=TRANSPORTS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    configured = settings(server={"transport": request.param}, rate_limits={"anonymous": {"limit": "100000/hour"}})
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(upstream())
        asked = stack.enter_context(serving(configured)).grpc
        documented = stack.enter_context(envoy(service, asked))
        bare = stack.enter_context(envoy(service, asked, changes=[without_walls]))
        yield Bench(documented, bare, service)


def reserved(answer: Answer) -> dict[str, str]:
    """What arrived under a name that means identity to some framework: ``_`` and ``.`` read as ``-``."""
    folded = [(name.replace("_", "-").replace(".", "-"), name, value) for name, value in answer.arrived]
    meant = tuple(f"x-{name}" for name in SDK)
    found = [(name, value) for fold, name, value in folded if fold.startswith("x-genops-") or fold in meant]
    assert len(dict(found)) == len(found), f"a name came twice: {found}"
    return dict(found)


def test_a_good_token_passes(bench: Bench) -> None:
    """A good token is answered by the service, which sees our headers, no other, and a request id."""
    answer = bench.documented.get("/v1/models?x=1", token(**GOOD))
    assert answer.status == 200
    assert answer.json["path"] == "/v1/models?x=1"
    assert reserved(answer) == OURS
    assert dict(answer.arrived)["x-request-id"]


def test_defaults_fill_what_the_token_does_not_say(bench: Bench) -> None:
    """Without a tier in its token a customer has the default one, and the service is told so."""
    answer = bench.documented.get(token=token(**{**GOOD, "customer_tier": None}))
    assert reserved(answer) == {**OURS, "x-genops-customer-tier": "free"}


STRANGER = minting.KeyPair(KEY.kid, KEY.algorithm, minting.ed_pair("stranger").private)
BAD: dict[str, Callable[[], str]] = {
    "garbage": lambda: "not.a.token",
    "expired": lambda: token(exp=int(time.time()) - 3600),
    "not yet valid": lambda: token(nbf=int(time.time()) + 3600),
    "wrong audience": lambda: token(aud="another-service"),
    "no audience": lambda: token(aud=None),
    "wrong issuer": lambda: token(iss="https://evil.test/"),
    "wrong key": lambda: token(STRANGER),
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "too large": lambda: token(padding="x" * 20_000),
}


def test_without_a_token_nobody_passes(bench: Bench) -> None:
    """A request without a token is challenged with 401, and never arrives."""
    answer = bench.documented.get("/refused/none")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="genops"')
    assert answer.json["error"] == "unauthenticated"
    assert "/refused/none" not in bench.service.targets


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_token_does_not_pass(bench: Bench, kind: str) -> None:
    """Whatever is wrong with a token, the answer is the same 401, to the byte: it tells nobody what."""
    answer = bench.documented.get("/refused/bad", BAD[kind]())
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="genops", error="invalid_token"'
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("application/json", "no-store")
    assert answer.body == b'{"error": "invalid_token", "message": "The bearer token is not valid."}'
    assert answer.headers.keys() <= {"www-authenticate", "content-type", "cache-control", "content-length", *ENVOYS}
    assert "/refused/bad" not in bench.service.targets


ENVOYS = ("date", "server")
"""What Envoy itself adds to an answer."""


def test_two_credentials_are_none(bench: Bench) -> None:
    """Of two Authorization fields neither is believed: the service might read the other one."""
    twice = [("authorization", f"Bearer {token(**GOOD)}")] * 2
    assert bench.documented.get("/refused/two", headers=twice).status == 401
    assert "/refused/two" not in bench.service.targets


def test_a_token_that_does_not_say_enough_is_forbidden(bench: Bench) -> None:
    """Who is known, but not on whose account, is told 403: another token would help, this one never will."""
    answer = bench.documented.get(token=token(project=None))
    assert (answer.status, answer.json["error"]) == (403, "forbidden")
    assert "www-authenticate" not in answer.headers


def forged(spell: Callable[[str], str]) -> Fields:
    """Every reserved name in one spelling, with a customer that is not the token's."""
    return [(spell(f"x-genops-{name}"), "forged") for name in NAMES] + [(spell(f"x-{name}"), "forged") for name in SDK]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_forged_headers_never_arrive(bench: Bench, spelling: str) -> None:
    """A client's own reserved headers, however spelt, never reach the service, with and without Envoy's help."""
    for gateway in (bench.documented, bench.bare):
        answer = gateway.get("/v1/models", token(**GOOD), forged(SPELLINGS[spelling]))
        assert answer.status == 200
        assert reserved(answer) == OURS


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_open_routes_strip_too(bench: Bench, spelling: str) -> None:
    """A route that needs no identity lets nobody claim one."""
    for gateway in (bench.documented, bench.bare):
        answer = gateway.get("/open", headers=forged(SPELLINGS[spelling]))
        assert answer.status == 200
        assert reserved(answer) == {}


def test_repeated_forgeries_never_arrive(bench: Bench) -> None:
    """A name that comes many times, in one spelling or in several, is replaced by our one value."""
    fields = [*forged(str), *forged(str.title), *forged(str), *forged(SPELLINGS["underscores"])]
    for gateway in (bench.documented, bench.bare):
        assert reserved(gateway.get("/v1/models", token(**GOOD), fields)) == OURS


@pytest.mark.parametrize("path", ["/open/", "/open/x", "/openx", "/OPEN", "/v1/../v1/open", "/open%2f..%2fv1"])
def test_an_open_route_is_one_path(bench: Bench, path: str) -> None:
    """Only the exact path of an open route needs no identity."""
    assert bench.bare.get(path).status in (400, 401)
    assert path not in bench.service.targets


@pytest.mark.parametrize("sent", [[], ["\xff not an id"], ["one", "two"]], ids=["none", "unusable", "repeated"])
def test_every_request_has_one_id(bench: Bench, sent: list[str]) -> None:
    """Every request arrives with one request id, whatever the client sent."""
    answer = bench.bare.get("/open", headers=[("x-request-id", value) for value in sent])
    (found,) = [value for name, value in answer.arrived if name == "x-request-id"]
    assert found
    assert found not in sent
