"""What clients hear of their limits."""

import json
from typing import Any

import pytest

from genops_extauth.limit_headers import refusal_body, response_headers
from genops_extauth.model import UNLIMITED, CurrentLimit, DescriptorStatus, Limited, Quota, Telling

HOURLY, DAILY = CurrentLimit(100, "hour", "free"), CurrentLimit(5000, "day")
PASSED = Limited(
    over=False, statuses=(DescriptorStatus(), DescriptorStatus(limit=HOURLY, remaining=7, reset=36)), told=1
)
REFUSED = Limited(over=True, statuses=(DescriptorStatus(over=True, limit=HOURLY, reset=12),), told=0, retry=60)
NOTHING = Telling(names=(), retry_after=False, body=None)


def told(limited: Limited, **telling: Any) -> dict[str, str]:
    headers = response_headers(limited, Telling(**{"names": (), "retry_after": False, "body": None, **telling}))
    assert len({name for name, _ in headers}) == len(headers)
    return dict(headers)


def test_the_limit_that_is_told_is_told_in_three_fields() -> None:
    """Limit, what is left and the seconds until the reset come in this order, under the names that are configured."""
    names = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")

    assert response_headers(PASSED, Telling(names=names)) == list(zip(names, ("100", "7", "36"), strict=True))


@pytest.mark.parametrize(
    "limited",
    [
        Limited(over=False, statuses=(DescriptorStatus(),)),
        Limited(over=False, statuses=(DescriptorStatus(remaining=UNLIMITED),)),
    ],
    ids=["unmatched", "unlimited"],
)
def test_nothing_is_told_where_no_limit_was_met(limited: Limited) -> None:
    """What matches nothing, or is unlimited, has no header fields."""
    assert response_headers(limited, Telling(ietf=True)) == []


def test_nothing_is_told_that_is_switched_off() -> None:
    """Without names no limit is told; the other fields have switches of their own; a pass has none of them."""
    assert response_headers(PASSED, NOTHING) == response_headers(REFUSED, NOTHING) == []
    assert told(REFUSED, retry_after=True) == {"retry-after": "60"}
    assert told(PASSED, retry_after=True, body="json") == {}


def test_ietf_fields_tell_every_limit() -> None:
    """RateLimit-Policy and RateLimit have a member for each limit that was met, named alike; unnamed ones by place."""
    statuses = (
        DescriptorStatus(limit=HOURLY, remaining=7, reset=36),
        DescriptorStatus(),
        DescriptorStatus(limit=DAILY, remaining=4999, reset=18),
    )
    fields = told(Limited(over=False, statuses=statuses, told=0), ietf=True)

    assert fields == {
        "ratelimit-policy": '"free";q=100;w=3600, "limit-3";q=5000;w=86400',
        "ratelimit": '"free";r=7;t=36, "limit-3";r=4999;t=18',
    }


def test_ietf_windows_are_whole_periods() -> None:
    """A limit of several units has a window as long as all of them."""
    status = DescriptorStatus(limit=CurrentLimit(5, "second", periods=30), remaining=4, reset=6)

    assert told(Limited(over=False, statuses=(status,), told=0), ietf=True)["ratelimit-policy"] == '"limit-1";q=5;w=30'


@pytest.mark.parametrize(
    ("name", "written"),
    [("a b", '"a b"'), ('a"b\\', r'"a\"b\\"'), ("käse\r\nx: y", '"ksex: y"'), ("é", '"limit-1"')],
    ids=["space", "escapes", "controls", "nothing left"],
)
def test_names_are_strings_that_a_field_may_hold(name: str, written: str) -> None:
    """A policy's name is a String of RFC 9651: printable ASCII, quotes and backslashes escaped, never a new line."""
    status = DescriptorStatus(limit=CurrentLimit(5, "hour", name), remaining=4, reset=6)

    assert told(Limited(over=False, statuses=(status,), told=0), ietf=True)["ratelimit"] == f"{written};r=4;t=6"


def test_the_body_of_a_refusal_in_json() -> None:
    """The JSON body says which limit it was and when to come again, and is declared as JSON."""
    assert told(REFUSED, body="json") == {"content-type": "application/json"}
    assert json.loads(refusal_body(REFUSED, Telling(body="json"))) == {
        "error": "rate_limited",
        "message": "API rate limit exceeded for your tier",
        "limit": 100,
        "retry_after": 60,
    }


@pytest.mark.parametrize(
    ("unit", "word"), [("day", "Daily"), ("week", "Weekly"), ("month", "Monthly"), ("year", "Yearly")]
)
def test_the_body_of_an_exhausted_quota(unit: Any, word: str) -> None:
    """A calendar's quota has the GenOps gateway guide's body: how much it was, and when it renews."""
    exhausted = REFUSED._replace(quota=Quota(unit, "2026-12-01T00:00:00+01:00"))

    assert json.loads(refusal_body(exhausted, Telling(body="json"))) == {
        "error": "quota_exceeded",
        "message": f"{word} request quota exceeded",
        "quota_limit": 100,
        "quota_remaining": 0,
        "quota_reset": "2026-12-01T00:00:00+01:00",
    }


@pytest.mark.parametrize(
    ("body", "declared"),
    [
        ("später", "text/plain; charset=utf-8"),
        ("429", "text/plain; charset=utf-8"),
        ('{"error": "später"}', "application/json"),
        ("", None),
    ],
)
@pytest.mark.parametrize("configured", [None, "json", "slow down"])
def test_a_limit_of_its_own_words(body: str, declared: str | None, configured: str | None) -> None:
    """A limit's own body goes before the configured one, as it is, and is declared as what it is: JSON, or text."""
    own = REFUSED._replace(body=body.encode())

    assert refusal_body(own, Telling(body=configured)) == body.encode()
    assert told(own, body=configured).get("content-type") == declared


@pytest.mark.parametrize(("body", "written"), [(None, b""), ("slow down", b"slow down")])
def test_a_configured_body(body: str | None, written: bytes) -> None:
    """The configured text is the body of every refusal, or there is none."""
    assert refusal_body(REFUSED, Telling(body=body)) == written
