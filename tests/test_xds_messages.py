"""What is read of a management server's responses; encoded by others than us (`ads_server`)."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ads_server import TYPE, discovery_response, limits, rate_limit_config
from genops_extauth.strict_yaml import Document, Fault
from genops_extauth.xds_messages import Resource, ResponseError, read_response


def read(*resources: bytes) -> tuple[Resource, ...]:
    return read_response(discovery_response("1", resources)).resources


def plain(resource: Resource) -> Any:
    assert resource.document.root is not None
    return resource.document.root.plain()


def test_envelope() -> None:
    """Version, nonce and type of a response are what the server wrote."""
    response = read_response(discovery_response("7", [limits("a", 5)], nonce="x"))

    assert (response.version, response.nonce, response.type_url) == ("7", "x", TYPE)


def test_file() -> None:
    """A resource reads as the file that says the same."""
    leaf = {"key": "c", "rateLimit": {"unlimited": True, "name": "n", "replaces": [{"name": "o"}, {"name": "p"}]}}
    flags = {"shadowMode": True, "detailedMetric": True, "quotaMode": True}
    top = {
        "key": "a",
        "value": "b",
        "rateLimit": {"unit": "WEEK", "requestsPerUnit": 9},
        "descriptors": [leaf],
        **flags,
    }
    (resource,) = read(rate_limit_config({"name": "n", "domain": "d", "descriptors": [top]}))

    unlimited = {"unlimited": "true", "name": "n", "replaces": [{"name": "o"}, {"name": "p"}]}
    assert resource.name == "n"
    assert plain(resource) == {
        "domain": "d",
        "descriptors": [
            {
                "key": "a",
                "value": "b",
                "rate_limit": {"unit": "week", "requests_per_unit": "9"},
                "descriptors": [{"key": "c", "rate_limit": {"requests_per_unit": "0", **unlimited}}],
                "shadow_mode": "true",
                "detailed_metric": "true",
                "quota_mode": "true",
            }
        ],
    }


def test_metadata() -> None:
    """Metadata keeps its kinds: a text in quotes stays one, whatever it looks like."""
    metadata = {"text": "1", "number": 1.5, "flag": False, "none": None, "list": [1, {"a": "b"}], "map": {}}
    empty = {"key": "k", "metadata": {}}
    (resource,) = read(rate_limit_config({"descriptors": [{"key": "on", "metadata": metadata}, empty]}))

    root = resource.document.root
    assert root is not None
    assert root.trail(("descriptors", 0, "key"))[-1].bare is False
    assert plain(resource)["descriptors"][1] == empty
    told = root.trail(("descriptors", 0, "metadata"))[-1]
    assert told.plain() == {
        "text": "1",
        "number": "1.5",
        "flag": "false",
        "none": None,
        "list": ["1.0", {"a": "b"}],
        "map": {},
    }
    assert isinstance(told.value, dict)
    assert {name for name, node in told.value.items() if node.bare} == {"number", "flag"}


def framed(number: int, content: bytes) -> bytes:
    """A field of protobuf's with a length, by hand."""
    length, size = len(content), b""
    while length > 127:
        length, size = length >> 7, size + bytes([length & 127 | 128])
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def nested(levels: int) -> bytes:
    """A RateLimitConfig of one descriptor within the other."""
    descriptor = b""
    for _ in range(levels):
        descriptor = framed(1, b"k") + (framed(4, descriptor) if descriptor else b"")
    return framed(1, b"deep") + framed(2, b"d") + framed(3, descriptor)


@pytest.mark.parametrize(
    "value", [b"\xff\xff", framed(2, b"d\xe9"), nested(101)], ids=["no message", "no text", "too deep"]
)
def test_unreadable(value: bytes) -> None:
    """Bytes that are no RateLimitConfig are a document that could not be read, beside those that could."""
    good, bad = read(limits("a", 5), value)

    assert (good.name, bad.name) == ("a", "resource 1")
    message = "is no RateLimitConfig, has text that is not UTF-8, or nests too deep"
    assert bad.document == Document(None, (Fault(1, message),))


def test_deep() -> None:
    """What protobuf reads at all is not too deep for us."""
    (resource,) = read(nested(98))

    assert resource.document.root is not None
    assert resource.document.root.height == 2 * 98 + 1


def test_other_resource() -> None:
    """A resource of another type is a document that could not be read."""
    (bad,) = read_response(discovery_response("1", [b""], packed="type.googleapis.com/a.B")).resources

    assert bad.document == Document(None, (Fault(1, f"is a 'type.googleapis.com/a.B'; send {TYPE}"),))


def test_unknown_fields() -> None:
    """Fields that a newer server sends are passed over, as protobuf has it."""
    resource = limits("a", 5) + framed(15, b"new")

    assert read_response(discovery_response("1", [resource])) == read_response(
        discovery_response("1", [limits("a", 5)])
    )


def test_unknown_unit() -> None:
    """A unit that has no name is handed on by its number, for whoever reads files to refuse."""
    policy = {"unit": 99, "requestsPerUnit": 5}
    (resource,) = read(rate_limit_config({"descriptors": [{"key": "k", "rateLimit": policy}]}))

    assert plain(resource)["descriptors"][0]["rate_limit"] == {"unit": "99", "requests_per_unit": "5"}


@given(st.binary(max_size=60))
def test_any_bytes(body: bytes) -> None:
    """Whatever bytes come, as a response or as a resource, nothing is raised but `ResponseError`."""
    with contextlib.suppress(ResponseError):
        read_response(body)
    (resource,) = read(body)
    assert (resource.document.root is None) == bool(resource.document.faults)
