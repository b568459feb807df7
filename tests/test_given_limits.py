"""Limits of a management server, put in force beside a configuration that may change."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ads_server import AdsServer, Stream, ads_server, limits
from genops_extauth.config import load
from genops_extauth.gate import Clocks, Gate
from genops_extauth.generations import Generations
from genops_extauth.given_limits import GivenLimits
from genops_extauth.reload import Reloader
from memory_store import Clock, MemoryStore
from observed import Sidecar

OTHER = [{"key": "other", "rate_limit": {"unit": "DAY", "requests_per_unit": 1}}]
TWICE = (limits("a", 5), limits("a", 6, name="b", descriptors=OTHER))
"""Two resources of one domain."""


@dataclass
class Running:
    """A sidecar's limits, given on `stream`; `configure` changes its file, and reloads."""

    path: Path
    stream: Stream
    gate: Gate
    given: GivenLimits
    reloader: Reloader
    telemetry: Sidecar
    version: int = 0

    async def give(self, *resources: bytes) -> list[str]:
        """Send resources. Returns what the sidecar finds wrong with them."""
        self.version += 1
        await self.stream.send(str(self.version), *resources)
        detail = (await self.stream.request()).error_detail
        return [] if detail is None else detail.message.splitlines()

    async def configure(self, text: str) -> bool:
        """Change the configuration. Returns whether it was taken over."""
        self.path.write_text(text)
        await self.reloader.reload()
        return self.telemetry.value("genops_config_last_reload_successful") == 1

    async def said(self, event: str) -> list[dict[str, Any]]:
        """All lines of an event; the log is closed by it."""
        return [line for line in await asyncio.to_thread(self.telemetry.lines) if line["event"] == event]

    @property
    def limits(self) -> list[str]:
        """The limits in force."""
        return [line.partition(":")[0] for line in self.gate.generation.tree.lines()]


def written(server: str, **settings: str) -> str:
    lines = [f"  {name}: {value}" for name, value in settings.items()]
    return "\n".join(
        ["server: {services: [rate_limits]}", "rate_limits:", f"  xds: {{server: '{server}', backoff: 10ms}}", *lines]
    )


@pytest.fixture
async def server() -> AsyncIterator[AdsServer]:
    async with ads_server() as server:
        yield server


@pytest.fixture
async def sidecar(server: AdsServer, tmp_path: Path) -> AsyncIterator[Running]:
    path = tmp_path / "genops.yaml"
    path.write_text(written(server.address))
    read = partial(load, path, {})
    observed = Sidecar(tmp_path / "log", "info")
    telemetry = observed.telemetry
    async with Generations(lambda _issuer, _fetched: None) as generations:
        config, clock = await asyncio.to_thread(read), Clock()
        generation, clocks = await generations.build(config), Clocks(clock, clock)
        gate = Gate(generation, MemoryStore(clock), clocks, telemetry, new_id=str)
        reloader = Reloader(config, read=read, path=path, gate=gate, generations=generations, telemetry=telemetry)
        xds = config.rate_limits.xds
        assert xds is not None
        given = GivenLimits(xds, tmp_path, reloader=reloader, gate=gate, generations=generations, telemetry=telemetry)
        running = asyncio.ensure_future(given.run())
        stream = await server.stream()
        await stream.request()
        yield Running(path, stream, gate, given, reloader, observed)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_what_is_given_is_in_force(sidecar: Running) -> None:
    """Limits are in force before they are acknowledged, in place of all that were given before."""
    assert (sidecar.given.ready, sidecar.limits) == (False, [])
    assert await sidecar.give(limits("a", 5), limits("b", 6)) == []
    await sidecar.given.first()
    assert (sidecar.given.ready, sidecar.limits) == (True, ["a.k", "b.k"])
    assert await sidecar.give(limits("c", 7)) == []
    assert sidecar.limits == ["c.k"]


async def test_everything_that_is_wrong_is_told(sidecar: Running) -> None:
    """What is wrong with resources is told of all of them, and changes nothing."""
    await sidecar.give(limits("a", 5))
    wrong = (limits("a", 5), b"\xff", limits("a", 6), limits("b", 7, descriptors=[{"value": "v"}]))
    assert await sidecar.give(*wrong) == [
        "resource 1: is no RateLimitConfig, has text that is not UTF-8, or nests too deep",
        "descriptors[0].key: b: descriptor has empty key; write key: NAME, as the gateway names the entry",
        "domain: a: duplicate domain 'a' in config file; it is in a too: rename one, or allow merge_domains",
    ]
    assert sidecar.limits == ["a.k"]


