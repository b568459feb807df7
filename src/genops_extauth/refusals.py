"""How a refusal is written in each form: its status, header fields and body.

They depend on the reason and the form alone, so they are written once.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote

from genops_extauth.model import Form
from genops_extauth.reasons import Reason
from genops_extauth.refusal_table import DENIALS, Denial

_TEXT = "text/plain; charset=utf-8"
# gRPC over HTTP/2, Status-Message: space to ~ as they are, without %.
_UNQUOTED = "".join(character for character in map(chr, range(0x20, 0x7F)) if character != "%")


class Refusal(NamedTuple):
    """A refusal as it is sent. `code` is google.rpc.Code's and `error` the stable code, for the gateway's log."""

    status: int
    code: int
    error: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@cache
def refusal(reason: Reason, form: Form) -> Refusal:
    """Write a refusal."""
    denial = DENIALS[reason]
    kind, body = _WRITERS[form](denial)
    fields = {"content-type": kind, "cache-control": "no-store"}
    if denial.challenge:
        fields["www-authenticate"] = denial.challenge
    if denial.retry_after:
        fields["retry-after"] = str(denial.retry_after)
    if form == "grpc":
        # Envoy keeps our status, where it would make its own of HTTP's: 429 became UNAVAILABLE, which is tried again.
        fields |= {"grpc-status": str(denial.code), "grpc-message": quote(denial.message, safe=_UNQUOTED)}
    return Refusal(denial.status, denial.code, denial.error, tuple(fields.items()), body)


def _json(denial: Denial) -> tuple[str, bytes]:
    return "application/json", json.dumps({"error": denial.error, "message": denial.message}).encode()


def _problem(denial: Denial) -> tuple[str, bytes]:
    """RFC 9457. The type says that the status is all there is to the kind of problem (4.2.1); `code` tells ours."""
    title = HTTPStatus(denial.status).phrase
    problem = {"type": "about:blank", "title": title, "status": denial.status, "detail": denial.message}
    return "application/problem+json", json.dumps(problem | {"code": denial.error}).encode()


def _plain(denial: Denial) -> tuple[str, bytes]:
    """One line. Envoy makes it the grpc-message of a caller that speaks gRPC."""
    return _TEXT, denial.message.encode()


_WRITERS: Mapping[Form, Callable[[Denial], tuple[str, bytes]]] = MappingProxyType(
    {"json": _json, "problem": _problem, "plain": _plain, "grpc": _plain}
)
