"""Through a real Envoy, under traffic: the issuer rotates its keys, hangs, and goes away."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from envoy_data_plane.envoy.service.auth.v3 import CheckResponse

import minting
from faulty_issuer import FaultyIssuer, faulty_issuer
from gateway import Gateway, envoy, upstream
from genops_extauth._pb import ext_authz_pb2 as authz
from minting import KeyPair
from sidecar import CHECK, TRANSPORTS, Sidecar, serving, settings, token
from stores import eventually
from traffic import traffic

COOLDOWN = 1.0  # seconds; the least that the configuration takes
OLD, NEW, NEWEST = (minting.ed_pair(f"key-{number}") for number in range(3))
PREMIUM = {"customer_tier": "premium", "customer_id": "acme"}


def trusting(issuer: FaultyIssuer, transport: str) -> dict[str, Any]:
    configured = settings(server={"transport": transport})
    configured["identity"]["jwt"][0]["keys"] = {"jwks_uri": issuer.url, "jwks": {"cooldown": f"{COOLDOWN:g}s"}}
    return configured


@pytest.fixture
async def issuer() -> AsyncIterator[FaultyIssuer]:
    async with faulty_issuer([OLD.jwk()]) as serves:
        yield serves


@pytest.fixture(params=TRANSPORTS)
async def sidecar(request: pytest.FixtureRequest, issuer: FaultyIssuer) -> AsyncIterator[Sidecar]:
    # In threads: the issuer must answer meanwhile.
    with contextlib.ExitStack() as stack:
        started = await asyncio.to_thread(stack.enter_context, serving(trusting(issuer, request.param)))
        yield started
        await asyncio.to_thread(stack.close)


@pytest.fixture
def gateway(sidecar: Sidecar) -> Iterator[Gateway]:
    with upstream() as service, envoy(service, sidecar.grpc) as started:
        yield started


class Rotating:
    """An issuer's client: asks with a fresh token each time, signed with the key of the moment."""

    def __init__(self, gateway: Gateway, key: KeyPair) -> None:
        self._gateway = gateway
        self.key = key

    def ask(self) -> int:
        return self._gateway.get("/good", token(self.key, **PREMIUM)).status


async def cooled_down(sidecar: Sidecar) -> None:
    """Wait until the sidecar may ask for an unknown key again."""
    series = f'genops_jwks_age_seconds{{issuer="{minting.ISSUER}"}}'
    await asyncio.to_thread(eventually, lambda: sidecar.metric(series) > COOLDOWN)


async def test_a_rotation_refuses_no_good_token(issuer: FaultyIssuer, sidecar: Sidecar, gateway: Gateway) -> None:
    """A key that is used the moment it is published is believed, at the price of one fetch; a withdrawn one is not."""
    client, known = Rotating(gateway, OLD), token(OLD, **PREMIUM)
    with traffic(new=client.ask, known=lambda: gateway.get("/good", known).status) as sent:
        await asyncio.to_thread(sent.wait, new=200, known=200)
        issuer.jwks = [OLD.jwk(), NEW.jwk()]
        client.key = NEW
        await asyncio.to_thread(sent.wait, new=200, known=200)
        assert len(issuer.requests) == 2
        await cooled_down(sidecar)
        assert set(sent.results("known")) == {200}
        issuer.jwks = [NEW.jwk(), NEWEST.jwk()]
        client.key = NEWEST
        await asyncio.to_thread(sent.wait, new=200, known=401)
    assert set(sent.results("new")) == {200}
    assert set(sent.results("known")) == {200, 401}
    # The withdrawn key is an unknown one now: the cooldown keeps its tokens from causing a fetch each.
    assert len(issuer.requests) == 3


