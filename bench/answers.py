"""One answer of every row, judged in full, by clients that share no code with the load: grpcio, and http.client."""

import http.client
from collections.abc import Iterator, Mapping

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.service.auth.v3 as auth
import envoy_data_plane.envoy.service.ratelimit.v3 as ratelimit
import grpc

from bench.load import Address

CHECK = "/envoy.service.auth.v3.Authorization/Check"
LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
PREFIX_SIZE = 5  # gRPC's flag and length before a message
TIMEOUT = 10.0  # seconds


class WrongAnswerError(Exception):
    """Raised when a server answers, and not as the row says: the row has no figures then."""


def empty(address: Address, message: bytes) -> None:
    """The baseline's answer."""
    _expect("an empty message", _call(address, CHECK, message), b"")


def allowed(address: Address, message: bytes, customer: str) -> None:
    """OK, with the customer's id set over anything the client sent."""
    response = auth.CheckResponse.parse(_call(address, CHECK, message))
    if response.ok_response is None:
        raise WrongAnswerError(f"expected ok_response, got {response!r}")
    # An explicit status, though OK is its default; and a message of defaults is false to this library.
    _expect("code OK", None if response.status is None else response.status.code, 0)
    overwrite = core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    overwritten = dict(_headers(response.ok_response.headers, overwrite))
    _expect("the customer's id", overwritten.get("x-genops-customer-id"), customer)
    _expect("the customer's tier", overwritten.get("x-genops-customer-tier"), "premium")


def unauthorized(address: Address, message: bytes) -> None:
    """401 with a challenge."""
    response = auth.CheckResponse.parse(_call(address, CHECK, message))
    denied = response.denied_response
    if denied is None or response.status is None or not response.status.code:
        raise WrongAnswerError(f"expected denied_response and a code that denies, got {response!r}")
    _expect("HTTP status", None if denied.status is None else int(denied.status.code), 401)
    names = {option.header.key.lower() for option in denied.headers if option.header is not None}
    _expect("a challenge", "www-authenticate" in names, expected=True)


def limited(address: Address, premium: bytes, free: bytes) -> None:
    """Premium passes; a free customer with one request an hour passes once, and not twice."""
    codes = [
        ratelimit.RateLimitResponse.parse(_call(address, LIMIT, message)).overall_code
        for message in (premium, free, free)
    ]
    code = ratelimit.RateLimitResponseCode
    _expect("codes", codes, [code.OK, code.OK, code.OVER_LIMIT])


def wide(address: Address, message: bytes, count: int) -> None:
    """Every descriptor passes, and each met a limit."""
    response = ratelimit.RateLimitResponse.parse(_call(address, LIMIT, message))
    _expect("code", response.overall_code, ratelimit.RateLimitResponseCode.OK)
    _expect("limits met", sum(status.current_limit is not None for status in response.statuses), count)


def statuses(address: Address, headers: Iterator[tuple[Mapping[str, str], int]]) -> None:
    """Through Envoy: what each request in turn gets."""
    for sent, expected in headers:
        client = http.client.HTTPConnection(*address, timeout=TIMEOUT)
        client.request("GET", "/v1/models", headers=dict(sent))
        _expect("HTTP status through Envoy", client.getresponse().status, expected)
        client.close()


def _call(address: Address, path: str, message: bytes) -> bytes:
    with grpc.insecure_channel("{}:{}".format(*address)) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        return call(message[PREFIX_SIZE:], timeout=TIMEOUT)


def _headers(
    options: list[core.HeaderValueOption], action: core.HeaderValueOptionHeaderAppendAction
) -> Iterator[tuple[str, str]]:
    for option in options:
        if option.header is not None and option.append_action == action:
            yield option.header.key, option.header.value or option.header.raw_value.decode()


def _expect(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise WrongAnswerError(f"{what}: expected {expected!r}, got {got!r}")
