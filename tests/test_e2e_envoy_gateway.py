"""In the place of Envoy Gateway's rate limit service: its environment, limits over xDS, an Envoy, mTLS with both."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from ads_server import AdsServer, Stream, ads_server, rate_limit_config
from certificates import Authority, Pair
from envoy_gateway import DOMAIN, ENVIRONMENT, HEALTH, ROUTE, RULE, asking, rule
from gateway import Gateway, envoy, upstream
from genops_extauth.health_probe import ask_health, open_channel
from limiter import Limiter, limiting
from sidecar import TRANSPORTS, folder
from stores import VALKEY, free_port, running, until


class Certs:
    """What Envoy Gateway mounts at /certs: a Secret, whose content is swapped as a whole."""

    def __init__(self, mounted: Path, authority: Authority) -> None:
        self.mounted = mounted
        self._authority = authority
        self._generation = 0
        mounted.mkdir()
        self.renew()
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (mounted / name).symlink_to(f"..data/{name}")

    def renew(self) -> None:
        """Another certificate takes the place of the one that is."""
        self._generation += 1
        content = self.mounted / f"..{self._generation}"
        content.mkdir()
        pair = self._authority.issue("envoy-ratelimit")
        for name, file in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", self._authority.file)):
            (content / name).write_bytes(file.read_bytes())
        (self.mounted / "..new").symlink_to(content.name)
        (self.mounted / "..new").replace(self.mounted / "..data")

    def environment(self) -> dict[str, str]:
        """Envoy Gateway's, with the certificates where they are here."""
        return {name: value.replace("/certs", str(self.mounted)) for name, value in ENVIRONMENT.items()}


@dataclass(frozen=True, slots=True)
class Bench:
    """An Envoy in front of a limiter, whose limits come from `stream`."""

    gateway: Gateway
    limiter: Limiter
    stream: Stream
    authority: Authority
    certs: Certs

    async def get(self, times: int) -> list[int]:
        """The statuses of so many requests of the user `one`."""
        ask = [("x-user-id", "one")]
        return [(await asyncio.to_thread(self.gateway.get, headers=ask)).status for _ in range(times)]

    async def give(self, version: str, *, requests: int, unit: str) -> str:
        """Give it one rule; returns the version that is in force once it has answered."""
        await self.stream.send(version, rate_limit_config(dict(rule(requests, unit))))
        return (await self.stream.request()).version_info

    async def health(self, client: Pair | None) -> str:
        """What a client that shows this certificate hears of its health."""
        key, certificate = (None, None) if client is None else (client.key, client.certificate)

        def ask() -> str:
            tls = (self.authority.file, key, certificate)
            with open_channel(self.limiter.listening["grpc"], tls, "envoy-ratelimit") as channel:
                return ask_health(channel, "ratelimit", 10)

        return await asyncio.to_thread(ask)


@contextlib.contextmanager
def _standing(place: Path, server: AdsServer, authority: Authority, certs: Certs) -> Iterator[tuple[Gateway, Limiter]]:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(running(VALKEY, port=free_port()))
        here = {
            "CONFIG_GRPC_XDS_SERVER_URL": server.address,
            "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "envoy-gateway",  # there it is the address
            "REDIS_URL": f"127.0.0.1:{store.port}",
            "PROMETHEUS_ADDR": "127.0.0.1:0",
        }
        limiter = stack.enter_context(limiting(place, {**certs.environment(), **here}))
        service = stack.enter_context(upstream())
        change = asking(authority.issue("*.envoy-gateway-system"), authority.file)
        yield stack.enter_context(envoy(service, limiter.listening["grpc"], changes=[change])), limiter


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    with folder() as place:
        authority = Authority(place)
        certs = Certs(place / "certs", authority)
        pair = authority.issue("envoy-gateway")
        credentials = grpc.ssl_server_credentials(
            [(pair.key.read_bytes(), pair.certificate.read_bytes())],
            authority.file.read_bytes(),
            require_client_auth=True,
        )
        async with ads_server(credentials) as server:
            standing = _standing(place, server, authority, certs)
            gateway, limiter = await asyncio.to_thread(standing.__enter__)
            try:
                stream = await server.stream()
                request = await stream.request()
                assert request.node is not None
                assert request.node.id == "envoy-ratelimit"
                yield Bench(gateway, limiter, stream, authority, certs)
            finally:
                await asyncio.to_thread(standing.__exit__, None, None, None)