async def test_an_absent_issuer_takes_nobodys_identity(
    issuer: FaultyIssuer, sidecar: Sidecar, gateway: Gateway
) -> None:
    """While the issuer is down its tokens go on being believed, new ones too, and others go on being refused."""
    client, bad = Rotating(gateway, OLD), minting.KeyPair(OLD.kid, OLD.algorithm, NEW.private)
    refused = Rotating(gateway, bad)
    with traffic(good=client.ask, bad=refused.ask) as sent:
        await asyncio.to_thread(sent.wait, good=200, bad=401)
        await issuer.down()
        # A key that nobody knows makes the sidecar notice.
        status = await asyncio.to_thread(gateway.get, "/", token(NEWEST, **PREMIUM))
        assert status.status == 503
        await asyncio.to_thread(eventually, lambda: sidecar.said("keys_not_fetched") != [])
        assert (await asyncio.to_thread(sidecar.get, "/readyz"))[0] == 200
        await asyncio.to_thread(sent.wait, good=200, bad=401)
    assert set(sent.results("good")) == {200}
    assert set(sent.results("bad")) == {401}


async def test_an_issuer_that_was_away_at_the_start_is_found(issuer: FaultyIssuer) -> None:
    """Without any keys it starts, is not ready, and answers 503; with the issuer it becomes ready by itself."""
    await issuer.down()
    with contextlib.ExitStack() as stack:
        sidecar = await asyncio.to_thread(stack.enter_context, serving(trusting(issuer, "auto")))
        assert await asyncio.to_thread(sidecar.health) == "NOT_SERVING"
        assert (await asyncio.to_thread(sidecar.get, "/readyz"))[0] == 503
        assert await ask(sidecar, OLD) == (503, "unavailable")
        await issuer.up()
        await asyncio.to_thread(eventually, lambda: sidecar.health() == "SERVING")
        assert await ask(sidecar, OLD) == (200, "")
        await asyncio.to_thread(stack.close)


async def ask(sidecar: Sidecar, key: KeyPair, *, deadline: float = 5) -> tuple[int, str]:
    """Call Check with a token of `key`: the HTTP status that it means, and the error code. It answers in time."""
    message = authz.CheckRequest()
    message.attributes.request.http.MergeFrom(authz.AttributeContext.HttpRequest(method=b"GET", path=b"/v1"))
    message.attributes.request.http.headers["authorization"] = f"Bearer {token(key, **PREMIUM)}".encode()
    async with grpc.aio.insecure_channel(sidecar.grpc) as channel:
        await channel.channel_ready()
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CHECK)
        body = await check(message.SerializeToString(), timeout=deadline)
    answer = CheckResponse.parse(body)
    if answer.denied_response is None or answer.denied_response.status is None:
        assert answer.ok_response is not None
        return 200, ""
    return int(answer.denied_response.status.code), json.loads(answer.denied_response.body)["error"]


@pytest.mark.parametrize("deadline", [0.5, 5.0])
async def test_a_silent_issuer_makes_nobody_late(issuer: FaultyIssuer, sidecar: Sidecar, deadline: float) -> None:
    """While the issuer hangs, a token of an unknown key is answered before any caller hangs up; a known one passes."""
    assert await ask(sidecar, OLD) == (200, "")
    issuer.gate.clear()
    try:
        started = time.monotonic()
        assert await ask(sidecar, NEW, deadline=deadline) == (503, "unavailable")
        # Envoy's default is 0.2 s, which the sidecar keeps; the rest is for a busy machine.
        assert time.monotonic() - started < 0.5
        assert await ask(sidecar, OLD, deadline=0.5) == (200, "")
    finally:
        issuer.gate.set()


async def test_a_call_under_way_is_answered_before_the_end(issuer: FaultyIssuer, sidecar: Sidecar) -> None:
    """A call that waits for keys when the sidecar is told to stop has its answer before it is gone."""
    issuer.gate.clear()
    try:
        waiting = asyncio.create_task(ask(sidecar, NEW))
        await issuer.asked(2)
        await asyncio.to_thread(sidecar.stop)
        assert await waiting == (503, "unavailable")
    finally:
        issuer.gate.set()