async def test_what_becomes_of_limits_is_told(sidecar: Running, server: AdsServer) -> None:
    """Limits that come, that are refused, and a server that is away are counted and logged."""
    first = asyncio.ensure_future(sidecar.given.first())
    await asyncio.sleep(0)
    assert not first.done()
    await sidecar.give(limits("a", 5))
    await first
    assert ("a", "k") in {series for series, _ in sidecar.telemetry.metrics.limits.limits()}
    await sidecar.give(limits("a", 5), limits("a", 5))
    assert sidecar.telemetry.metrics.limits.loads == {"config_load_success": 1, "config_load_error": 1}
    ended = server.opened
    sidecar.stream.end()
    while server.opened == ended:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)
    lines = await asyncio.to_thread(sidecar.telemetry.lines)
    assert [line["event"] for line in lines] == ["limits_received", "limits_refused", "limits_not_watched"]


async def test_what_no_tree_can_hold_is_told(sidecar: Running) -> None:
    """Resources that are right by themselves, and of which no tree can be made, are refused too."""
    twice = [{"key": "k", "rate_limit": {"unit": "DAY", "requests_per_unit": 1}}] * 2
    (problem,) = await sidecar.give(limits("a", 5, descriptors=twice))
    assert "duplicate descriptor composite key 'a.k'" in problem
    assert not sidecar.given.ready


async def test_a_reload_keeps_what_was_given(sidecar: Running, server: AdsServer) -> None:
    """A changed configuration is in force together with the limits that were given before."""
    await sidecar.give(limits("a", 5))
    assert not sidecar.gate.generation.modes.shadow
    assert await sidecar.configure(written(server.address, shadow_mode="true"))
    assert sidecar.gate.generation.modes.shadow
    assert sidecar.limits == ["a.k"]


async def test_domains_are_merged_from_the_next_answer_on(sidecar: Running, server: AdsServer) -> None:
    """Whether several resources may speak of one domain says the configuration that is in force when they come."""
    assert "allow merge_domains" in (await sidecar.give(*TWICE))[0]
    assert await sidecar.configure(written(server.address, merge_domains="true"))
    assert await sidecar.give(*TWICE) == []
    assert sidecar.limits == ["a.k", "a.other"]
    assert await sidecar.configure(written(server.address, merge_domains="false"))
    assert sidecar.limits == ["a.k", "a.other"]
    assert "allow merge_domains" in (await sidecar.give(*TWICE))[0]


async def test_what_does_not_go_with_what_was_given_is_refused(sidecar: Running, server: AdsServer) -> None:
    """A configuration whose tiers speak of what is given is refused, says why, and is taken over once it fits."""
    await sidecar.give(limits("genops", 5, descriptors=[{"key": "customer_tier", "rate_limit": {"unit": "DAY"}}]))
    tiers = "\ntiers: {free: {limit: 1/hour}}"
    assert not await sidecar.configure(written(server.address) + tiers)
    assert sidecar.limits == ["genops.customer_tier"]
    assert await sidecar.configure(written(server.address, domain="other") + tiers)
    assert sidecar.limits[0] == "other.customer_tier_free.customer_id"
    (refused,) = await sidecar.said("config_refused")
    assert "the descriptor 'customer_tier' speaks of customer_tier, which `tiers` limits" in refused["detail"]


async def test_another_source_waits_for_a_restart(sidecar: Running, server: AdsServer) -> None:
    """With another source of limits, all of rate_limits waits for a restart; the rest is taken over at once."""
    await sidecar.give(limits("a", 5))
    files = "server: {services: [rate_limits]}\nrate_limits: {shadow_mode: true}\nstore: {key_prefix: p}"
    assert await sidecar.configure(files)
    assert sidecar.limits == ["a.k"]
    assert not sidecar.gate.generation.modes.shadow
    assert sidecar.gate.generation.tree.prefix == "p"
    assert await sidecar.configure(written(server.address, shadow_mode="true"))
    assert sidecar.gate.generation.modes.shadow
    (needed,) = await sidecar.said("restart_needed")
    assert needed["settings"] == "rate_limits.xds"
