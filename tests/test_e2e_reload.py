"""Through a real Envoy, under traffic: another configuration takes effect whole, or not at all."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

import minting
from gateway import Gateway, envoy, upstream
from genops_extauth._pb import rls_pb2 as rls
from sidecar import KEY, LIMIT, TRANSPORTS, Sidecar, folder, serving, settings, token
from stores import eventually
from traffic import Traffic, traffic

PREMIUM = {"customer_tier": "premium", "customer_id": "acme"}
SUCCESSFUL = "genops_config_last_reload_successful"
NEW_KEY = minting.ed_pair("new")


def opened(*paths: str) -> str:
    """A configuration in which these paths need no identity."""
    return yaml.safe_dump(settings(routes=[{"methods": ["GET"], "path": path, "auth": "none"} for path in paths]))


@contextlib.contextmanager
def asked(sidecar: Sidecar) -> Iterator[tuple[Gateway, Traffic]]:
    """An Envoy before the sidecar, with traffic to which a reload must make no difference."""
    good, bad = token(**PREMIUM), token(exp=1)
    with upstream() as service, envoy(service, sidecar.grpc) as gateway:
        kinds: dict[str, Callable[[], object]] = {
            "good": lambda: gateway.get("/good", good).status,
            "bad": lambda: gateway.get("/bad", bad).status,
        }
        with traffic(**kinds) as sent:
            sent.wait(good=200, bad=401)
            yield gateway, sent
            sent.wait(good=200, bad=401)
        assert set(sent.results("good")) == {200}
        assert set(sent.results("bad")) == {401}


def takes_effect(gateway: Gateway, path: str) -> None:
    eventually(lambda: gateway.get(path).status == 200)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_changed_file_takes_effect(transport: str) -> None:
    """A changed file is in force without a restart and without a request lost: routes, limits and keys."""
    with serving(settings(server={"transport": transport})) as sidecar, asked(sidecar) as (gateway, _):
        assert gateway.get("/new").status == 401
        assert gateway.get(token=token(NEW_KEY, **PREMIUM)).status == 401
        (sidecar.config.parent / "key.pem").write_bytes(KEY.public_pem() + NEW_KEY.public_pem())
        eventually(lambda: gateway.get(token=token(NEW_KEY, **PREMIUM)).status == 200)
        changed = settings(
            server={"transport": transport},
            routes=[{"methods": ["GET"], "path": "/new", "auth": "none"}],
            tiers={"free": {"limit": "10/day", "burst": 2}, "premium": {"limit": "100000/hour"}},
        )
        sidecar.configure(changed)
        takes_effect(gateway, "/new")
        # All of it is in force: nobody sees half a configuration.
        assert gateway.get("/open").status == 401
        assert [gateway.get(token=token(customer_id="c", customer_tier="free")).status for _ in range(3)] == [
            200,
            200,
            429,
        ]
        assert sidecar.metric(SUCCESSFUL) == 1
        assert sidecar.metric('genops_config_reload_total{result="ok"}') == 2


BROKEN = {
    "no YAML": "server: {grpc: ",
    "an unknown key": opened("/new") + "sever: {}\n",
    "a bad value": opened("/new").replace("100000/hour", "100000/fortnight"),
    "a missing key": opened("/new").replace("key.pem", "gone.pem"),
    "nothing": "",
    "aliases of aliases": opened("/new")
    + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9) if n else 'lol'}]\n" for n in range(9)),
}


@pytest.fixture(scope="module")
def steady() -> Iterator[tuple[Sidecar, Gateway]]:
    """A sidecar whose configuration in force stays as it is, under traffic."""
    with serving() as sidecar, asked(sidecar) as (gateway, _):
        yield sidecar, gateway


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_changes_nothing(steady: tuple[Sidecar, Gateway], kind: str) -> None:
    """A configuration with an error is refused whole; a metric and a log line say so, until the next good one."""
    sidecar, gateway = steady
    refused = len(sidecar.said("config_refused"))
    sidecar.configure(BROKEN[kind])
    eventually(lambda: sidecar.metric(SUCCESSFUL) == 0)
    assert [gateway.get(path).status for path in ("/open", "/new")] == [200, 401]
    eventually(lambda: len(sidecar.said("config_refused")) > refused)
    line = sidecar.said("config_refused")[refused]
    assert (line["level"], line["in_force"]) == ("error", "the former configuration")
    assert line["detail"]
    assert sidecar.get("/readyz")[0] == 200
    sidecar.configure(settings())
    eventually(lambda: sidecar.metric(SUCCESSFUL) == 1)


@contextlib.contextmanager
def linked(place: Path, target: Path) -> Iterator[Sidecar]:
    """A sidecar whose files are links into `target`, where there are real ones."""
    sidecar = Sidecar(place, settings())
    for name in ("genops.yaml", "key.pem"):
        (place / name).unlink()
        (place / name).symlink_to(target / name)
    try:
        sidecar.start()
        yield sidecar
    finally:
        sidecar.stop()


def test_a_signal_asks_for_it() -> None:
    """SIGHUP reads the files again where no change can be noticed: behind a link to another folder."""
    with folder() as place, folder() as elsewhere:
        (elsewhere / "key.pem").write_bytes(KEY.public_pem())
        (elsewhere / "genops.yaml").write_text(opened("/open"))
        with linked(place, elsewhere) as sidecar, asked(sidecar) as (gateway, _):
            (elsewhere / "genops.yaml").write_text(opened("/new"))
            sidecar.signal(signal.SIGHUP)
            takes_effect(gateway, "/new")
            assert gateway.get("/open").status == 401


def test_a_config_map_takes_effect() -> None:
    """A ConfigMap's update is noticed: Kubernetes swaps the link ``..data`` that all files are reached through."""
    with folder() as place:
        map_of(place, 1, opened("/open"))
        with linked(place, Path("..data")) as sidecar, asked(sidecar) as (gateway, _):
            map_of(place, 2, opened("/new"))
            takes_effect(gateway, "/new")
            assert gateway.get("/open").status == 401
            map_of(place, 3, "tiers: broken")
            eventually(lambda: sidecar.metric(SUCCESSFUL) == 0)
            assert gateway.get("/new").status == 200
            map_of(place, 4, opened("/open"))
            takes_effect(gateway, "/open")


