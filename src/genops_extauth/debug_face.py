"""The debug port, which listens only where it is asked to: the limits in force, and what was counted, as text.

The paths and their lines are envoyproxy/ratelimit's. They may name customers, and nobody has to say who he is.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from aiohttp import web
from aiohttp.hdrs import CACHE_CONTROL, SERVER

from genops_extauth.logs import redact

_INDEX = """\
/rlconfig: the limits in force
/stats: what was counted, under the names that statsd knows
There are no profiles (pprof) here. Prometheus asks at the HTTP port: /metrics.
"""


def app(rules: Callable[[], Iterable[str]], stats: Callable[[], Mapping[str, int]]) -> web.Application:
    """Build the application. Both are called in a thread of their own: `rules` gives a line for each limit."""
    application = web.Application()
    application.on_response_prepare.append(_finish)
    application.add_routes(
        [
            web.get("/", partial(_text, lambda: _INDEX)),
            web.get("/rlconfig", partial(_text, lambda: "".join(f"{_plain(line)}\n" for line in rules()))),
            web.get("/stats", partial(_text, lambda: "".join(f"{name}: {count}\n" for name, count in stats().items()))),
        ]
    )
    return application


async def _text(write: Callable[[], str], _: web.Request) -> web.Response:
    # Ten thousand series would hold decisions up for a fifth of a second.
    return web.Response(text=await asyncio.to_thread(write))


def _plain(line: str) -> str:
    """`line` safe for a terminal (CWE-150): without what looks like a credential, and on one line."""
    line = redact(line)
    return line if line.isprintable() else line.encode("unicode_escape").decode("ascii")


async def _finish(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[CACHE_CONTROL] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"  # Values are a client's: no browser may find HTML in them.
    response.headers.popall(SERVER, None)
