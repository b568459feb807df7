import json
import warnings
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.limit_json import answer_json
from genops_extauth.limit_messages import LimitRequest, read_limit, write_limited
from genops_extauth.model import (
    UNLIMITED,
    CurrentLimit,
    Descriptor,
    DescriptorStatus,
    Limited,
    Override,
    StoreUnavailable,
    Telling,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic's, of how envoy-data-plane declares its validators
    from betterproto2 import Casing
    from envoy_data_plane.envoy.extensions.common.ratelimit import v3 as common
    from envoy_data_plane.envoy.service.ratelimit import v3 as rls
    from envoy_data_plane.envoy.type import v3 as types

BAD = (HTTPStatus.BAD_REQUEST, b"Bad Request\n")
OK = Limited(over=False, statuses=(DescriptorStatus(),))
ONE = '{"domain": "d", "descriptors": [{"entries": [{"key": "k", "value": "v"}]%s}]%s}'
PLAIN = Descriptor(((b"k", b"v"),))


class Decider:
    """Takes down what it is asked, and answers `limited`."""

    def __init__(self, limited: Limited = OK) -> None:
        self.asked: LimitRequest | None = None
        self._limited = limited

    async def __call__(self, domain: bytes, descriptors: Sequence[Descriptor], hits: int) -> Limited:
        self.asked = LimitRequest(domain, list(descriptors), hits)
        return self._limited


def run(awaitable: Awaitable[tuple[HTTPStatus, bytes]]) -> tuple[HTTPStatus, bytes]:
    """Run what waits for nothing; Hypothesis calls no coroutines."""
    steps = awaitable.__await__()
    with pytest.raises(StopIteration) as ended:
        next(steps)
    return ended.value.value  # type: ignore[no-any-return]  # StopIteration knows no types


def asked(text: str) -> LimitRequest | None:
    decider = Decider()
    run(answer_json(text.encode(), decider, Telling()))
    return decider.asked


@pytest.mark.parametrize(
    ("text", "descriptors", "hits"),
    [
        (ONE % ("", ""), [PLAIN], 0),
        (ONE % ("", ', "hitsAddend": 7'), [PLAIN], 7),
        (ONE % ("", ', "hits_addend": "7"'), [PLAIN], 7),
        (ONE % ("", ', "hitsAddend": 7e0'), [PLAIN], 7),
        (ONE % ("", ', "hitsAddend": null'), [PLAIN], 0),
        (ONE % (', "hitsAddend": 0', ""), [PLAIN._replace(hits=0)], 0),
        (ONE % (', "hits_addend": "18446744073709551615"', ""), [PLAIN._replace(hits=2**64 - 1)], 0),
        (ONE % (', "isNegativeHits": true', ""), [PLAIN._replace(refund=True)], 0),
        (
            ONE % (', "limit": {"requestsPerUnit": 3, "unit": "HOUR"}', ""),
            [PLAIN._replace(override=Override(3, "hour"))],
            0,
        ),
        (
            ONE % (', "limit": {"requests_per_unit": "3", "unit": 3}', ""),
            [PLAIN._replace(override=Override(3, "hour"))],
            0,
        ),
        ('{"domain": "d", "descriptors": [{}, {"entries": []}]}', [Descriptor(()), Descriptor(())], 0),
        (
            '{"domain": "d", "descriptors": [{"entries": [{"key": "\\u00e9\\u0000"}]}]}',
            [Descriptor((("é\0".encode(), b""),))],
            0,
        ),
    ],
)
def test_read(text: str, descriptors: list[Descriptor], hits: int) -> None:
    """What ProtoJSON allows is read: names of either spelling, numbers as strings, null for what is absent."""
    assert asked(text) == LimitRequest(b"d", descriptors, hits)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "1",
        "[]",
        "{}",
        '{"domain": "d"}',
        '{"domain": "", "descriptors": [{}]}',
        ONE % ("", ', "hitsaddend": 1'),
        ONE % (', "weight": 1', ""),
        ONE % ("", ', "domain": "e"'),
        ONE % ("", ', "hitsAddend": -1'),
        ONE % ("", ', "hitsAddend": 4294967296'),
        ONE % ("", ', "hitsAddend": 1.5'),
        ONE % ("", ', "hitsAddend": true'),
        ONE % ("", ', "hitsAddend": NaN'),
        ONE % ("", ', "hitsAddend": 1e400'),
        ONE % ("", ', "hitsAddend": ' + "9" * 10_000),
        ONE % (', "hitsAddend": 18446744073709551616', ""),
        ONE % (', "isNegativeHits": "true"', ""),
        ONE % (', "limit": {"requestsPerUnit": 3}', ""),
        ONE % (', "limit": {"requestsPerUnit": 3, "unit": "hour"}', ""),
        ONE % (', "limit": {"requestsPerUnit": 3, "unit": "UNKNOWN"}', ""),
        ONE % (', "limit": {"requestsPerUnit": 3, "unit": 99}', ""),
        '{"domain": 1, "descriptors": [{}]}',
        '{"domain": "\\ud800", "descriptors": [{}]}',
        '{"domain": "d", "descriptors": {}}',
        '{"domain": "d", "descriptors": [null]}',
        '{"domain": "d", "descriptors": [{"entries": [["k", "v"]]}]}',
        ONE % ("", "") + " x",
        "[" * 16_000,
        '{"descriptors":[' * 1_000,
        "[1" + ",1" * 8_000,
        json.dumps({"domain": "d", "descriptors": [{}] * 101}),
    ],
)
def test_refused(text: str) -> None:
    """What is no RateLimitRequest in JSON, has a member that it does not know, or twice, is a bad request."""
    decider = Decider()
    assert run(answer_json(text.encode(), decider, Telling())) == BAD
    assert decider.asked is None


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_garbage(body: bytes) -> None:
    """Whatever is sent, there is an answer."""
    status, _ = run(answer_json(body, Decider(), Telling()))
    assert status == HTTPStatus.BAD_REQUEST


