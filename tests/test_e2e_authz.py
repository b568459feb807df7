"""The adversarial cases of vectors/authz.yaml, over gRPC, against a running sidecar on both transports."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from envoy_data_plane.envoy.service.auth.v3 import CheckResponse

from authz_cases import CASES, Asked, Issuers, issuers, lay_out, profile, request
from authz_verdicts import ASSERTIONS, invariants, judge
from sidecar import CHECK, TRANSPORTS, Sidecar, folder
from stores import eventually

ELSEWHERE = {
    "E46": "a clock that is moved on by two days: test_jwks, where time is virtual",
    "E57": "budgets are not kept yet",
    "E58": "budgets are not kept yet; what a gRPC caller is told: test_refusals",
    "E61": "budgets are not kept yet",
    "E67": "10,000 calls at once leave nothing of two cores to the other tests",
    "E68": "a reload each 100 ms: test_e2e_reload",
}
HERE = [case for case in CASES if case["transport"] == "grpc" and case["id"] not in ELSEWHERE]
_GOOD: Mapping[str, Any] = {"token": {"claims": {"scope": "llm.invoke"}}, "request": {"method": "GET"}}
"""What passes under every profile."""


@dataclass
class Running:
    """A sidecar with one profile, its issuers, and a connection to it."""

    sidecar: Sidecar
    issuers: Issuers
    ask: Callable[[bytes], bytes]
    credentials: list[bytes]

    def answer(self, asked: Asked) -> CheckResponse:
        self.credentials += asked.credentials
        return CheckResponse.parse(self.ask(bytes(asked.message)))

    def good(self) -> float:
        """Ask with a token that is good; how many seconds the answer took."""
        asked = request(_GOOD, int(time.time()))
        started = time.monotonic()
        assert self.answer(asked).ok_response is not None
        return time.monotonic() - started

    def memory(self) -> int:
        """Resident memory, in bytes."""
        return int(self.sidecar.metric("process_resident_memory_bytes"))


@contextlib.contextmanager
def running(name: str, transport: str) -> Iterator[Running]:
    with issuers() as both, folder() as place:
        lay_out(place)
        configured = profile(name, both.first.url, both.second.url)
        configured["server"]["transport"] = transport
        sidecar = Sidecar(place, configured)
        sidecar.start()
        try:
            with sidecar.calls(CHECK) as ask:
                known = Running(sidecar, both, ask, [])
                known.good()
                yield known
                for credential in known.credentials:
                    text = credential.decode("latin-1")
                    assert len(text) < 8 or text not in sidecar.log + sidecar.errors + sidecar.get("/metrics")[1]
        finally:
            sidecar.stop()


@pytest.fixture(scope="module", params=TRANSPORTS)
def profiles(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Running]]:
    """The sidecar of a profile, started when the first of its cases comes."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda name: stack.enter_context(running(name, request.param)))


@pytest.mark.parametrize("case", [case for case in HERE if "world" not in case], ids=lambda case: case["id"])
def test_every_case_meets_its_fate(profiles: Callable[[str], Running], case: Mapping[str, Any]) -> None:
    """A case gets the verdict that it demands; and the invariants hold of it, and after it."""
    _play(profiles(case["profile"]), case)


@pytest.mark.parametrize("case", [case for case in HERE if "world" in case], ids=lambda case: case["id"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_case_in_a_world_of_its_own_meets_its_fate(transport: str, case: Mapping[str, Any]) -> None:
    """A case that needs an issuer of its own, good or broken, gets the verdict that it demands."""
    with running(case["profile"], transport) as known:
        before, fetches = known.memory(), len(known.issuers.first.requests)
        known.issuers.change(case["world"]["jwks"])
        if case["world"].get("wait_refresh"):
            eventually(lambda: len(known.issuers.first.requests) > fetches, within=20)
            eventually(lambda: bool(known.sidecar.said("keys_not_fetched")), within=20)
            assert known.memory() - before < 64 * 2**20
        _play(known, case)


def _play(known: Running, case: Mapping[str, Any]) -> None:
    expect = case["expect"]
    fetches = len(known.issuers.first.requests)
    for _ in range(min(expect.get("repeat", 1), 1000)):
        asked = request(case, int(time.time()))
        started = time.monotonic()
        answer = known.answer(asked)
        seconds = time.monotonic() - started
        invariants(asked, answer)
        judge(expect, answer)
    assert seconds < 1.0, "a busy machine may be slow, but not so slow"
    assert len(known.issuers.first.requests) - fetches <= expect.get("jwks_fetches_max", 1)
    assert known.good() < 1.0


def test_what_is_left_out_is_known() -> None:
    """Each case is asked here, of the HTTP twin, or is named with the reason; and each probe exists."""
    assert len(HERE) >= 125
    assert {case["id"] for case in CASES} >= ELSEWHERE.keys()
    process = {"no_outbound", "no_file_read", "parallel_valid_tokens_allowed", "rss_growth_lt_16MiB"}
    process |= {"rss_growth_lt_64MiB", "event_loop_not_blocked", "no_crlf_in_logs", "set_and_remove_disjoint"}
    asserted = {name.partition(":")[0] for case in HERE for name in case["expect"].get("assertions", ())}
    assert asserted <= ASSERTIONS.keys() | process | {"header_values_ascii", "no_python_repr_in_headers"} | {
        "tier_is_lowest_or_removed"
    }