def map_of(place: Path, version: int, configuration: str) -> None:
    """Put a version of a ConfigMap with a configuration in place."""
    swapped(place, version, {"genops.yaml": configuration, "key.pem": KEY.public_pem().decode()})


def swapped(place: Path, version: int, files: Mapping[str, str]) -> None:
    """Put a version of a ConfigMap in place, as the kubelet does (its AtomicWriter)."""
    put = place / f"..version_{version}"
    put.mkdir()
    for name, text in files.items():
        (put / name).write_text(text)
    (place / "..data_tmp").symlink_to(put.name)
    (place / "..data_tmp").replace(place / "..data")
    for name in files:
        if not (place / name).is_symlink():
            (place / name).symlink_to(Path("..data", name))


def test_what_needs_a_restart_is_said() -> None:
    """A change of a port waits for a restart, and is said; what can change changes."""
    with serving() as sidecar, asked(sidecar) as (gateway, _):
        changed = settings(
            server={"grpc": "127.0.0.1:1"}, routes=[{"methods": ["GET"], "path": "/new", "auth": "none"}]
        )
        sidecar.configure(changed)
        takes_effect(gateway, "/new")
        eventually(lambda: sidecar.said("restart_needed") != [])
        (line,) = sidecar.said("restart_needed")
        assert "server.grpc" in line["settings"]


def declared(requests: int, domain: str = "files") -> str:
    """A file of limits."""
    limit = {"unit": "day", "requests_per_unit": requests}
    return yaml.safe_dump({"domain": domain, "descriptors": [{"key": "account", "rate_limit": limit}]})


def in_force(sidecar: Sidecar, domain: str = "files") -> int:
    """How many requests a day a domain's accounts have; 0 where nothing limits them."""
    entry = rls.RateLimitDescriptor.Entry(key=b"account", value=b"acme")
    asked = rls.RateLimitRequest(domain=domain.encode(), descriptors=[rls.RateLimitDescriptor(entries=[entry])])
    with sidecar.calls(LIMIT) as call:
        (status,) = rls.RateLimitResponse.FromString(call(asked.SerializeToString())).statuses
    return int(status.current_limit.requests_per_unit)


