"""The limiter from bytes to bytes against a second one, written from the contract alone (`limit_model`)."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from envoy_data_plane.envoy.extensions.common.ratelimit.v3 import (
    RateLimitDescriptor,
    RateLimitDescriptorEntry,
    RateLimitDescriptorRateLimitOverride,
)
from envoy_data_plane.envoy.service.ratelimit.v3 import RateLimitRequest, RateLimitResponse
from envoy_data_plane.envoy.type.v3 import RateLimitUnit
from hypothesis import given, settings
from hypothesis import strategies as st

from genops_extauth.declared import Descriptor, Domain, Limit
from genops_extauth.gate import Clocks, Decided, Gate, Generation
from genops_extauth.hits import Answer, Book, Hit
from genops_extauth.limit_compiler import compile_tree
from genops_extauth.limit_messages import read_limit, write_limited
from genops_extauth.limit_rules import Settings
from genops_extauth.model import Json, Telling
from genops_extauth.policy import Policy
from genops_extauth.quota import Modes, would_refuse
from limit_model import CHARGE, Model, Question, Told, Verdict, window

NOW = 1_795_514_430_250_000  # a Tuesday, a quarter into a second

KEYS = ["a", "b", "a_x"]
VALUES = ["x", "y", "x_y", ""]
PATTERNS = ["*", "x*", "*y"]
# Whole numbers of tokens whatever the size of the bucket was before: a change of size moves nobody by a rounding.
REQUESTS = st.sampled_from([1, 2, 2, 0, 4, 5])
NAMES = st.sampled_from(["", "", "n", "m"])
METADATA: st.SearchStrategy[dict[str, Json] | None] = st.sampled_from(
    [None, {}, {"a": {"b": 1}}, {"a": {"c": [True]}, "d": "e"}, {"a": 2}]
)


def limits() -> st.SearchStrategy[Limit]:
    common = {
        "requests": REQUESTS,
        "name": NAMES,
        "replaces": st.sampled_from([(), (), (), ("n",), ("m",)]),
        "charge": st.sampled_from(["request", "request", "response"]),
        "allow_refund": st.booleans(),
        "body": st.sampled_from([None, "slower"]),
    }
    # Descriptors bring along limits per second or day: in no other unit is a bucket's size another than its limit.
    plain = st.builds(Limit, unit=st.sampled_from(["second", "day"]), **common)
    burst = st.builds(Limit, unit=st.just("hour"), burst=st.sampled_from([0, 1, 3, 7]), **common)
    periods = st.builds(Limit, unit=st.just("week"), periods=st.integers(1, 3), **common)
    algorithms = st.sampled_from(["fixed_window", "sliding_window"])
    windows = st.builds(Limit, unit=st.sampled_from(["second", "minute"]), algorithm=algorithms, **common)
    calendars = st.sampled_from(["day", "week", "month", "year"])
    quotas = st.builds(Limit, unit=calendars, calendar=st.just("UTC"), **common)
    unlimited = st.builds(Limit, unlimited=st.just(value=True), name=NAMES, replaces=common["replaces"])
    return st.one_of(plain, plain, burst, periods, windows, quotas, unlimited).filter(_is_possible)


def _is_possible(limit: Limit) -> bool:
    return (limit.requests > 0 or not limit.burst) and limit.name not in limit.replaces


def several(number: int) -> st.SearchStrategy[tuple[Limit, ...]]:
    return st.lists(limits(), min_size=number, max_size=number, unique_by=window).map(tuple)


def descriptors(
    least: int, most: int, below: st.SearchStrategy[tuple[Descriptor, ...]]
) -> st.SearchStrategy[tuple[Descriptor, ...]]:
    made = st.builds(
        Descriptor,
        key=st.sampled_from([*KEYS, *KEYS, "a*"]),
        value=st.sampled_from(["", *VALUES, *PATTERNS]),
        limits=st.one_of(several(1), several(1), several(2), several(0)),
        shadow_mode=rarely,
        quota_mode=st.booleans(),
        share_threshold=st.booleans(),
        metadata=METADATA,
        descriptors=below,
    )
    shared = made.map(lambda each: each if "*" in each.value else replace(each, share_threshold=False))
    return st.lists(shared, min_size=least, max_size=most, unique_by=lambda each: (each.key, each.value)).map(tuple)


rarely = st.sampled_from([False] * 6 + [True])
domains = st.builds(Domain, st.just("d"), descriptors(1, 4, descriptors(0, 2, st.just(()))), backtracking=st.booleans())

places = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(VALUES)), min_size=1, max_size=2)
strays = st.one_of(st.just(()), st.just(()), st.tuples(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES))))


def path(domain: Domain, place: Sequence[tuple[int, str]]) -> tuple[tuple[str, str], ...]:
    """Entries that lead to a place in the tree; `place` chooses the steps, and what stands for stars."""
    entries: list[tuple[str, str]] = []
    below = domain.descriptors
    for index, fill in place:
        if below:
            node = below[index % len(below)]
            entries.append((node.key.replace("*", "_x"), node.value.replace("*", fill) or fill))
            below = node.descriptors
    return tuple(entries)


Asked = tuple[str, list[Question], int]
"""A domain, descriptors, hits_addend."""

costs = st.one_of(st.none(), st.integers(0, 2), st.integers(0, 5))
overrides = st.tuples(REQUESTS, st.sampled_from(["second", "day"]))


questions = st.tuples(places, strays, rarely, costs, st.one_of(st.none(), st.none(), st.none(), overrides))
requests = st.tuples(
    st.sampled_from(["d"] * 15 + ["unknown"]),
    st.lists(questions, min_size=1, max_size=3),
    st.sampled_from([0, 0, 1, 3]),
    rarely,  # refunds, all of it: beside what is taken from the same bucket they have no meaning
)


def asked(domain: Domain, request: Any) -> Asked:
    name, drawn, addend, refund = request
    made = [
        Question(((CHARGE,) if charge else ()) + path(domain, place) + stray, hits, refund, override)
        for place, stray, charge, hits, override in drawn
    ]
    return name, made, addend


def written(domain: str, questions: Sequence[Question], addend: int) -> bytes:
    return bytes(
        RateLimitRequest(domain=domain, descriptors=[_descriptor(each) for each in questions], hits_addend=addend)
    )


def _descriptor(question: Question) -> RateLimitDescriptor:
    override = None
    if question.override is not None:
        requests, unit = question.override
        override = RateLimitDescriptorRateLimitOverride(requests_per_unit=requests, unit=RateLimitUnit[unit.upper()])
    return RateLimitDescriptor(
        entries=[RateLimitDescriptorEntry(key=key, value=value) for key, value in question.entries],
        hits_addend=question.hits,
        is_negative_hits=question.refund,
        limit=override,
    )


def read(answer: bytes) -> Verdict:
    response = RateLimitResponse.parse(answer)
    statuses = []
    for status in response.statuses:
        limit, reset = status.current_limit, status.duration_until_reset
        statuses.append(
            Told(
                status.code.name == "OVER_LIMIT",
                None if limit is None else (limit.requests_per_unit, limit.unit.name.lower(), limit.name),
                status.limit_remaining,
                None if reset is None else int(reset.total_seconds()),
            )
        )
    assert response.dynamic_metadata is not None
    return Verdict(
        response.overall_code.name == "OVER_LIMIT",
        statuses,
        [(header.key, header.value) for header in response.response_headers_to_add],
        response.raw_body.decode(),
        response.dynamic_metadata.to_dict().get("metadata", {}),
    )


class Memory:
    """The reference's buckets at a clock that stands still, as a store."""

    def __init__(self) -> None:
        self._book = Book()

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        assert within is None
        return self._book.transact(hits, NOW)


