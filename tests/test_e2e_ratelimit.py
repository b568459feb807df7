"""`genops-extauth ratelimit` in the place of envoyproxy/ratelimit: its environment, files, pages and manners."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
from envoy_data_plane.envoy.service.ratelimit.v3 import RateLimitResponseCode

from certificates import Authority
from genops_extauth.certificates import expires
from genops_extauth.health_probe import ask_health, open_channel
from limiter import HERE, Limiter, Ports, command, limiting
from sidecar import CHECK, TRANSPORTS, Sidecar, failure, folder
from stores import VALKEY, eventually, running

OK, OVER_LIMIT = RateLimitResponseCode.OK, RateLimitResponseCode.OVER_LIMIT
LOADED, REFUSED = (f"ratelimit_service_config_load_{how}" for how in ("success", "error"))

each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


def limits(requests: int, domain: str = "shop") -> str:
    """A file of one limit, with so many requests a day."""
    return f"""\
domain: {domain}
descriptors:
  - key: path
    rate_limit: {{unit: day, requests_per_unit: {requests}}}
"""


@pytest.fixture(scope="module")
def store() -> Iterator[Mapping[str, str]]:
    """The variables of a store that the tests of this module share; each has buckets of its own."""
    with running(VALKEY) as server:
        yield {"REDIS_SOCKET_TYPE": "unix", "REDIS_URL": str(server.path)}


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a limiter's log and socket are."""
    with folder() as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A RUNTIME_ROOT as upstream's README has it: a link to the latest version, and a folder `config` therein."""
    version(tmp_path, "1", limits(10))
    (tmp_path / "current").symlink_to("1")
    return tmp_path / "current"


def version(folder: Path, name: str, text: str) -> None:
    config = folder / name / "config"
    config.mkdir(parents=True)
    (config / "limits.yaml").write_text(text)


def swap(link: Path, target: str) -> None:
    """Let a link lead elsewhere, in one step."""
    new = link.with_name("new")
    new.symlink_to(target)
    new.replace(link)


@contextlib.contextmanager
def started(place: Path, store: Mapping[str, str], transport: str, **environ: object) -> Iterator[Limiter]:
    # A prefix of its own, for what others spent in the store is of no concern here.
    named = {name: str(value) for name, value in environ.items()}
    with limiting(place, {**store, "CACHE_KEY_PREFIX": place.name, **named}, transport) as limiter:
        yield limiter


def comes(limiter: Limiter, requests: int) -> None:
    """Wait until the limit is this one."""
    eventually(lambda: limiter.limit_of("shop", path="/") == requests)


@each_transport
def test_another_version_is_taken_over(place: Path, store: Mapping[str, str], root: Path, transport: str) -> None:
    """When the link RUNTIME_ROOT leads elsewhere, and when a file there is edited, the limits are the new ones."""
    version(root.parent, "2", limits(20))
    with started(place, store, transport, RUNTIME_ROOT=root) as limiter:
        assert limiter.limit_of("shop", path="/") == 10
        swap(root, "2")
        comes(limiter, 20)
        (root / "config" / "limits.yaml").write_text(limits(30))
        comes(limiter, 30)
        assert (limiter.metric(LOADED), limiter.metric(REFUSED)) == (3, 0)


def test_a_bad_version_is_mended_where_it_is(place: Path, store: Mapping[str, str], root: Path) -> None:
    """A link that leads to a bad version changes nothing, and that version is watched: mended, it is taken over."""
    version(root.parent, "2", limits(20).replace("day", "fortnight"))
    with started(place, store, "native", RUNTIME_ROOT=root) as limiter:
        swap(root, "2")
        eventually(lambda: limiter.metric(REFUSED) >= 1)
        assert limiter.limit_of("shop", path="/") == 10
        (root / "config" / "limits.yaml").write_text(limits(20))
        comes(limiter, 20)


