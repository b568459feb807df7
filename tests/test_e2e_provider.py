"""A real OpenID provider, as the seed's Dex would be used: its document is discovered, its users' ID tokens pass."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from envoy_data_plane.envoy.service.auth.v3 import CheckResponse

import identity_provider
from genops_extauth._pb import ext_authz_pb2 as authz
from identity_provider import Provider
from sidecar import CHECK, Sidecar, serving, settings
from stores import eventually

COOLDOWN = 1.0  # seconds; the least that the configuration takes
APPLICATION, ELSEWHERE = identity_provider.CLIENTS


def believing(issuer: str) -> dict[str, Any]:
    """Nothing but the issuer's name is configured, and whom its tokens are for."""
    configured = settings(governance={"required": ["customer_id"], "defaults": {"customer_tier": "premium"}})
    configured["identity"]["jwt"] = [
        {
            "issuer": issuer,
            "audiences": [APPLICATION],
            "keys": {"discovery": "true", "jwks": {"cooldown": f"{COOLDOWN:g}s"}},
            "claims": {"customer_id": "sub", "customer_tier": None, "team": "name"},
        }
    ]
    return configured


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with identity_provider.identity_provider() as running:
        yield running


@pytest.fixture
def sidecar(provider: Provider) -> Iterator[Sidecar]:
    with serving(believing(provider.issuer)) as running:
        yield running


def check(sidecar: Sidecar, bearer: str) -> tuple[int, dict[str, str]]:
    """Ask with a token: the status that it means, and the headers for the upstream or the error's members."""
    message = authz.CheckRequest()
    message.attributes.request.http.MergeFrom(authz.AttributeContext.HttpRequest(method=b"GET", path=b"/v1"))
    message.attributes.request.http.headers["authorization"] = f"Bearer {bearer}".encode()
    with sidecar.calls(CHECK) as call:
        answer = CheckResponse.parse(call(message.SerializeToString()))
    if answer.ok_response is not None:
        return 200, {option.header.key: option.header.value for option in answer.ok_response.headers if option.header}
    assert answer.denied_response is not None
    assert answer.denied_response.status is not None
    return int(answer.denied_response.status.code), json.loads(answer.denied_response.body)


def test_a_user_of_a_real_provider_passes(provider: Provider, sidecar: Sidecar) -> None:
    """Who signed in at a provider passes as who it says, with no more configured than the issuer's name."""
    status, headers = check(sidecar, provider.sign_in(APPLICATION))
    assert status == 200, headers
    assert headers["x-genops-customer-id"] == identity_provider.USER
    assert headers["x-genops-team"] == identity_provider.USER


def test_a_token_for_somebody_else_is_refused(provider: Provider, sidecar: Sidecar) -> None:
    """The same user's token for another application of the same provider is refused, whoever replays it here."""
    status, _ = check(sidecar, provider.sign_in(ELSEWHERE))
    assert status == 401
    eventually(lambda: [line["reason"] for line in sidecar.said("check")] == ["token_audience_wrong"])


def test_a_rotation_of_the_provider(provider: Provider, sidecar: Sidecar) -> None:
    """A new key's first token passes at once, the old one's until its key is withdrawn, and then no more."""
    old = provider.sign_in(APPLICATION)
    assert check(sidecar, old)[0] == 200
    provider.rotate()
    assert check(sidecar, provider.sign_in(APPLICATION))[0] == 200
    assert check(sidecar, old)[0] == 200
    provider.rotate()
    newest = provider.sign_in(APPLICATION)
    # The cooldown after the fetch before may not be over yet.
    eventually(lambda: check(sidecar, newest)[0] == 200)
    assert check(sidecar, old)[0] == 401
