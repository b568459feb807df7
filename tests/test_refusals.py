"""What refused clients are told, in each form."""

import json
import re
from typing import get_args
from urllib.parse import unquote

import pytest

from genops_extauth.model import Form
from genops_extauth.reasons import Reason
from genops_extauth.refusal_table import DENIALS
from genops_extauth.refusals import refusal

each_reason = pytest.mark.parametrize("reason", Reason)
each_form = pytest.mark.parametrize("form", get_args(Form))

_PARAMETER = r'[a-z_]+="[^"\\\x00-\x1f]*"'
_CHALLENGE = re.compile(rf"[A-Za-z]+ {_PARAMETER}(, {_PARAMETER})*")  # RFC 9110, 11.6.1


def test_every_reason_has_its_denial() -> None:
    """There is no reason that a client is not told anything about."""
    assert set(DENIALS) == set(Reason)


@each_reason
@each_form
def test_fields_are_well_formed(reason: Reason, form: Form) -> None:
    """Statuses are errors, names are distinct and in lower case, values are visible ASCII, and nothing is stored."""
    written = refusal(reason, form)
    fields = dict(written.headers)

    assert 400 <= written.status < 600
    assert 0 < written.code <= 16
    assert re.fullmatch(r"[a-z_]+", written.error)
    assert len(fields) == len(written.headers)
    assert all(re.fullmatch(r"[a-z-]+", name) and re.fullmatch(r"[!-~][ -~]*", text) for name, text in fields.items())
    assert fields["cache-control"] == "no-store"
    assert len(written.body) < 1024
    assert b"\n" not in written.body


@each_reason
def test_our_json_says_code_and_sentence(reason: Reason) -> None:
    """The usual body is an object of a stable code and a sentence."""
    written, denial = refusal(reason, "json"), DENIALS[reason]

    assert dict(written.headers)["content-type"] == "application/json"
    assert json.loads(written.body) == {"error": denial.error, "message": denial.message}


@each_reason
def test_a_problem_is_one_of_rfc_9457(reason: Reason) -> None:
    """A problem has RFC 9457's members, its status is the response's, and the stable code is an extension of it."""
    written, denial = refusal(reason, "problem"), DENIALS[reason]
    problem = json.loads(written.body)

    assert dict(written.headers)["content-type"] == "application/problem+json"
    assert problem.keys() == {"type", "title", "status", "detail", "code"}
    assert (problem["type"], problem["status"], problem["code"]) == ("about:blank", written.status, denial.error)


@each_reason
def test_plain_is_a_sentence(reason: Reason) -> None:
    """Plain text is the sentence alone."""
    written = refusal(reason, "plain")

    assert dict(written.headers)["content-type"].startswith("text/plain")
    assert written.body.decode() == DENIALS[reason].message


@each_reason
def test_grpc_callers_get_a_status(reason: Reason) -> None:
    """Callers that speak gRPC get its status and message, encoded, beside HTTP's status and a body of one line."""
    written = refusal(reason, "grpc")
    fields = dict(written.headers)

    assert fields["grpc-status"] == str(written.code)
    assert re.fullmatch(r"(?:[ -$&-~]|%[0-9A-F]{2})+", fields["grpc-message"])
    assert unquote(fields["grpc-message"]) == written.body.decode() == DENIALS[reason].message
    assert written.status == DENIALS[reason].status


@each_reason
@each_form
def test_a_401_has_a_challenge(reason: Reason, form: Form) -> None:
    """Every 401 says how to authenticate (RFC 9110, 15.5.2); the error of a challenge is one of RFC 6750's."""
    written = refusal(reason, form)
    challenge = dict(written.headers).get("www-authenticate")

    assert written.status != 401 or challenge is not None
    if challenge is not None:
        assert _CHALLENGE.fullmatch(challenge)
        assert challenge.startswith('Bearer realm="genops"')
        errors = re.findall(r'error="(\w+)"', challenge)
        assert set(errors) <= {"invalid_token", "insufficient_scope"}
        assert (written.status == 403) == (errors == ["insufficient_scope"])


@each_reason
def test_who_may_try_again_is_told_when(reason: Reason) -> None:
    """A 429 and a 503 say after how many seconds it is worth another try; nothing else does."""
    written = refusal(reason, "json")
    after = dict(written.headers).get("retry-after", "")

    assert bool(re.fullmatch("[1-9][0-9]*", after)) is (written.status in (429, 503))


def test_all_bad_tokens_get_one_answer() -> None:
    """Which check a token failed is not told."""
    bad = {refusal(reason, "json") for reason in Reason if reason.startswith("token_")}

    assert len(bad) == 1


def test_all_bad_keys_get_one_answer() -> None:
    """Whether a key was known, expired or revoked is not told."""
    bad = {refusal(reason, "json") for reason in Reason if reason.startswith("api_key_")}

    assert bad - {refusal(Reason.API_KEY_GUESSED, "json")} == {refusal(Reason.API_KEY_UNKNOWN, "json")}