UINT32 = st.integers(0, 2**32 - 1)
ENTRY = st.builds(common.RateLimitDescriptorEntry, key=st.text(max_size=5), value=st.text(max_size=5))
OVERRIDE = st.builds(
    common.RateLimitDescriptorRateLimitOverride,
    requests_per_unit=UINT32,
    unit=st.sampled_from([unit for unit in types.RateLimitUnit if unit]),
)
DESCRIPTOR = st.builds(
    common.RateLimitDescriptor,
    entries=st.lists(ENTRY, max_size=3),
    limit=st.none() | OVERRIDE,
    hits_addend=st.none() | st.integers(0, 2**64 - 1),
    is_negative_hits=st.booleans(),
)
REQUEST = st.builds(
    rls.RateLimitRequest,
    domain=st.text(min_size=1, max_size=5),
    descriptors=st.lists(DESCRIPTOR, min_size=1, max_size=3),
    hits_addend=UINT32,
)


@given(REQUEST, st.sampled_from(Casing))
def test_as_grpc(request: rls.RateLimitRequest, casing: Casing) -> None:
    """What Envoy's own message says in JSON, in either spelling, is read as what it says on the wire."""
    assert asked(request.to_json(casing=casing)) == read_limit(bytes(request))


LIMIT = st.builds(
    CurrentLimit,
    UINT32,
    st.sampled_from(("second", "minute", "hour", "day", "week", "month", "year")),
    st.text(max_size=5),
)
STATUS = st.builds(DescriptorStatus, st.booleans(), LIMIT, st.integers(0, 2**32 - 1), st.integers(0, 10**8))
LIMITED = st.builds(
    Limited,
    over=st.booleans(),
    statuses=st.lists(STATUS | st.just(DescriptorStatus()), min_size=1, max_size=3).map(tuple),
    told=st.sampled_from((None, 0)),
    retry=st.integers(0, 10**6),
    body=st.none() | st.binary(max_size=5),
    metadata=st.none() | st.dictionaries(st.text(max_size=3), st.booleans() | st.text(max_size=3), max_size=2),
    quota=st.none(),
)


@given(LIMITED, st.booleans())
def test_answer(limited: Limited, metadata: bool) -> None:  # noqa: FBT001 - Hypothesis gives it
    """The answer says in JSON what it says on the wire, as Envoy's own message reads both; 429 is over limit."""
    telling = Telling(metadata=metadata)
    body = (ONE % ("", "")).encode()
    status, answer = run(answer_json(body, Decider(limited), telling))
    assert status == (HTTPStatus.TOO_MANY_REQUESTS if limited.over else HTTPStatus.OK)
    written = write_limited(LimitRequest(b"d", [PLAIN], 0), limited, telling)
    assert rls.RateLimitResponse.from_json(answer) == rls.RateLimitResponse.parse(written)


def test_answer_text() -> None:
    """Names are in camel case, durations in seconds, and what is 0 or empty is left out."""
    limit = CurrentLimit(1, "minute", "one")
    statuses = (DescriptorStatus(True, limit, 0, 60), DescriptorStatus(remaining=UNLIMITED), DescriptorStatus())  # noqa: FBT003 - `over`
    limited = Limited(over=True, statuses=statuses, told=0, retry=60)
    names = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
    telling = Telling(names, retry_after=False, body=None)
    _, answer = run(answer_json((ONE % ("", "")).encode(), Decider(limited), telling))
    assert json.loads(answer) == {
        "overallCode": "OVER_LIMIT",
        "statuses": [
            {
                "code": "OVER_LIMIT",
                "currentLimit": {"requestsPerUnit": 1, "unit": "MINUTE", "name": "one"},
                "durationUntilReset": "60s",
            },
            {"code": "OK", "limitRemaining": UNLIMITED},
            {"code": "OK"},
        ],
        "responseHeadersToAdd": [
            {"key": name, "value": value} for name, value in zip(names, ("1", "0", "60"), strict=True)
        ],
    }


def test_outage() -> None:
    """Where the store cannot be asked it is a bad request, as envoyproxy/ratelimit has it."""

    async def limit(*_: object) -> Limited:
        raise StoreUnavailable("timeout: the store did not answer")

    decide: Callable[..., Awaitable[Limited]] = limit
    assert run(answer_json((ONE % ("", "")).encode(), decide, Telling())) == BAD
