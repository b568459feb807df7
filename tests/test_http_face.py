import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from counted import Service, limit
from genops_extauth.http_face import Limit, Readiness, app
from genops_extauth.limit_exposition import exposition
from genops_extauth.metrics import Metrics
from http_pages import asking

READY = Readiness(ready=True, components={"keys": "ready", "store": "ready"})
NOT_READY = Readiness(ready=False, components={"keys": "never fetched", "store": "ready"})


def serving(
    ready: Callable[[], Readiness] = lambda: READY,
    registry: CollectorRegistry | None = None,
    *,
    series: Callable[[bool], Iterator[str]] | None = None,
    limit: Limit | None = None,
    healthy: Callable[[], bool] | None = None,
) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    return asking(app(ready, registry or CollectorRegistry(), series=series, limit=limit, healthy=healthy))


async def test_alive() -> None:
    """While the process lives, /healthz answers 200, ready or not."""
    async with serving(lambda: NOT_READY) as client, client.get("/healthz") as response:
        assert response.status == 200
        assert await response.text() == "ok\n"


async def test_readiness_follows() -> None:
    """Each /readyz asks anew, and tells every component's state."""
    answers = iter([NOT_READY, READY])
    async with serving(lambda: next(answers)) as client:
        async with client.get("/readyz") as response:
            assert response.status == 503
            assert await response.json() == {
                "ready": False,
                "components": {"keys": "never fetched", "store": "ready"},
            }
        async with client.get("/readyz") as response:
            assert response.status == 200
            assert (await response.json())["ready"] is True


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_head(path: str) -> None:
    """HEAD answers as GET does, without a body."""
    async with serving() as client, client.head(path) as response:
        assert response.status == 200
        assert await response.read() == b""


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/healthz/"),
        ("GET", "/debug/pprof"),
        ("POST", "/healthz"),
        ("DELETE", "/metrics"),
        ("POST", "/json"),
        ("GET", "/healthcheck"),
    ],
)
async def test_unknown(method: str, path: str) -> None:
    """Any other path or method is a 404 in JSON."""
    async with serving() as client, client.request(method, path) as response:
        assert response.status == 404
        assert response.content_type == "application/json"
        assert await response.json() == {"error": "not_found"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nothing"])
async def test_headers(path: str) -> None:
    """No answer may be cached, and none names the server's software."""
    async with serving() as client, client.get(path) as response:
        assert response.headers["Cache-Control"] == "no-store"
        assert "Server" not in response.headers


def samples(text: str, parse: Callable[[str], Iterator[object]]) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in parse(text)
        for sample in family.samples  # type: ignore[attr-defined]  # both parsers yield Metric
        if sample.name in ("genops_check_total", "genops_check_seconds_count")
        and sample.labels.get("verdict") in (None, "allowed")
    }


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        ("text/html", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        (
            "application/openmetrics-text; version=1.0.0, text/plain; q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
            parse_openmetrics,
        ),
    ],
)
async def test_metrics(accept: str, content_type: str, parse: Callable[[str], Iterator[object]]) -> None:
    """Metrics come in the format that the scraper accepts, and an independent parser reads them."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.allowed(0.001)
    async with serving(registry=registry) as client, client.get("/metrics", headers={"Accept": accept}) as response:
        assert response.headers["Content-Type"] == content_type
        assert samples(await response.text(), parse) == {
            "genops_check_total": 1.0,
            "genops_check_seconds_count": 1.0,
        }


async def test_large_body() -> None:
    """A body that nobody asked for changes nothing and is not kept."""
    async with serving() as client:
        async with client.post("/healthz", data=b"x" * 100_000) as response:
            assert response.status == 404
        async with client.get("/healthz") as response:
            assert response.status == 200


async def test_garbage() -> None:
    """What is not HTTP is a 400, and the port goes on answering."""
    async with serving() as client:
        base = client._base_url
        assert base is not None
        reader, writer = await asyncio.open_connection(base.host, base.port)
        writer.write(b"\x16\x03\x01\x00\x00garbage\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
        async with client.get("/readyz") as response:
            assert json.loads(await response.text())["ready"] is True


@pytest.mark.parametrize(
    ("accept", "parse"),
    [("text/plain", parse_text), ("application/openmetrics-text; version=1.0.0", parse_openmetrics)],
)
async def test_series(accept: str, parse: Callable[[str], Iterator[object]]) -> None:
    """What is counted of limits stands in the same scrape, in the same format."""
    registry = CollectorRegistry()
    Metrics(registry).allowed(0.001)
    service = Service()
    service.ask((("d", "k"), limit(5), 1))

    def series(openmetrics: bool) -> Iterator[str]:  # noqa: FBT001 - as app's `series`
        return exposition(service.counters, openmetrics=openmetrics)

    async with (
        serving(registry=registry, series=series) as client,
        client.get("/metrics", headers={"Accept": accept}) as response,
    ):
        names = {family.name for family in parse(await response.text())}  # type: ignore[attr-defined]  # yields Metric
    assert {"genops_check", "ratelimit_service_rate_limit_total_hits"} <= names


async def test_decisions_first() -> None:
    """Between two pieces of a scrape, whatever else waits goes first."""
    turns: list[str] = []

    def series(_openmetrics: bool) -> Iterator[str]:  # noqa: FBT001 - as app's `series`
        for _ in range(3):
            turns.append("piece")
            asyncio.get_running_loop().call_soon(turns.append, "decision")
            yield ""

    async with serving(series=series) as client, client.get("/metrics") as response:
        assert response.status == 200
    assert turns == ["piece", "decision"] * 3


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
@pytest.mark.parametrize(
    ("status", "content_type"),
    [(200, "application/json"), (429, "application/json"), (400, "text/plain; charset=utf-8")],
)
async def test_json(method: str, status: int, content_type: str) -> None:
    """/json answers any method: in JSON where there is an answer, else in plain text."""

    async def echo(body: bytes) -> tuple[HTTPStatus, bytes]:
        return HTTPStatus(status), b"<" + body + b">"

    async with serving(limit=echo) as client, client.request(method, "/json", data=b"asked") as response:
        assert (response.status, response.headers["Content-Type"]) == (status, content_type)
        assert await response.read() == b"<asked>"


async def test_json_too_large() -> None:
    """A body that no rate limit request has is refused unread."""
    asked = []

    async def note(body: bytes) -> tuple[HTTPStatus, bytes]:
        asked.append(body)
        return HTTPStatus.OK, b""

    async with serving(limit=note) as client:
        async with client.post("/json", data=b" " * 16_385) as response:
            assert response.status == 413
        assert not asked
        async with client.post("/json", data=b" " * 16_384) as response:
            assert response.status == 200


async def test_healthcheck() -> None:
    """/healthcheck says OK, or is an error without a body, as load balancers of envoyproxy/ratelimit expect."""
    states = iter([True, False])
    async with serving(healthy=lambda: next(states)) as client:
        async with client.get("/healthcheck") as response:
            assert (response.status, await response.text()) == (200, "OK")
        async with client.get("/healthcheck") as response:
            assert (response.status, await response.read()) == (500, b"")
