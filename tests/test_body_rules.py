"""Rules on the AI request in a body."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.body_rules import BodyRules, models
from genops_extauth.model import Denied, Request
from genops_extauth.reasons import Reason

RULES = BodyRules({"free": models(("small-*", "tiny")), "premium": models(("*",))}, {"free": 1000, "premium": 10_000})
GOOD = {"model": "small-1", "max_tokens": 1000, "messages": [{"role": "user", "content": "{}"}], "stream": True}


def judged(body: object, tier: str = "free", rules: BodyRules = RULES, /, **headers: bytes) -> Denied | None:
    sent = {"content-type": b"application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    return rules.refusal(Request("POST", "/v1", "", sent, body=data), tier)


def reason(denied: Denied | None) -> Reason | None:
    return None if denied is None else denied.reason


def test_a_request_within_the_rules_passes() -> None:
    """A whole JSON object with an admitted model and no more tokens than the cap passes."""
    assert judged(GOOD) is None
    assert judged(GOOD, content_length=b"%d" % len(json.dumps(GOOD))) is None
    assert judged(GOOD, x_envoy_auth_partial_body=b"false", content_encoding=b"identity") is None


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (None, {}, Reason.BODY_MISSING),
        (b"", {}, Reason.BODY_MISSING),
        (GOOD, {"x_envoy_auth_partial_body": b"true"}, Reason.BODY_TRUNCATED),
        (GOOD, {"x_envoy_auth_partial_body": b"false,true"}, Reason.BODY_TRUNCATED),
        (GOOD, {"content_length": b"100000"}, Reason.BODY_TRUNCATED),
        (GOOD, {"content_length": b"3"}, Reason.BODY_MALFORMED),
        (GOOD, {"content_length": b"3,3"}, Reason.BODY_MALFORMED),
        (GOOD, {"content_length": b"+3"}, Reason.BODY_MALFORMED),
        (GOOD, {"content_encoding": b"gzip"}, Reason.BODY_MALFORMED),
        (GOOD, {"content_type": b""}, Reason.BODY_MALFORMED),
        (GOOD, {"content_type": b"text/plain"}, Reason.BODY_MALFORMED),
        (GOOD, {"content_type": b"application/json; charset=utf-16"}, Reason.BODY_MALFORMED),
        (GOOD, {"content_type": b"application/json,text/plain"}, Reason.BODY_MALFORMED),
        (b'{"model":"small-1","model":"big"}', {}, Reason.BODY_MALFORMED),
        (b'{"model":"small-1","a":{"b":1,"b":2}}', {}, Reason.BODY_MALFORMED),
        (b'{"model":"gpt', {}, Reason.BODY_MALFORMED),
        (b"model=small-1", {}, Reason.BODY_MALFORMED),
        (b'["small-1"]', {}, Reason.BODY_MALFORMED),
        (json.dumps(GOOD).encode("utf-16"), {}, Reason.BODY_MALFORMED),
    ],
)
def test_a_body_that_parsers_may_read_differently_is_refused(
    body: object, headers: dict[str, bytes], expected: Reason
) -> None:
    """A body that is missing, cut off, compressed, or not one strict JSON object never passes a rule."""
    assert reason(judged(body, **headers)) is expected


@pytest.mark.parametrize(
    "kind", [b"application/json", b"Application/JSON; charset=UTF-8", b'application/vnd.api+json;charset="utf-8"']
)
def test_json_has_several_names(kind: bytes) -> None:
    """JSON's media type, those that end in +json, and the one charset that JSON has are understood."""
    assert judged(GOOD, content_type=kind) is None


@pytest.mark.parametrize("name", ["MODEL", "Model", "MAX_TOKENS", "max_token\u017f", "max_to\u212aens", "N"])
def test_a_member_in_another_spelling_is_refused(name: str) -> None:
    """A name that a parser without regard to case takes for one of ours is that member twice."""
    assert judged(GOOD | {name: "x"}) == Denied(Reason.BODY_MALFORMED, "a member in another spelling")


