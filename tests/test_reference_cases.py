"""envoyproxy/ratelimit's shared conformance cases, in this process: from files and bytes to bytes and counts.

`test_e2e_reference` asks the same of a running server; here each case is a test of its own, and takes no time.
"""

from collections.abc import Mapping, Sequence

import pytest

import reference_cases
from genops_extauth.gate import Clocks, Decided, Gate, Generation
from genops_extauth.hits import Answer, Book, Hit
from genops_extauth.limit_compiler import compile_tree
from genops_extauth.limit_counters import LimitCounters
from genops_extauth.limit_exposition import dotted
from genops_extauth.limit_messages import read_limit, write_limited
from genops_extauth.limit_rules import Settings
from genops_extauth.model import Telling
from genops_extauth.policy import Policy
from genops_extauth.quota import Modes
from genops_extauth.ratelimit_files import load
from reference_cases import CASES, SKIPPED, Case, differences, files, request, told

NOW = 1_795_514_430  # seconds; it stands still
STEPS = [case for case in CASES if case.get("steps") and case["name"] not in SKIPPED]
DEFAULT_NAMES = {"LIMIT": "RateLimit-Limit", "REMAINING": "RateLimit-Remaining", "RESET": "RateLimit-Reset"}


class Memory:
    """The reference's buckets as a store."""

    def __init__(self) -> None:
        self._book = Book()

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        assert within is None
        return self._book.transact(hits, NOW * 10**6)


class Counting:
    """An observer that counts; a defect is raised."""

    def __init__(self, counters: LimitCounters) -> None:
        self._counters = counters

    def checked(self, _: object) -> None: ...

    def limited(self, decided: Decided) -> None:
        self._counters.decided(decided)

    def store_failed(self, error: Exception) -> None:
        raise error

    failed = store_failed


class Service:
    """A limiter with the files and the environment of a case."""

    def __init__(self, case: Case) -> None:
        env = case.get("env", {})
        contents = {name: text.encode() for name, text in files([case])}
        loaded, problems = load(contents, merge_domains=on(env, "MERGE_DOMAIN_CONFIG"))
        assert not problems
        modes = Modes(on(env, "SHADOW_MODE"), on(env, "QUOTA_MODE"))
        names = tuple(env.get(f"LIMIT_{part}_HEADER", name) for part, name in DEFAULT_NAMES.items())
        headers = on(env, "LIMIT_RESPONSE_HEADERS_ENABLED")
        self._telling = Telling(names if headers else (), retry_after=False, body=None)
        self.counters = LimitCounters()
        self.counters.configured([domain.name.encode() for domain in loaded.domains], (), modes)
        generation = Generation({}, Policy(), compile_tree(loaded.domains, Settings()), modes, self._telling)
        clocks = Clocks(lambda: float(NOW), lambda: 0.0)
        self._gate = Gate(generation, Memory(), clocks, Counting(self.counters), new_id=lambda: "0123456789")

    async def ask(self, body: bytes) -> bytes:
        asked = read_limit(body)
        assert not isinstance(asked, str)
        return write_limited(asked, await self._gate.limit(*asked), self._telling)


def on(env: Mapping[str, str], name: str) -> bool:
    return env.get(name) == "true"


def grown(before: Mapping[str, int], after: Mapping[str, int], case: Case, metric: str) -> int:
    start = "ratelimit.service.rate_limit."
    if metric.startswith(start):
        metric = start + reference_cases.domain(case, metric.removeprefix(start))
    return after.get(metric, 0) - before.get(metric, 0)


@pytest.mark.parametrize("case", STEPS, ids=lambda case: str(case["name"]))
async def test_a_case_is_answered_as_the_reference_does(case: Case) -> None:
    """Each step has the reference's codes, limits, rest, reset, headers and counts, but for our listed divergences."""
    service = Service(case)
    for number, step in enumerate(case["steps"]):
        before = dotted(service.counters)
        for _ in range(step.get("repeat", 1)):
            answer = told(await service.ask(request(case, step["request"])))
            assert list(differences(case, number, answer)) == []
        after = dotted(service.counters)
        due = step["expected"].get("metrics_delta", {})
        assert {metric: grown(before, after, case, metric) for metric in due} == due