class Seen:
    """An observer that keeps the last decision; a defect is raised."""

    decided: Decided

    def checked(self, _: object) -> None: ...

    def limited(self, decided: Decided) -> None:
        self.decided = decided

    def store_failed(self, error: Exception) -> None:
        raise error

    failed = store_failed


TELLING = Telling(body=None, metadata=True)


def gate_of(domain: Domain, modes: Modes, seen: Seen) -> Gate:
    generation = Generation({}, Policy(), compile_tree([domain], Settings()), modes, TELLING)
    clocks = Clocks(lambda: NOW / 1e6, lambda: 0.0)
    return Gate(generation, Memory(), clocks, seen, new_id=lambda: "0123456789")


async def answered(gate: Gate, body: bytes) -> Verdict:
    request = read_limit(body)
    assert not isinstance(request, str)
    return read(write_limited(request, await gate.limit(*request), TELLING))


modes = st.builds(Modes, shadow=rarely, quota=rarely, metadata=st.just(value=True))


@given(domains, st.lists(requests, min_size=1, max_size=3), st.lists(st.integers(0, 2), min_size=3, max_size=10), modes)
@settings(max_examples=200)
def test_the_limiter_decides_as_the_contract_says(
    domain: Domain, drawn: list[Any], order: list[int], modes: Modes
) -> None:
    """Whatever is configured and asked: codes, limits, what is left, headers, bodies, metadata are the contract's."""
    seen = Seen()
    model = Model({domain.name: domain}, NOW, shadow=modes.shadow, quota=modes.quota)
    gate = gate_of(domain, modes, seen)

    async def run() -> None:
        for number in order:
            each = asked(domain, drawn[number % len(drawn)])
            due = model.ask(*each)
            assert await answered(gate, written(*each)) == due
            assert would_refuse(seen.decided.counted, seen.decided.matches, modes) == model.refused

    asyncio.run(run())
