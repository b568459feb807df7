import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager

import aiohttp
import pytest
from aiohttp import web

from counted import Service, limit
from genops_extauth.debug_face import app
from genops_extauth.limit_exposition import dotted
from http_pages import asking

RULES = ("d.key1: unit=SECOND requests_per_unit=50, shadow_mode: false, quota_mode: false", "d.free: é")


def serving(
    rules: Iterable[str] = RULES, stats: Mapping[str, int] | None = None
) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    return asking(app(lambda: rules, lambda: stats or {}))


async def test_rules() -> None:
    """/rlconfig has a line for each limit in force."""
    async with serving() as client, client.get("/rlconfig") as response:
        assert response.status == 200
        assert (await response.text()).splitlines() == list(RULES)


async def test_stats() -> None:
    """/stats has a line for each count."""
    service = Service()
    service.ask((("d", "k_v"), limit(5), 3))
    async with serving(stats=dotted(service.counters)) as client, client.get("/stats") as response:
        lines = (await response.text()).splitlines()
    assert lines == sorted(lines)
    assert "ratelimit.service.rate_limit.d.k_v.total_hits: 3" in lines
    assert "ratelimit.service.config_load_success: 0" in lines
    assert "ratelimit.service.call.should_rate_limit.service_error: 0" in lines


async def test_index() -> None:
    """The index names what there is, and what there is not."""
    async with serving() as client, client.get("/") as response:
        text = await response.text()
    assert "/rlconfig" in text
    assert "/stats" in text
    assert "no profiles" in text


@pytest.mark.parametrize("path", ["/", "/rlconfig", "/stats", "/debug/pprof/"])
async def test_headers(path: str) -> None:
    """All is plain text that no browser takes for anything else; nothing is cached, no software named."""
    async with serving() as client, client.get(path) as response:
        assert response.status == (404 if "pprof" in path else 200)
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert "Server" not in response.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_read_only(method: str) -> None:
    """Nothing can be changed here."""
    async with serving() as client, client.request(method, "/rlconfig") as response:
        assert response.status == 405


async def test_escaped() -> None:
    """No line of the configuration reaches a terminal as more than one line of text, and no credential is shown."""
    hostile = ["d.key_\x1b[31m\nd.other: unit=HOUR", "d.auth_eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl: unit=HOUR"]
    async with serving(hostile) as client, client.get("/rlconfig") as response:
        assert (await response.text()).splitlines() == [
            r"d.key_\x1b[31m\nd.other: unit=HOUR",
            "d.auth_[redacted]: unit=HOUR",
        ]


async def test_beside_the_loop() -> None:
    """However long the lists are, they are made beside the thread that decides."""
    threads: list[threading.Thread] = []

    def noted() -> dict[str, int]:
        threads.append(threading.current_thread())
        return {}

    runner = web.AppRunner(app(noted, noted), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as client:
        for path in ("/rlconfig", "/stats"):
            async with client.get(path) as response:
                assert response.status == 200
    await runner.cleanup()
    assert len(threads) == 2
    assert threading.current_thread() not in threads
