"""The HTTP port for operators: liveness, readiness, metrics. Everything else is a 404.

It tells nothing of requests or customers, and no version of what serves it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from aiohttp import web
from aiohttp.hdrs import ACCEPT, CACHE_CONTROL, CONTENT_TYPE, SERVER
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

_LARGEST_BODY = 1024
"""Bytes. No route reads a body."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether gateways should send requests here; and each component's state in a word, for whoever asks why not."""

    ready: bool
    components: Mapping[str, str]


def app(ready: Callable[[], Readiness], registry: CollectorRegistry) -> web.Application:
    """Build the application; `ready` is asked at every ``/readyz``, and must not wait."""
    application = web.Application(client_max_size=_LARGEST_BODY)
    application.on_response_prepare.append(_finish)
    application.add_routes(
        [
            web.get("/healthz", _alive),
            web.get("/readyz", partial(_ready, ready)),
            web.get("/metrics", partial(_metrics, registry)),
            web.route("*", "/{rest:.*}", _unknown),
        ]
    )
    return application


async def _alive(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _ready(ready: Callable[[], Readiness], _: web.Request) -> web.Response:
    now = ready()
    status = HTTPStatus.OK if now.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return web.json_response({"ready": now.ready, "components": dict(now.components)}, status=status)


async def _metrics(registry: CollectorRegistry, request: web.Request) -> web.Response:
    # In this thread on purpose: the counters have no locks. 170 series take about 2 ms.
    encode, content_type = choose_encoder(",".join(request.headers.getall(ACCEPT, ())))
    return web.Response(body=encode(registry), headers={CONTENT_TYPE: content_type})


async def _unknown(_: web.Request) -> web.Response:
    return web.json_response({"error": "not_found"}, status=HTTPStatus.NOT_FOUND)


async def _finish(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[CACHE_CONTROL] = "no-store"
    response.headers.popall(SERVER, None)  # aiohttp names itself and Python with their versions