def comes_into_force(sidecar: Sidecar, requests: int, domain: str = "files") -> None:
    eventually(lambda: in_force(sidecar, domain) == requests)


@contextlib.contextmanager
def limiting(directory: Path) -> Iterator[Sidecar]:
    """A sidecar whose limits are in files of a directory, under traffic."""
    with serving(settings(rate_limits={"directory": str(directory)})) as sidecar, asked(sidecar):
        yield sidecar


@pytest.fixture
def directory() -> Iterator[Path]:
    with folder() as place:
        yield place


def test_limits_in_a_config_map_take_effect(directory: Path) -> None:
    """A ConfigMap of limits that is mounted as the directory is read anew when the kubelet swaps it, files removed too.

    One with an error changes nothing, and is told with the file's name.
    """
    swapped(directory, 1, {"one.yaml": declared(11), "two.yaml": declared(21, "others")})
    with limiting(directory) as sidecar:
        assert [in_force(sidecar), in_force(sidecar, "others")] == [11, 21]
        swapped(directory, 2, {"one.yaml": declared(12)})
        (directory / "two.yaml").unlink()
        eventually(lambda: [in_force(sidecar), in_force(sidecar, "others")] == [12, 0])
        swapped(directory, 3, {"one.yaml": declared(13).replace("day", "fortnight")})
        eventually(lambda: sidecar.metric(SUCCESSFUL) == 0)
        eventually(lambda: sidecar.said("config_refused") != [])
        assert "one.yaml" in sidecar.said("config_refused")[-1]["detail"]
        assert in_force(sidecar) == 12
        swapped(directory, 4, {"one.yaml": declared(14)})
        comes_into_force(sidecar, 14)
        eventually(lambda: sidecar.metric(SUCCESSFUL) == 1)


def test_limits_edited_in_place_take_effect(directory: Path) -> None:
    """A file of limits that is written over, added, or removed is noticed; an error in one keeps all as they were."""
    (directory / "one.yaml").write_text(declared(11))
    with limiting(directory) as sidecar:
        assert in_force(sidecar) == 11
        (directory / "one.yaml").write_text(declared(12))
        comes_into_force(sidecar, 12)
        (directory / "two.yaml").write_text(declared(21, "others"))
        comes_into_force(sidecar, 21, "others")
        (directory / "two.yaml").write_text("domain: others\ndescriptors: [{key: account, rate_limit: {")
        eventually(lambda: sidecar.metric(SUCCESSFUL) == 0)
        (directory / "one.yaml").write_text(declared(13))
        eventually(lambda: sidecar.metric('genops_config_reload_total{result="failed"}') >= 2)
        assert [in_force(sidecar), in_force(sidecar, "others")] == [12, 21]
        (directory / "two.yaml").unlink()
        eventually(lambda: [in_force(sidecar), in_force(sidecar, "others")] == [13, 0])


def test_limits_in_folders_take_effect(directory: Path) -> None:
    """Files in folders of the directory count and are watched, also in a folder that comes later."""
    (directory / "team").mkdir()
    (directory / "team" / "one.yaml").write_text(declared(11))
    with limiting(directory) as sidecar:
        assert in_force(sidecar) == 11
        (directory / "team" / "one.yaml").write_text(declared(12))
        comes_into_force(sidecar, 12)
        (directory / "other" / "team").mkdir(parents=True)
        (directory / "other" / "team" / "two.yaml").write_text(declared(21, "others"))
        comes_into_force(sidecar, 21, "others")


def test_a_directory_behind_a_link_takes_effect(directory: Path) -> None:
    """A directory that is a link is followed when it comes to lead elsewhere, and watched there."""
    for version in (1, 2):
        (directory / f"v{version}").mkdir()
        (directory / f"v{version}" / "one.yaml").write_text(declared(10 + version))
    (directory / "current").symlink_to("v1")
    with limiting(directory / "current") as sidecar:
        assert in_force(sidecar) == 11
        (directory / "next").symlink_to("v2")
        (directory / "next").replace(directory / "current")
        comes_into_force(sidecar, 12)
        for requests in (13, 14):
            (directory / "v2" / "one.yaml").write_text(declared(requests))
            comes_into_force(sidecar, requests)