def test_a_folder_may_go_and_come(place: Path, store: Mapping[str, str], root: Path) -> None:
    """A folder that is taken away leaves the limits in force, and is read when it is back."""
    with started(place, store, "native", RUNTIME_ROOT=root) as limiter:
        (root / "config").rename(root / "away")
        eventually(lambda: limiter.metric(REFUSED) >= 1)
        assert limiter.limit_of("shop", path="/") == 10
        (root / "away" / "limits.yaml").write_text(limits(20))
        (root / "away").rename(root / "config")
        comes(limiter, 20)
        (root / "config" / "limits.yaml").write_text(limits(30))
        comes(limiter, 30)


@each_transport
def test_a_config_map_is_followed(place: Path, store: Mapping[str, str], tmp_path: Path, transport: str) -> None:
    """A mounted ConfigMap is read without its folders in front of which dots stand, and its swap is seen."""
    mounted = tmp_path / "ratelimit" / "config"
    mounted.mkdir(parents=True)
    for number in (1, 2):
        (mounted / f"..{number}").mkdir()
        (mounted / f"..{number}" / "limits.yaml").write_text(limits(10 * number))
    (mounted / "..data").symlink_to("..1")
    (mounted / "limits.yaml").symlink_to("..data/limits.yaml")
    where = {"RUNTIME_ROOT": tmp_path, "RUNTIME_SUBDIRECTORY": "ratelimit", "RUNTIME_WATCH_ROOT": "false"}
    with started(place, store, transport, **where) as limiter:
        assert limiter.limit_of("shop", path="/") == 10
        swap(mounted / "..data", "..2")
        comes(limiter, 20)


@each_transport
def test_a_bad_edit_changes_nothing(place: Path, store: Mapping[str, str], root: Path, transport: str) -> None:
    """A file that does not load leaves the limits in force, is counted and told; mended, it is taken over."""
    file = root / "config" / "limits.yaml"
    with started(place, store, transport, RUNTIME_ROOT=root) as limiter:
        file.write_text(limits(20).replace("unit: day", "unit: fortnight"))
        eventually(lambda: limiter.metric(REFUSED) >= 1)
        assert limiter.limit_of("shop", path="/") == 10
        (told,) = limiter.said("config_refused")
        assert "limits.yaml:4" in told["detail"]
        assert limiter.get("/healthcheck") == (200, "OK")
        file.write_text(limits(20))
        comes(limiter, 20)


def test_bad_files_are_no_start(tmp_path: Path, store: Mapping[str, str]) -> None:
    """What is wrong with the files or the environment is all told at once, and it ends with exit code 2."""
    version(tmp_path, "1", limits(10).replace("day", "fortnight"))
    (tmp_path / "1" / "config" / "other.yaml").write_text(limits(1, "other").replace("key:", "kee:"))
    environ = {**os.environ, **HERE, **store, "RUNTIME_ROOT": str(tmp_path / "1"), "NEAR_LIMIT_RATIO": "2"}
    ended = subprocess.run(command(), env=environ, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stdout) == (2, "")
    for said in ("limits.yaml:4", "other.yaml:3", "env NEAR_LIMIT_RATIO"):
        assert said in ended.stderr
    assert all(line.startswith("genops-extauth: ") for line in ended.stderr.splitlines())


@each_transport
def test_its_pages(place: Path, store: Mapping[str, str], root: Path, transport: str) -> None:
    """/json, /healthcheck and /metrics, /rlconfig and /stats, and a port for Prometheus, are where upstream's are."""
    prometheus = {"USE_PROMETHEUS": "true", "PROMETHEUS_ADDR": "127.0.0.1:0", "USE_STATSD": "false"}
    (root / "config" / "limits.yaml").write_text(limits(2))
    with started(place, store, transport, RUNTIME_ROOT=root, **prometheus) as limiter:
        body = json.dumps({"domain": "shop", "descriptors": [{"entries": [{"key": "path", "value": "/"}]}]})
        answers = [limiter.http("POST", "/json", body) for _ in range(3)]
        assert [status for status, _ in answers] == [200, 200, 429]
        told = json.loads(answers[-1][1])
        assert told["overallCode"] == "OVER_LIMIT"
        assert told["statuses"][0]["currentLimit"] == {"requestsPerUnit": 2, "unit": "DAY"}

        assert limiter.get("/healthcheck") == (200, "OK")
        assert "shop.path: unit=DAY requests_per_unit=2" in limiter.get("/rlconfig", "debug")[1]
        stats = limiter.get("/stats", "debug")[1].splitlines()
        assert "ratelimit.service.rate_limit.shop.path.over_limit: 1" in stats
        assert "ratelimit.service.config_load_success: 1" in stats
        for face in ("http", "metrics"):
            assert limiter.metric('ratelimit_service_rate_limit_total_hits{domain="shop",key1="path"}', face) == 3
        assert limiter.get("/json", "metrics")[0] == 404
        assert limiter.get("/rlconfig")[0] == 404


