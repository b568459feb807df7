"""The HTTP port for operators: liveness, readiness, metrics. Everything else is a 404.

It tells no version of what serves it, and of customers only what the metrics of a limit were asked to name. Where it
stands in for envoyproxy/ratelimit it has that one's two routes as well.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from aiohttp import web
from aiohttp.hdrs import ACCEPT, CACHE_CONTROL, CONTENT_TYPE, SERVER
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

_LARGEST_BODY = 1024
"""Bytes, where no route reads a body."""

# A rate limit request has hundreds of bytes. Reading the worst 16 KiB of JSON (5,000 empty objects) takes 30 ms, in
# which nothing is decided.
_LARGEST_LIMIT = 16_384

_END = b"# EOF\n"
"""The last line of OpenMetrics."""

Limit = Callable[[bytes], Awaitable[tuple[HTTPStatus, bytes]]]
"""A rate limit request's body -> status and body of the answer: JSON, or where there is none, text."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether gateways should send requests here; and each component's state in a word, for whoever asks why not."""

    ready: bool
    components: Mapping[str, str]


def app(
    ready: Callable[[], Readiness],
    registry: CollectorRegistry,
    *,
    series: Callable[[bool], Iterable[str]] | None = None,
    limit: Limit | None = None,
    healthy: Callable[[], bool] | None = None,
) -> web.Application:
    """Build the application; `ready` is asked at every ``/readyz``, and must not wait.

    `series` yields more metrics, in small pieces, as OpenMetrics or not. With `limit` there is ``/json``, with
    `healthy` ``/healthcheck``.
    """
    application = web.Application(client_max_size=_LARGEST_LIMIT if limit else _LARGEST_BODY)
    application.on_response_prepare.append(_finish)
    routes = [
        web.get("/healthz", _alive),
        web.get("/readyz", partial(_ready, ready)),
        web.get("/metrics", partial(_metrics, registry, series or _no_series)),
    ]
    if limit is not None:
        routes.append(web.route("*", "/json", partial(_limit, limit)))
    if healthy is not None:
        routes.append(web.get("/healthcheck", partial(_healthy, healthy)))
    application.add_routes([*routes, web.route("*", "/{rest:.*}", _unknown)])
    return application


async def _alive(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _ready(ready: Callable[[], Readiness], _: web.Request) -> web.Response:
    now = ready()
    status = HTTPStatus.OK if now.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return web.json_response({"ready": now.ready, "components": dict(now.components)}, status=status)


async def _metrics(
    registry: CollectorRegistry, series: Callable[[bool], Iterable[str]], request: web.Request
) -> web.Response:
    # In this thread on purpose: the counters have no locks. 170 series take about 2 ms.
    encode, content_type = choose_encoder(",".join(request.headers.getall(ACCEPT, ())))
    openmetrics = content_type.startswith("application/openmetrics-text")
    pieces = [encode(registry).removesuffix(_END)]
    for piece in series(openmetrics):
        pieces.append(piece.encode())
        await asyncio.sleep(0)  # Decisions go first.
    pieces.append(_END if openmetrics else b"")
    return web.Response(body=b"".join(pieces), headers={CONTENT_TYPE: content_type})


def _no_series(_: bool) -> Iterable[str]:  # noqa: FBT001 - as app's `series`
    return ()


async def _limit(limit: Limit, request: web.Request) -> web.Response:
    status, body = await limit(await request.read())
    answered = status in (HTTPStatus.OK, HTTPStatus.TOO_MANY_REQUESTS)
    content_type = "application/json" if answered else "text/plain; charset=utf-8"
    return web.Response(status=status, body=body, headers={CONTENT_TYPE: content_type})


async def _healthy(healthy: Callable[[], bool], _: web.Request) -> web.Response:
    return web.Response(text="OK") if healthy() else web.Response(status=HTTPStatus.INTERNAL_SERVER_ERROR)


async def _unknown(_: web.Request) -> web.Response:
    return web.json_response({"error": "not_found"}, status=HTTPStatus.NOT_FOUND)


async def _finish(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[CACHE_CONTROL] = "no-store"
    response.headers.popall(SERVER, None)  # aiohttp names itself and Python with their versions
