"""Through a real Envoy: who passes, as whom, and what the service behind it can believe."""

import contextlib
import time
from collections.abc import Iterator
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
SPELLINGS = {
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
    answer = bench.documented.get(token=token(**{**GOOD, "customer_id": "tierless"}, customer_tier=None))
    assert reserved(answer) == {**OURS, "x-genops-customer-id": "tierless", "x-genops-customer-tier": "free"}


STRANGER = minting.KeyPair(KEY.kid, KEY.algorithm, minting.ed_pair("stranger").private)
BAD = {
    "none": None,
    "garbage": "not.a.token",
    "expired": lambda: token(exp=int(time.time()) - 3600),
    "not yet valid": lambda: token(nbf=int(time.time()) + 3600),
    "wrong audience": lambda: token(aud="another-service"),
    "no audience": lambda: token(aud=None),
    "wrong issuer": lambda: token(iss="https://evil.test/"),
    "wrong key": lambda: token(STRANGER),
    "no signature": lambda: token(minting.KeyPair(KEY.kid, KEY.algorithm, KEY.private)).rpartition(".")[0] + ".",
}