async def test_its_limits_are_what_xds_says(bench: Bench) -> None:
    """Before limits are given all requests pass, then those within; another push changes them, a bad one does not."""
    assert bench.limiter.get(HEALTH) == (200, "OK")
    assert await bench.get(2) == [200, 200]
    assert bench.limiter.metric('ratelimit_service_rate_limit_domain_not_found{domain="first-listener"}') == 2

    assert await bench.give("1", requests=1, unit="DAY") == "1"
    assert await bench.get(2) == [200, 429]
    answer = await asyncio.to_thread(bench.gateway.get, headers=[("x-user-id", "one")])
    assert answer.headers["x-ratelimit-limit"] == "1, 1;w=86400"
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert (await asyncio.to_thread(bench.gateway.get, headers=[("x-user-id", "two")])).status == 200

    assert await bench.give("2", requests=2, unit="HOUR") == "2"
    assert await bench.get(3) == [200, 200, 429]

    assert await bench.give("3", requests=9, unit="UNKNOWN") == "2"
    assert await bench.get(1) == [429]

    counted = [bench.limiter.metric(f"ratelimit_service_config_load_{how}", "metrics") for how in ("success", "error")]
    assert counted == [3, 1]
    (refused,) = bench.limiter.said("limits_refused")
    assert refused["version"] == "3"


async def test_nobody_without_a_certificate(bench: Bench) -> None:
    """GRPC_SERVER_TLS_CA_CERT keeps clients out that show no certificate; a new one of its own is shown unasked."""
    envoy = bench.authority.issue("envoy")
    assert await bench.health(envoy) == "SERVING"
    assert await bench.health(None) == "UNREACHABLE"
    bench.certs.renew()
    assert await bench.health(envoy) == "SERVING"
    await until(lambda: len(bench.limiter.said("certificate_renewed")) == 1)


async def test_it_says_what_is_missed(bench: Bench) -> None:
    """All that it has to say to who takes it for Envoy Gateway's own is that metrics keep their names."""
    assert bench.limiter.errors.splitlines() == [
        "genops-extauth: PROMETHEUS_MAPPER_YAML: metrics are not renamed here: use metric_relabel_configs of Prometheus"
    ]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_it_waits_for_its_limits(transport: str) -> None:
    """Without FORCE_START_WITHOUT_INITIAL_CONFIG it listens once it has limits, and can be stopped before."""
    with folder() as place, running(VALKEY) as store:
        async with ads_server() as server:
            given = {"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL": server.address}
            with Limiter(place, {**given, "REDIS_URL": str(store.path)}, transport) as limiter:
                limiter.launch()
                await (await server.stream()).request()
                assert limiter.said("waiting_for_limits")
                assert await asyncio.to_thread(limiter.stop) == 0
                assert not limiter.said("listening")

                starting = asyncio.create_task(asyncio.to_thread(limiter.start))
                stream = await server.stream()
                await stream.request()
                assert not limiter.said("listening")
                await stream.send("1", rate_limit_config(dict(rule(1, "DAY"))))
                await starting
                assert await asyncio.to_thread(limiter.health, "ratelimit") == "SERVING"
                assert await asyncio.to_thread(limiter.limit_of, DOMAIN, **{ROUTE: ROUTE, RULE: RULE}) == 1
                assert await asyncio.to_thread(limiter.stop) == 0
