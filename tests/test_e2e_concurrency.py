"""Several sidecars, many clients, one bucket: what is granted is bounded by the bucket, and nothing of it is lost."""

import asyncio
import contextlib
import itertools
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from genops_extauth._pb import rls_pb2 as rls
from sidecar import LIMIT, Sidecar, serving, settings
from stores import VALKEY, Server, eventually, running

PROCESSES, CLIENTS, REQUESTS = 3, 60, 50
"""Each client sends as many requests one after another, spread over all processes: 3,000 in all."""

OK = rls.RateLimitResponse.OK
BURST, PER_SECOND, LEASE = 300, 100, 40

TIERS: dict[str, dict[str, Any]] = {
    "quick": {"limit": f"{PER_SECOND}/second", "burst": BURST},
    "slow": {"limit": "10/day", "burst": BURST},
}


def configuration(store: Server, lease: int) -> dict[str, Any]:
    tiers = {"free": {"limit": "1/day"}, **{name: {**tier, "lease": lease} for name, tier in TIERS.items()}}
    return settings(server={"transport": "native"}, log={"level": "info"}, store={"url": store.url}, tiers=tiers)


@pytest.fixture(scope="module", params=[0, LEASE], ids=["asked", "leased"])
def sidecars(request: pytest.FixtureRequest) -> Iterator[list[Sidecar]]:
    """As many sidecars of one store; in the second case they take tokens ahead."""
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(running(VALKEY))
        configured = configuration(store, lease=request.param)
        yield [stack.enter_context(serving(configured)) for _ in range(PROCESSES)]


@dataclass
class Spent:
    """What was granted, in tokens, and in how many seconds; how many requests were refused."""

    granted: int = 0
    refused: int = 0
    seconds: float = 0.0


def question(tier: str, customer: str, cost: int) -> bytes:
    pairs = {b"customer_tier": tier.encode(), b"customer_id": customer.encode()}
    entries = [rls.RateLimitDescriptor.Entry(key=key, value=value) for key, value in pairs.items()]
    descriptor = rls.RateLimitDescriptor(entries=entries)
    descriptor.hits_addend.value = cost
    return bytes(rls.RateLimitRequest(domain=b"genops", descriptors=[descriptor]).SerializeToString())


Ask = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


@contextlib.asynccontextmanager
async def asking(sidecars: list[Sidecar]) -> AsyncIterator[list[Ask]]:
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(each.grpc)) for each in sidecars]
        yield [channel.unary_unary(LIMIT) for channel in channels]


async def spend(sidecars: list[Sidecar], tier: str, customer: str) -> Spent:
    """Let all clients ask for one to three tokens at a time, as fast as they can."""
    spent = Spent()

    async def client(number: int, asks: list[Ask]) -> None:
        costs = random.Random(number)
        for ask in itertools.islice(itertools.cycle(asks), number, number + REQUESTS):
            cost = costs.randint(1, 3)
            answer = rls.RateLimitResponse.FromString(await ask(question(tier, customer, cost), timeout=30))
            if answer.overall_code == OK:
                spent.granted += cost
            else:
                spent.refused += 1

    async with asking(sidecars) as asks:
        began = time.monotonic()
        await asyncio.gather(*(client(number, asks) for number in range(CLIENTS)))
        spent.seconds = time.monotonic() - began
    return spent


def left(sidecar: Sidecar, tier: str, customer: str) -> int:
    """What the store says is left, once nobody holds anything of it."""
    with sidecar.calls(LIMIT) as call:
        answer = rls.RateLimitResponse.FromString(call(question(tier, customer, 0)))
    return int(answer.statuses[0].limit_remaining)


async def test_a_bucket_grants_no_more_than_it_holds(sidecars: list[Sidecar]) -> None:
    """Over any time several processes grant together at most the burst and what comes back in that time.

    They grant no less than the burst, but for what each may hold ahead.
    """
    spent = await spend(sidecars, "quick", uuid.uuid4().hex)
    assert BURST - PROCESSES * LEASE <= spent.granted <= BURST + PER_SECOND * spent.seconds
    assert spent.refused > 0


async def test_every_token_is_granted_or_left(sidecars: list[Sidecar]) -> None:
    """Where nothing comes back, what was granted and what is left make up the burst, once leases are given back."""
    customer = uuid.uuid4().hex
    spent = await spend(sidecars, "slow", customer)
    assert 0 < spent.granted <= BURST
    await asyncio.to_thread(eventually, lambda: all(not each.metric("genops_store_leased_tokens") for each in sidecars))
    assert spent.granted + await asyncio.to_thread(left, sidecars[0], "slow", customer) == BURST
    assert spent.refused > 0


def test_a_lease_is_given_back_at_the_end() -> None:
    """What a process holds ahead is in the store again when it has stopped."""
    customer = uuid.uuid4().hex
    with running(VALKEY) as store:
        configured = configuration(store, lease=LEASE)
        with serving(configured) as first, first.calls(LIMIT) as call:
            granted = 0
            while not first.metric("genops_store_leased_tokens"):
                assert rls.RateLimitResponse.FromString(call(question("slow", customer, 1))).overall_code == OK
                granted += 1
        with serving(configured) as second:
            assert left(second, "slow", customer) == BURST - granted