@each_transport
def test_who_asks_for_its_health(place: Path, store: Mapping[str, str], root: Path, transport: str) -> None:
    """It is healthy under upstream's name, its service's, and none; identity is no service of it."""
    with started(place, store, transport, RUNTIME_ROOT=root) as limiter:
        for name in ("", "ratelimit", "envoy.service.ratelimit.v3.RateLimitService"):
            assert limiter.health(name) == "SERVING"
        for ask in (
            lambda: limiter.health("envoy.service.auth.v3.Authorization"),
            lambda: limiter.call(CHECK),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                ask()
            assert failure(caught.value) in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)


@each_transport
def test_it_stops_gracefully(place: Path, store: Mapping[str, str], root: Path, transport: str) -> None:
    """After SIGTERM it says everywhere that no request should come, answers those that come, and ends well."""
    with started(place, store, transport, RUNTIME_ROOT=root) as limiter:
        limiter.terminate()
        eventually(lambda: limiter.health("ratelimit") == "NOT_SERVING")
        assert limiter.get("/healthcheck")[0] == 500
        assert limiter.limit_of("shop", path="/") == 10
        assert limiter.stop() == 0
        assert limiter.said("stopped")


def test_tls_on_a_socket(place: Path, store: Mapping[str, str], root: Path) -> None:
    """With GRPC_SERVER_USE_TLS and GRPC_UDS there is TLS on the socket, and only the named client may ask.

    When the certificate expires can be scraped.
    """
    authority = Authority(place)
    server = authority.issue("limiter")
    secured = {
        "GRPC_UDS": place / "s",
        "GRPC_SERVER_USE_TLS": "true",
        "GRPC_SERVER_TLS_CERT": server.certificate,
        "GRPC_SERVER_TLS_KEY": server.key,
        "GRPC_CLIENT_TLS_CACERT": authority.file,
        "GRPC_CLIENT_TLS_SAN": "envoy",
    }
    with started(place, store, "native", RUNTIME_ROOT=root, **secured) as limiter:
        assert limiter.listening["transport"] == "grpcio"
        for name, due in (("envoy", "SERVING"), ("somebody", "UNREACHABLE")):
            client = authority.issue(name)
            with open_channel(
                f"unix:{place / 's'}", (authority.file, client.key, client.certificate), "limiter"
            ) as channel:
                assert ask_health(channel, "ratelimit", 10) == due
        expiry = limiter.metric("genops_certificate_expiry_timestamp_seconds")
        assert expiry == expires(server.certificate.read_bytes())
        assert limiter.errors == ""


@each_transport
def test_migrated_it_serves_the_same(place: Path, store: Mapping[str, str], root: Path, transport: str) -> None:
    """What `migrate ratelimit` writes is served by `serve`: the same limits, at the same kinds of ports."""
    environ = {**HERE, **store, "CACHE_KEY_PREFIX": place.name, "RUNTIME_ROOT": str(root)}
    told = subprocess.run(
        (*command()[:-1], "migrate", "ratelimit", root / "config", "-o", place / "genops.yaml"),
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "what will differ:" in told.stdout
    text = (place / "genops.yaml").read_text()
    sidecar = Sidecar(place, {})
    sidecar.configure(text.replace("server:\n", f"server:\n  transport: {transport}\n  drain_delay: 0s\n"))
    try:
        sidecar.start()
        served = Ports(sidecar.said("listening")[-1])
        assert [served.limit("shop", path="/").overall_code for _ in range(11)] == [OK] * 10 + [OVER_LIMIT]
        assert served.health("ratelimit") == "SERVING"
        assert served.get("/healthcheck") == (200, "OK")
    finally:
        sidecar.stop()
