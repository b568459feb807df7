"""The shared conformance cases of envoyproxy/ratelimit, asked of a running sidecar over gRPC.

Cases of one environment run in one sidecar: each has its own domains (the names are prefixed), and so its own buckets.
Where our answer differs from the reference on purpose (docs/ratelimit.md), `DIVERGENCES` says what it is.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from envoy_data_plane.envoy.extensions.common.ratelimit.v3 import (
    RateLimitDescriptor,
    RateLimitDescriptorEntry,
    RateLimitDescriptorRateLimitOverride,
)
from envoy_data_plane.envoy.service.ratelimit.v3 import RateLimitRequest, RateLimitResponse
from envoy_data_plane.envoy.type.v3 import RateLimitUnit

Case = dict[str, Any]

CASES: list[Case] = yaml.safe_load((Path(__file__).parent / "vectors" / "ratelimit.yaml").read_text())["cases"]

# What the reference decides by its algorithm or by accident, and we decide otherwise.
SKIPPED = {
    "match_composite_key_ambiguity": "(a=b) never meets a rule of the key a_b",
    "error_no_config_loaded": "a sidecar without a valid configuration does not start (exit code 2)",
}
DIVERGENCES: Mapping[str, Mapping[int, Mapping[str, Any]]] = {
    # A refused request takes nothing, so one more fits afterwards.
    "denied_hits_are_consumed": {2: {"overall_code": "OK", "code": "OK", "limit_remaining": 1}},
    "quota_mixed_all_quota_over_denies": {1: {"limit_remaining": 99}},
    # Another limit keeps the share that was spent: all of it, here.
    "override_shares_counter_with_configured_same_unit": {
        1: {"overall_code": "OVER_LIMIT", "code": "OVER_LIMIT", "limit_remaining": 0}
    },
}


def domain(case: Case, name: str) -> str:
    """The domain of a case in the sidecar that all cases share."""
    return f"{CASES.index(case)}-{name}" if name else ""


def files(cases: list[Case]) -> Iterator[tuple[str, str]]:
    """The cases' files, each domain's name prefixed; refunds are allowed where a case asks for them."""
    for case in cases:
        for file in case["config"]:
            text = re.sub(r"(?m)^domain: *(\S+)", lambda found: f"domain: {domain(case, found[1])}", file["yaml"])  # noqa: B023 - used at once
            if "negative_hits" in case["tags"]:
                text = text.replace("requests_per_unit:", "allow_refund: true, requests_per_unit:")
            yield f"{CASES.index(case)}-{file['file']}", text


def request(case: Case, asked: Mapping[str, Any]) -> bytes:
    """A step's request, encoded by a library that shares nothing with ours."""
    count = len(asked["descriptors"])
    addends = asked.get("descriptor_hits_addends", [None] * count)
    limits = asked.get("descriptor_limits", [None] * count)
    negative = asked.get("descriptor_is_negative_hits", [False] * count)
    descriptors = [
        RateLimitDescriptor(
            entries=[RateLimitDescriptorEntry(key=entry["key"], value=entry.get("value", "")) for entry in entries],
            hits_addend=addends[place],
            is_negative_hits=bool(negative[place]),
            limit=None
            if limits[place] is None
            else RateLimitDescriptorRateLimitOverride(
                requests_per_unit=limits[place]["requests_per_unit"], unit=RateLimitUnit[limits[place]["unit"]]
            ),
        )
        for place, entries in enumerate(asked["descriptors"])
    ]
    message = RateLimitRequest(
        domain=domain(case, asked["domain"]), descriptors=descriptors, hits_addend=asked.get("hits_addend") or 0
    )
    return bytes(message)


def told(answer: bytes) -> dict[str, Any]:
    """An answer in the cases' own words."""
    response = RateLimitResponse.parse(answer)
    statuses = []
    for status in response.statuses:
        limit = status.current_limit
        current = None
        if limit is not None:
            current = {"requests_per_unit": limit.requests_per_unit, "unit": limit.unit.name}
            current |= {"name": limit.name} if limit.name else {}
        reset = status.duration_until_reset
        seconds = None if reset is None else int(reset.total_seconds())
        statuses.append(
            {
                "code": status.code.name,
                "current_limit": current,
                "limit_remaining": status.limit_remaining,
                "reset": seconds,
            }
        )
    return {
        "overall_code": response.overall_code.name,
        "statuses": statuses,
        "headers": [(header.key, header.value) for header in response.response_headers_to_add],
    }


def differences(case: Case, step: int, answer: Mapping[str, Any]) -> Iterator[str]:
    """What an answer should have been, where it is another."""
    expected = case["steps"][step]["expected"]
    changed = DIVERGENCES.get(case["name"], {}).get(step, {})
    if answer["overall_code"] != changed.get("overall_code", expected["overall_code"]):
        yield f"overall_code {answer['overall_code']}, not {expected['overall_code']}"
    if len(answer["statuses"]) != len(expected["statuses"]):
        yield f"{len(answer['statuses'])} statuses, not {len(expected['statuses'])}"
    for place, (mine, other) in enumerate(zip(answer["statuses"], expected["statuses"], strict=False)):
        due = {**other, **(changed if place == 0 else {})}
        for name in ("code", "current_limit", "limit_remaining"):
            if mine[name] != due[name]:
                yield f"status {place}: {name} {mine[name]!r}, not {due[name]!r}"
        if not _resets(mine["reset"], due["reset"]):
            yield f"status {place}: reset {mine['reset']}, not {due['reset']}"
    if "response_headers_to_add" in expected:
        yield from _headers(answer["headers"], expected["response_headers_to_add"])


def _resets(mine: int | None, due: Mapping[str, int] | None) -> bool:
    if due is None or mine is None:
        return mine is None and due is None
    return 0 <= mine <= due["max"]  # the reference says at least 1; a full bucket has nothing to wait for


def _headers(mine: list[tuple[str, str]], due: list[dict[str, Any]]) -> Iterator[str]:
    if [name for name, _ in mine] != [header["key"] for header in due]:
        yield f"headers {mine}, not {due}"
        return
    for (name, value), header in zip(mine, due, strict=True):
        if "value" in header and value != header["value"]:
            yield f"{name}: {value}, not {header['value']}"
        if "value_int_range" in header and not 0 <= int(value) <= header["value_int_range"][1]:
            yield f"{name}: {value}, not within {header['value_int_range']}"