@pytest.mark.parametrize(
    ("model", "tier", "expected"),
    [
        ("tiny", "free", None),
        ("small-", "free", None),
        ("tiny2", "free", Reason.MODEL_NOT_ADMITTED),
        ("xsmall-1", "free", Reason.MODEL_NOT_ADMITTED),
        ("Small-1", "free", Reason.MODEL_NOT_ADMITTED),
        ("big", "premium", None),
        ("small-1", "unheard-of", Reason.MODEL_NOT_ADMITTED),
        ("small-1", "", Reason.MODEL_NOT_ADMITTED),
        ("", "premium", Reason.BODY_MALFORMED),
        ("small-1\n", "free", Reason.BODY_MALFORMED),
        (None, "premium", Reason.BODY_MALFORMED),
        (["small-1"], "premium", Reason.BODY_MALFORMED),
        ("s" * 257, "premium", Reason.BODY_MALFORMED),
    ],
)
def test_a_tier_has_its_models(model: object, tier: str, expected: Reason | None) -> None:
    """The model is one of the tier's, whole or by its beginning; a tier without an entry has none."""
    assert reason(judged(GOOD | {"model": model, "max_tokens": 1}, tier)) is expected


def test_a_star_stands_for_the_other_tiers() -> None:
    """The entry of * is that of tiers without their own, and of no tier that has one."""
    rules = BodyRules({"*": models(("open",)), "free": models(("tiny",))}, {"*": 10})

    assert judged({"model": "open", "max_tokens": 10}, "gold", rules) is None
    assert reason(judged({"model": "open", "max_tokens": 11}, "gold", rules)) is Reason.MAX_TOKENS_EXCEEDED
    assert reason(judged({"model": "open", "max_tokens": 10}, "free", rules)) is Reason.MODEL_NOT_ADMITTED


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"max_tokens": 1000}, None),
        ({"max_tokens": 1001}, Reason.MAX_TOKENS_EXCEEDED),
        ({"max_completion_tokens": 1000}, None),
        ({"max_output_tokens": 1001}, Reason.MAX_TOKENS_EXCEEDED),
        ({"max_tokens": 1, "max_completion_tokens": 1001}, Reason.MAX_TOKENS_EXCEEDED),
        ({"max_tokens": 500, "n": 2}, None),
        ({"max_tokens": 501, "n": 2}, Reason.MAX_TOKENS_EXCEEDED),
        ({"max_tokens": 501, "best_of": 2}, Reason.MAX_TOKENS_EXCEEDED),
        ({"max_tokens": 1000, "n": None}, None),
        ({}, Reason.MAX_TOKENS_EXCEEDED),
        ({"max_tokens": None}, Reason.MAX_TOKENS_EXCEEDED),
        ({"max_tokens": 0}, Reason.BODY_MALFORMED),
        ({"max_tokens": -1}, Reason.BODY_MALFORMED),
        ({"max_tokens": True}, Reason.BODY_MALFORMED),
        ({"max_tokens": 10.0}, Reason.BODY_MALFORMED),
        ({"max_tokens": "10"}, Reason.BODY_MALFORMED),
        ({"max_tokens": [10]}, Reason.BODY_MALFORMED),
        ({"max_tokens": 10, "n": 0.5}, Reason.BODY_MALFORMED),
        ({"max_tokens": 10**400}, Reason.MAX_TOKENS_EXCEEDED),
    ],
)
def test_tokens_are_capped(said: dict[str, object], expected: Reason | None) -> None:
    """What may be generated in all must be said, as whole numbers, and be within the tier's cap."""
    assert reason(judged({"model": "tiny", **said})) is expected


def test_a_tier_without_a_cap_says_what_it_likes() -> None:
    """A cap is a tier's own; one that has none is not asked for a number of tokens."""
    rules = BodyRules({}, {"free": 10})

    assert judged({"max_tokens": "many"}, "premium", rules) is None


def test_the_field_that_the_service_obeys_must_be_there() -> None:
    """Another field is no way around the cap, where the route says which one the service obeys."""
    rules = BodyRules({}, {"free": 10}, ("max_tokens",))

    assert reason(judged({"max_output_tokens": 10}, "free", rules)) is Reason.MAX_TOKENS_EXCEEDED
    assert judged({"max_output_tokens": 10, "max_tokens": 10}, "free", rules) is None


@given(st.binary(max_size=60) | st.text(max_size=30).map(lambda text: json.dumps({"model": text}).encode()))
def test_nothing_but_admitted_models_passes(body: bytes) -> None:
    """Whatever bytes come, they pass only as an object with an admitted model, and never raise."""
    rules = BodyRules({"free": models(("small-*", "tiny"))}, {})
    if judged(body, "free", rules) is None:
        model = json.loads(body)["model"]
        assert model == "tiny" or model.startswith("small-")
