"""What docs/gateways/envoy.md adds for bodies and contexts does what it says, in a real Envoy."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from gateway import Gateway, envoy, ingress, upstream
from generated import REPOSITORY
from manifests import Manifest
from pages import blocks
from sidecar import serving, settings, token

OF_THE_FILTER, OF_THE_ROUTE = (
    json.loads(block.text) for block in blocks(REPOSITORY / "docs" / "gateways" / "envoy.md", "json")
)
CHAT = "/v1/chat/completions"
ROUTES = [
    {"methods": ["POST"], "path": CHAT, "body": {"models": {"*": ["small-*"]}, "max_tokens": {"*": 1000}}},
    {"path": "/v1/tenant", "context": {"tenant": "a"}},
    {"path": "/v1/tenant", "auth": "refuse"},
]


def _as_documented(bootstrap: Manifest) -> None:
    """Add both blocks of the page; the route's to one of its own, for half of the tenant's requests."""
    manager = ingress(bootstrap)
    (asking,) = (each for each in manager["http_filters"] if each["name"].endswith("ext_authz"))
    asking["typed_config"] |= OF_THE_FILTER
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    (everything,) = routes
    mine = {"prefix": "/", "headers": [{"name": "x-tenant", "string_match": {"exact": "a"}}]}
    routes.insert(0, everything | {"match": mine} | OF_THE_ROUTE)


@pytest.fixture(scope="module")
def asked() -> Iterator[Gateway]:
    with contextlib.ExitStack() as stack:
        sidecar = stack.enter_context(serving(settings(routes=ROUTES)))
        service = stack.enter_context(upstream())
        yield stack.enter_context(envoy(service, sidecar.grpc, changes=[_as_documented]))


def chat(gateway: Gateway, body: bytes) -> tuple[int, str]:
    fields = [("authorization", f"Bearer {token()}"), ("content-type", "application/json")]
    answer = gateway.send("POST", CHAT, fields, body)
    return answer.status, answer.json.get("error", "")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model": "small-1", "max_tokens": 1000}', (200, "")),
        (b'{"model": "large-1", "max_tokens": 1000}', (403, "model_not_allowed")),
        (b'{"model": "small-1", "max_tokens": 1001}', (403, "max_tokens_exceeded")),
        (b'{"model": "small-1", "model": "large-1", "max_tokens": 1}', (400, "invalid_body")),
        (b'{"model": "small-1", "max_tokens": 1', (400, "invalid_body")),
        (b"", (400, "invalid_body")),
        (b'{"model": "small-1", "max_tokens": 1, "input": "%s"}' % (b"x" * 100_000), (200, "")),
    ],
    ids=["good", "model", "tokens", "twice", "no JSON", "none", "100 kB"],
)
def test_a_body_is_passed_on_and_judged(asked: Gateway, body: bytes, expected: tuple[int, str]) -> None:
    """A request passes whose body asks for what its tier may have, and any other is refused with its code."""
    assert chat(asked, body) == expected


@pytest.mark.parametrize(("tenant", "status"), [("a", 200), ("b", 404)])
def test_a_context_chooses_the_route(asked: Gateway, tenant: str, status: int) -> None:
    """What Envoy's own route says of itself decides which of ours a request takes."""
    assert asked.get("/v1/tenant", token(), [("x-tenant", tenant)]).status == status
