"""The composition root: build the graph, start in order, stop in reverse.

Order of start: log, store, keys, gate, ports. Order of stop: health says NOT_SERVING, calls finish, ports close, then
what they used. A store that cannot be reached keeps nothing from starting: identity works without it, and limits hold
within their allowances.
"""

import asyncio
import gc
import signal
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from genops_extauth import __version__, debug_face, http_face, logs
from genops_extauth.certificates import CredentialsError
from genops_extauth.config import Lay, load
from genops_extauth.credential_store import CredentialStore
from genops_extauth.environment import overlay
from genops_extauth.gate import Clocks, Gate
from genops_extauth.generations import Generations
from genops_extauth.given_limits import GivenLimits
from genops_extauth.grpc_face import AUTHORIZATION, RATE_LIMIT, Face
from genops_extauth.health import Health
from genops_extauth.jwks import Fetched
from genops_extauth.limit_exposition import dotted, exposition
from genops_extauth.limit_json import answer_json
from genops_extauth.log_sink import LogSink
from genops_extauth.metrics import KeysNow, Metrics
from genops_extauth.reload import Reloader
from genops_extauth.sections import Server
from genops_extauth.server import GrpcServer, Handlers, HttpServer, ListenError, choose_transport, drain
from genops_extauth.server_tls import ServerTls
from genops_extauth.settings import Config
from genops_extauth.storage import Storage, open_storage
from genops_extauth.store_client import open_client
from genops_extauth.summary import exposure
from genops_extauth.telemetry import Telemetry

_CREDENTIALS_WITHIN = 1.0
"""Seconds for an operation on credentials; whoever waits for one has a deadline of its own."""

_SERVICES = {"identity": AUTHORIZATION, "rate_limits": RATE_LIMIT}
_REFERENCE = "ratelimit"
"""The name by which envoyproxy/ratelimit tells its health."""


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """What runs, once built."""

    log: FilteringBoundLogger
    storage: Storage
    credentials: CredentialStore | None
    failed: Callable[[Exception], None]
    gate: Gate
    grpc: GrpcServer
    faces: Mapping[str, HttpServer]
    health: Health
    reloader: Reloader
    given: GivenLimits | None


