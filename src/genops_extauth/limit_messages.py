"""RateLimitRequest -> descriptors, Limited -> RateLimitResponse (envoy/service/ratelimit/v3/rls.proto)."""

from functools import lru_cache
from operator import attrgetter

from google.protobuf.message import DecodeError

from genops_extauth._pb import rls_pb2 as rls
from genops_extauth.model import CurrentLimit, Descriptor, DescriptorStatus, Limited
from genops_extauth.wire import field, number

_UINT32_MAX = 2**32 - 1
# A route has a handful; a store runs all of a request in one script, and serves nobody else meanwhile.
_MOST_DESCRIPTORS = 100
_NO_DOMAIN = "rate limit domain must not be empty: the gateway's filter and rate_limits.domain name the same one"


def read_limit(body: bytes) -> tuple[bytes, list[Descriptor], int] | str:
    """Read a RateLimitRequest: domain, descriptors and hits_addend; or say what is wrong with it."""
    try:
        message = rls.RateLimitRequest.FromString(body)
    except DecodeError:
        return "the body is not a RateLimitRequest"
    if not message.domain:
        return _NO_DOMAIN
    if not message.descriptors:
        return "rate limit descriptor list must not be empty: give the route rate_limits with actions"
    if len(message.descriptors) > _MOST_DESCRIPTORS:
        return f"more than {_MOST_DESCRIPTORS} rate limit descriptors: give the route fewer rate_limits"
    descriptors = [
        Descriptor(
            tuple((entry.key, entry.value) for entry in descriptor.entries),
            descriptor.hits_addend.value if descriptor.HasField("hits_addend") else None,
        )
        for descriptor in message.descriptors
    ]
    return message.domain, descriptors, message.hits_addend


def write_limited(limited: Limited, *, headers: bool) -> bytes:
    """Write the RateLimitResponse of a decision; `headers`: with the ``x-ratelimit-*`` fields for the client.

    Field by field, as Check's answer: message objects took 8 us of a decision's 30.
    """
    written = [_CODE[limited.over]]
    written += [field(2, _status(status)) for status in limited.statuses]
    if headers:
        written += _limit_headers(limited)
    return b"".join(written)


_CODE = {False: number(1, rls.RateLimitResponse.OK), True: number(1, rls.RateLimitResponse.OVER_LIMIT)}


def _status(status: DescriptorStatus) -> bytes:
    if status.limit is None:
        return _CODE[status.over]
    remaining = number(3, min(status.remaining, _UINT32_MAX))
    return _CODE[status.over] + _current_limit(status.limit) + remaining + field(4, number(1, status.reset))


@lru_cache(maxsize=1024)
def _current_limit(limit: CurrentLimit) -> bytes:
    message = rls.RateLimitResponse.RateLimit(
        requests_per_unit=limit.requests_per_unit, unit=limit.unit.upper(), name=limit.name
    )
    return field(2, message.SerializeToString())


def _limit_headers(limited: Limited) -> list[bytes]:
    """Tell the client of one limit: the refused one that lasts longest, else the one with least left."""
    met = [status for status in limited.statuses if status.limit is not None and status.over == limited.over]
    if not met:
        return []
    told = max(met, key=_reset) if limited.over else min(met, key=_remaining)
    requests = told.limit.requests_per_unit if told.limit is not None else 0
    written = [_header(_LIMIT, requests), _header(_REMAINING, told.remaining), _header(_RESET, told.reset)]
    return [*written, _header(_RETRY_AFTER, told.reset)] if limited.over else written


def _header(name: bytes, value: int) -> bytes:
    return field(3, name + field(2, b"%d" % value))


_LIMIT, _REMAINING, _RESET, _RETRY_AFTER = (
    field(1, name) for name in (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset", b"retry-after")
)
_reset, _remaining = attrgetter("reset"), attrgetter("remaining")
