"""The composition root: build the graph, start in order, stop in reverse.

Order of start: log, store, keys, gate, ports. Order of stop: health says NOT_SERVING, calls finish, ports close, then
what they used. A store that cannot be reached keeps nothing from starting: identity works without it.
"""

import asyncio
import gc
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from genops_extauth import __version__, http_face, logs
from genops_extauth.config import load
from genops_extauth.embedded import EmbeddedValkey
from genops_extauth.gate import Clocks, Gate
from genops_extauth.generations import Generations
from genops_extauth.grpc_face import AUTHORIZATION, RATE_LIMIT, Face
from genops_extauth.health import Health
from genops_extauth.jwks import Fetched
from genops_extauth.metrics import KeysNow, Metrics
from genops_extauth.redis_store import RedisStore
from genops_extauth.reload import Reloader
from genops_extauth.server import GrpcServer, HttpServer, choose_transport, drain
from genops_extauth.settings import Config
from genops_extauth.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """What runs, once built."""

    log: FilteringBoundLogger
    store: RedisStore
    grpc: GrpcServer
    http: HttpServer
    health: Health
    reloader: Reloader


async def serve(config: Config, path: Path | None, environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the drain delay.

    Raises `server.ListenError` and `embedded.EmbeddedValkeyError` where it cannot start.
    """
    stop, hurry = _signals()
    async with AsyncExitStack() as stack:
        sidecar = await _build(config, path, environ, stack)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, sidecar.reloader.ask)
        await sidecar.health.look()
        stack.push_async_callback(sidecar.http.stop)
        http = await sidecar.http.start()
        stack.push_async_callback(sidecar.grpc.stop, 0)
        grpc = await sidecar.grpc.start()
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(sidecar.health.watch()), tasks.create_task(sidecar.reloader.watch())]
            _spare_the_collector()
            where = {"grpc": grpc, "http": http, "transport": sidecar.grpc.transport, "store": sidecar.store.address}
            sidecar.log.info("listening", **where, version=__version__)
            await stop.wait()
            sidecar.log.info("draining", seconds=config.server.drain_delay)
            sidecar.health.stopping()
            await drain(sidecar.grpc, hurry, config.server.drain_delay, config.server.shutdown_grace)
            for task in watching:
                task.cancel()
        sidecar.log.info("stopped")


async def _build(config: Config, path: Path | None, environ: Mapping[str, str], stack: AsyncExitStack) -> _Sidecar:
    sink, log = logs.open_log(sys.stdout.fileno(), style=config.log.format, level=config.log.level)
    stack.push_async_callback(asyncio.to_thread, sink.close)  # it waits for whoever reads the log
    stack.enter_context(logs.standard_logging(log))
    metrics = Metrics(registry := CollectorRegistry())
    telemetry = Telemetry(metrics, log)
    telemetry.configured(config.tiers, [entry.issuer for entry in config.identity.jwt])

    store = await _open_store(config, telemetry, stack)
    generations = await stack.enter_async_context(Generations(partial(_tell_fetch, telemetry)))
    gate = Gate(await generations.build(config), store, Clocks(time.time, time.monotonic), telemetry, new_id=_new_id)
    metrics.watch_keys(partial(_keys_now, generations))
    metrics.watch_token_caches(lambda: gate.generation.verifier.statistics())  # noqa: PLW0108 - the generation changes
    metrics.watch_log(sink.statistics)

    grpc = GrpcServer(Face(gate).handlers(), str(config.server.grpc), choose_transport(config.server.transport))
    health = Health(lambda: generations.ready, store.ping, partial(_tell, grpc), log)
    http = HttpServer(http_face.app(health.readiness, registry), str(config.server.http))
    read = partial(load, path, environ)
    reloader = Reloader(config, read=read, path=path, gate=gate, generations=generations, telemetry=telemetry)
    return _Sidecar(log, store, grpc, http, health, reloader)


def _spare_the_collector() -> None:
    """Leave out what lives as long as the process, and look at the rest less often: its objects die by themselves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _open_store(config: Config, telemetry: Telemetry, stack: AsyncExitStack) -> RedisStore:
    url, password = config.store.url, config.store.password
    if url == "embedded:":
        valkey = await stack.enter_async_context(EmbeddedValkey())
        tending = asyncio.create_task(valkey.tend(telemetry.store_ended))
        stack.callback(tending.cancel)
        url = valkey.url
    secret = None if password is None else password.get_secret_value()
    store = RedisStore(url, password=secret, timeout=config.store.timeout)
    stack.push_async_callback(store.close)
    return store


def _new_id() -> str:
    return str(uuid.uuid4())


def _tell_fetch(telemetry: Telemetry, issuer: str, fetched: Fetched) -> None:
    detail = fetched.detail or "; ".join(fetched.skipped)
    telemetry.keys_fetched(issuer, error=fetched.error or "", detail=detail)


def _keys_now(generations: Generations) -> dict[str, KeysNow]:
    return {issuer: KeysNow(now.keys, now.age_seconds) for issuer, now in generations.status().items()}


async def _tell(grpc_server: GrpcServer, identity: bool, limits: bool) -> None:  # noqa: FBT001 - two answers, in order
    for service, serving in {"": identity, AUTHORIZATION: identity, RATE_LIMIT: limits}.items():
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
