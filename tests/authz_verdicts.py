"""Whether an answer is what a case of vectors/authz.yaml expects; and the invariants that hold after every case."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from envoy_data_plane.envoy.config.core.v3 import HeaderValueOptionHeaderAppendAction as Action
from envoy_data_plane.envoy.service.auth.v3 import CheckResponse, DeniedHttpResponse, OkHttpResponse

from authz_cases import Asked

_VISIBLE = re.compile(r"[\t -~]*")
_ALIAS = str.maketrans("_.", "--")


def invariants(asked: Asked, answer: CheckResponse) -> None:
    """Those of the nine that one answer shows, whatever the case expects."""
    ok, denied = answer.ok_response, answer.denied_response
    assert answer.status is not None, "the status is always written"
    assert (ok is None) != (denied is None), "one half of http_response, and one only"
    if denied is not None:
        assert answer.status.code != 0
        assert denied.status is not None
        assert denied.status.code >= 400
    if ok is not None:
        assert answer.status.code == 0
        _nothing_reserved_passes(asked, ok)
    for name, value in _sent(answer):
        assert _VISIBLE.fullmatch(name)
        assert _VISIBLE.fullmatch(value)
        assert len(value.encode()) <= 256
    text = bytes(answer)
    for credential in asked.credentials:
        assert credential not in text, "the credential came back"


def _nothing_reserved_passes(asked: Asked, ok: OkHttpResponse) -> None:
    set_here = {option.header.key.lower() for option in ok.headers if option.header is not None}
    removed = {name.lower() for name in ok.headers_to_remove}
    assert not set_here & removed
    for name, _ in asked.headers:
        if name.lower().translate(_ALIAS).startswith("x-genops-"):
            assert name.lower() in set_here | removed, name
    for option in ok.headers:
        assert option.append_action == Action.OVERWRITE_IF_EXISTS_OR_ADD


def _sent(answer: CheckResponse) -> list[tuple[str, str]]:
    options = [*(answer.ok_response.headers if answer.ok_response else ())]
    options += [*(answer.denied_response.headers if answer.denied_response else ())]
    return [(option.header.key, option.header.value) for option in options if option.header is not None]


def judge(expect: Mapping[str, Any], answer: CheckResponse) -> None:
    """Compare an answer with what a case expects. Raises AssertionError."""
    allowed = answer.ok_response is not None
    match expect["verdict"]:
        case "allow":
            assert allowed, _why(answer)
        case "deny" | "deny_or_precedence" | "deny_or_error_response":
            assert not allowed
        case "deny_or_sanitised":
            pass
        case other:
            raise AssertionError(f"no such verdict: {other}")
    if allowed:
        assert answer.ok_response is not None
        _judge_grant(expect, answer.ok_response)
    else:
        assert answer.denied_response is not None
        _judge_refusal(expect, answer, answer.denied_response)
    for assertion in expect.get("assertions", ()):
        name, _, argument = assertion.partition(":")
        if name in ASSERTIONS:
            ASSERTIONS[name](answer, argument)


def _why(answer: CheckResponse) -> str:
    return "" if answer.denied_response is None else answer.denied_response.body


def _judge_grant(expect: Mapping[str, Any], ok: OkHttpResponse) -> None:
    told = [(option.header.key, option.header.value) for option in ok.headers if option.header is not None]
    for name, value in expect.get("upstream_headers", {}).items():
        assert [known for key, known in told if key == name] == [value]
    assert set(expect.get("remove", ())) <= set(ok.headers_to_remove)
    assert set(expect.get("not_in_remove", ())).isdisjoint(ok.headers_to_remove)
    assert set(expect.get("not_set", ())).isdisjoint(dict(told))
    for forbidden in expect.get("never_in_header", ()):
        assert not any(forbidden in value for _, value in told)


def _judge_refusal(expect: Mapping[str, Any], answer: CheckResponse, denied: DeniedHttpResponse) -> None:
    assert answer.status is not None
    assert denied.status is not None
    assert answer.status.code in expect.get("status_code", (answer.status.code,))
    assert denied.status.code in expect.get("http_status", (denied.status.code,))
    told = {option.header.key: option.header.value for option in denied.headers if option.header is not None}
    for name, wanted in expect.get("response_headers", {}).items():
        assert re.search(wanted[1:] if wanted.startswith("~") else f"^{re.escape(wanted)}$", told.get(name, "")), name


def _metadata(answer: CheckResponse) -> dict[str, Any]:
    found: dict[str, Any] = answer.dynamic_metadata.to_dict() if answer.dynamic_metadata else {}
    return found


def _metadata_is_text(answer: CheckResponse, names: str) -> None:
    known = _metadata(answer)
    assert {name: type(known[name]) for name in names.split(",")} == dict.fromkeys(names.split(","), str)


def _no_metadata_within(answer: CheckResponse, _: str) -> None:
    assert answer.ok_response is not None
    assert answer.ok_response.dynamic_metadata is None


def _has_metadata(answer: CheckResponse, name: str) -> None:
    assert _metadata(answer)[name]


def _body_is_json(answer: CheckResponse, _: str) -> None:
    assert answer.denied_response is not None
    assert json.loads(answer.denied_response.body)


ASSERTIONS: Mapping[str, Callable[[CheckResponse, str], None]] = {
    "metadata_values_are_strings": _metadata_is_text,
    "ok_response.dynamic_metadata_unset": _no_metadata_within,
    "metadata": _has_metadata,
    "body_is_json": _body_is_json,
}
"""Probes that look at the answer alone. The others look at the process: `test_e2e_authz`."""