async def serve(config: Config, path: Path | None, environ: Mapping[str, str], lay: Lay = overlay) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the drain delay. `lay` reads the environment, on reload too.

    Raises `server.ListenError` and `embedded.EmbeddedValkeyError` where it cannot start.
    """
    stop, hurry = _signals()
    async with AsyncExitStack() as stack:
        sidecar = await _build(config, partial(load, path, environ, lay), path, stack)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, sidecar.reloader.ask)
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = [tasks.create_task(each) for each in _background(sidecar)]
                if await _has_limits(sidecar, config, stop):
                    await _serve(sidecar, config, stop, hurry)
                for task in watching:
                    task.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # one thing went wrong: a port, or a defect
        sidecar.log.info("stopped")


async def _serve(sidecar: _Sidecar, config: Config, stop: asyncio.Event, hurry: asyncio.Event) -> None:
    async with AsyncExitStack() as stack:
        await sidecar.health.look()
        where = {}
        for name, face in sidecar.faces.items():
            stack.push_async_callback(face.stop)
            where[name] = await face.start()
        stack.push_async_callback(sidecar.grpc.stop, 0)
        where = {"grpc": await sidecar.grpc.start(), **where}
        _spare_the_collector()
        where |= {"transport": sidecar.grpc.transport, "store": sidecar.storage.address}
        sidecar.log.info("listening", **where, version=__version__)
        await stop.wait()
        sidecar.log.info("draining", seconds=config.server.drain_delay)
        sidecar.health.stopping()
        await drain(sidecar.grpc, hurry, config.server.drain_delay, config.server.shutdown_grace)
        await sidecar.gate.settled()


def _background(sidecar: _Sidecar) -> Iterator[Coroutine[None, None, None]]:
    yield sidecar.health.watch()
    yield sidecar.reloader.watch()
    yield sidecar.storage.tend()
    if sidecar.credentials is not None:
        yield sidecar.credentials.run(sidecar.failed)
    if sidecar.given is not None:
        yield sidecar.given.run()


async def _has_limits(sidecar: _Sidecar, config: Config, stop: asyncio.Event) -> bool:
    """Wait for the limits of a management server, where there is one; False where it is to stop before they came."""
    xds = config.rate_limits.xds
    if sidecar.given is None or xds is None or xds.start_without:
        return True
    sidecar.log.info("waiting_for_limits", server=str(xds.server))
    given, stopped = asyncio.create_task(sidecar.given.first()), asyncio.create_task(stop.wait())
    await asyncio.wait({given, stopped}, return_when=asyncio.FIRST_COMPLETED)
    given.cancel()
    stopped.cancel()
    return not stop.is_set()


async def _build(config: Config, read: Callable[[], Config], path: Path | None, stack: AsyncExitStack) -> _Sidecar:
    sink, log = logs.open_log(sys.stdout.fileno(), style=config.log.format, level=config.log.level)
    stack.push_async_callback(asyncio.to_thread, sink.close)  # it waits for whoever reads the log
    stack.enter_context(logs.standard_logging(log))
    metrics = Metrics(registry := CollectorRegistry(), series=config.rate_limits.metric_series)
    telemetry = Telemetry(metrics, log)

    folder = path.parent if path is not None else Path()
    storage = await open_storage(config.store, folder, telemetry, stack)
    clocks = Clocks(time.time, time.monotonic)
    credentials = await _credentials(config, storage, clocks, telemetry, stack)
    generations = await stack.enter_async_context(Generations(partial(_tell_fetch, telemetry), credentials))
    generation = await generations.build(config)
    telemetry.configured(config.tiers, [entry.issuer for entry in config.identity.issuers], generation)
    telemetry.limits_loaded(config.rate_limits.remarks)
    gate = Gate(generation, storage.front, clocks, telemetry, new_id=_new_id)
    reloader = Reloader(config, read=read, path=path, gate=gate, generations=generations, telemetry=telemetry)
    given = _given(config, folder, reloader=reloader, gate=gate, generations=generations, telemetry=telemetry)
    _watch(metrics, sink, generations=generations, storage=storage, gate=gate, reloader=reloader)
    if credentials is not None:
        metrics.watch_revocations(credentials.statistics)

    services = [_SERVICES[name] for name in config.server.services]
    grpc = await _grpc(config.server, folder, Face(gate).handlers(services), telemetry)
    metrics.watch_certificate(lambda: grpc.certificate_expires)
    health = Health(
        (lambda: generations.ready) if AUTHORIZATION in services else None,
        (lambda: given is None or given.ready) if RATE_LIMIT in services else None,
        storage.ping,
        partial(_tell, grpc, services),
        log,
    )
    faces = dict(_faces(config, health, registry, metrics, gate))
    return _Sidecar(log, storage, credentials, telemetry.failed, gate, grpc, faces, health, reloader, given)


async def _credentials(
    config: Config, storage: Storage, clocks: Clocks, telemetry: Telemetry, stack: AsyncExitStack
) -> CredentialStore | None:
    """Open what the store keeps of credentials, where any are asked for."""
    if "identity" not in config.server.services:
        return None
    client = open_client(storage.target, _CREDENTIALS_WITHIN)
    stack.push_async_callback(client.aclose)
    credentials = CredentialStore(
        client,
        config.store.key_prefix,
        clocks,
        max_wait=config.identity.revocation.max_wait,
        tell=telemetry.revocations_told,
    )
    stack.push_async_callback(credentials.close)
    return credentials


async def _grpc(server: Server, folder: Path, handlers: Handlers, telemetry: Telemetry) -> GrpcServer:
    if server.tls is None:
        return GrpcServer(handlers, str(server.grpc), choose_transport(server.transport))
    try:
        tls = await ServerTls.read(server.tls.files(folder), server.tls.client_names, telemetry.certificate_renewed)
    except CredentialsError as error:
        raise ListenError(f"server.tls: {error}") from error
    return GrpcServer(handlers, str(server.grpc), "grpcio", tls)


def _given(
    config: Config, folder: Path, *, reloader: Reloader, gate: Gate, generations: Generations, telemetry: Telemetry
) -> GivenLimits | None:
    xds = config.rate_limits.xds
    if xds is None:
        return None
    return GivenLimits(xds, folder, reloader=reloader, gate=gate, generations=generations, telemetry=telemetry)


def _faces(
    config: Config, health: Health, registry: CollectorRegistry, metrics: Metrics, gate: Gate
) -> Iterator[tuple[str, HttpServer]]:
    def series(openmetrics: bool) -> Iterator[str]:  # noqa: FBT001 - what http_face asks
        return exposition(metrics.limits, openmetrics=openmetrics)

    def lines() -> Iterator[str]:
        return gate.generation.tree.lines()

    def healthy() -> bool:
        return health.readiness().ready

    def limit(body: bytes) -> Awaitable[tuple[HTTPStatus, bytes]]:
        return answer_json(body, gate.limit, gate.generation.telling)

    asked, checked = (limit, healthy) if config.server.json_limits else (None, None)
    pages = http_face.app(health.readiness, registry, series=series, limit=asked, healthy=checked)
    yield "http", HttpServer(pages, str(config.server.http))
    if config.server.metrics is not None:
        pages = http_face.app(health.readiness, registry, series=series)
        yield "metrics", HttpServer(pages, str(config.server.metrics), "server.metrics")
    if config.server.debug is not None:
        pages = debug_face.app(lines, lambda: dotted(metrics.limits))
        yield "debug", HttpServer(pages, str(config.server.debug), "server.debug")


def _watch(
    metrics: Metrics, sink: LogSink, *, generations: Generations, storage: Storage, gate: Gate, reloader: Reloader
) -> None:
    metrics.watch_keys(partial(_keys_now, generations))
    metrics.watch_token_caches(lambda: generations.verifier.statistics())  # noqa: PLW0108 - it changes
    metrics.watch_log(sink.statistics)
    metrics.watch_store(storage.readings)
    metrics.watch_exposure(lambda: exposure(gate.generation.tree, reloader.current.store.outage.processes))


def _spare_the_collector() -> None:
    """Leave out what lives as long as the process, and look at the rest less often: its objects die by themselves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _new_id() -> str:
    return str(uuid.uuid4())


def _tell_fetch(telemetry: Telemetry, issuer: str, fetched: Fetched) -> None:
    detail = fetched.detail or "; ".join(fetched.skipped)
    telemetry.keys_fetched(issuer, step=fetched.step, error=fetched.error or "", detail=detail, remarks=fetched.remarks)


def _keys_now(generations: Generations) -> dict[str, KeysNow]:
    return {issuer: KeysNow(now.keys, now.age_seconds) for issuer, now in generations.status().items()}


async def _tell(grpc_server: GrpcServer, services: Collection[str], identity: bool, limits: bool) -> None:  # noqa: FBT001 - two answers, in order
    ready = {AUTHORIZATION: identity, RATE_LIMIT: limits}
    told = {"": all(ready[service] for service in services), **{service: ready[service] for service in services}}
    if RATE_LIMIT in services:
        told[_REFERENCE] = limits
    for service, serving in told.items():
        await grpc_server.serving(service, serving=serving)


def _press(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    (hurry if stop.is_set() else stop).set()


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Two events, of the first and of the second signal to stop. SIGHUP is nothing yet: all will be read once more."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _press, stop, hurry)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    return stop, hurry
