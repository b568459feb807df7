"""What clients hear of their limits: header fields, and the body of a refusal."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

from genops_extauth.model import CurrentLimit, DescriptorStatus, Limited, Telling, Unit
from genops_extauth.notation import PERIODS

_PERIODICAL: Mapping[Unit, str] = MappingProxyType(
    {"day": "Daily", "week": "Weekly", "month": "Monthly", "year": "Yearly"}
)


def response_headers(limited: Limited, telling: Telling) -> list[tuple[str, str]]:
    """The header fields of an answer: of one limit (`Limited.told`), and when to come again."""
    headers: list[tuple[str, str]] = []
    if limited.told is not None:
        _, limit, remaining, reset = limited.statuses[limited.told]
        if telling.names and limit is not None:
            first, second, third = telling.names
            headers += (first, str(limit.requests_per_unit)), (second, str(remaining)), (third, str(reset))
        if telling.ietf:
            headers += _ietf(limited)
    if limited.over:
        if telling.retry_after:  # RFC 9110, 10.2.3; RFC 6585, 4
            headers.append(("retry-after", str(limited.retry)))
        if limited.body:
            headers.append(("content-type", _type(limited.body)))
        elif telling.body == "json" and limited.body is None:
            headers.append(("content-type", "application/json"))
    return headers


@lru_cache(maxsize=256)
def _type(body: bytes) -> str:
    try:
        is_json = isinstance(json.loads(body), dict | list)
    except (ValueError, RecursionError):
        is_json = False
    return "application/json" if is_json else "text/plain; charset=utf-8"


def refusal_body(limited: Limited, telling: Telling) -> bytes:
    """Return the body of a refusal: its limit's own, or what the configuration says; empty where that is nothing."""
    if limited.body is not None:
        return limited.body
    if telling.body == "json":
        return json.dumps(_document(limited), separators=(",", ":")).encode()
    return (telling.body or "").encode()


def _document(limited: Limited) -> dict[str, object]:
    status = limited.statuses[limited.told] if limited.told is not None else DescriptorStatus()
    requests = 0 if status.limit is None else status.limit.requests_per_unit
    if limited.quota is not None:  # as the GenOps gateway guide has it
        return {
            "error": "quota_exceeded",
            "message": f"{_PERIODICAL[limited.quota.unit]} request quota exceeded",
            "quota_limit": requests,
            "quota_remaining": 0,
            "quota_reset": limited.quota.renews,
        }
    return {
        "error": "rate_limited",
        "message": "API rate limit exceeded for your tier",
        "limit": requests,
        "retry_after": limited.retry,
    }


def _ietf(limited: Limited) -> Iterator[tuple[str, str]]:
    """RateLimit-Policy and RateLimit, every limit that was met (draft-ietf-httpapi-ratelimit-headers-10, 3 and 4)."""
    met = [
        (_policy(place, status.limit), status.limit, status)
        for place, status in enumerate(limited.statuses)
        if status.limit is not None
    ]
    policies = (f"{name};q={limit.requests_per_unit};w={_window(limit)}" for name, limit, _ in met)
    yield "ratelimit-policy", ", ".join(policies)
    yield "ratelimit", ", ".join(f"{name};r={status.remaining};t={status.reset}" for name, _, status in met)


def _policy(place: int, limit: CurrentLimit) -> str:
    """A String of RFC 9651, 3.3.3, which is printable ASCII: the limit's name, or its place."""
    name = "".join(char for char in limit.name if " " <= char <= "~") or f"limit-{place + 1}"
    return json.dumps(name)  # which escapes of ASCII what a String does: quotes and backslashes


def _window(limit: CurrentLimit) -> int:
    return limit.length or PERIODS[limit.unit] * limit.periods
