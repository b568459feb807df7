"""JSON with one reading."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.strict_json import MalformedError, parse_object

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.booleans())
def test_objects_are_read(value: dict[str, object], escaped: bool) -> None:  # noqa: FBT001
    """What json writes of an object, escaped or not, is read back."""
    assert parse_object(json.dumps(value, ensure_ascii=escaped).encode(), 10_000) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'"text"',
        b"{",
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":[{"b":1,"b":2}]}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\\ud800"}',
        b'{"\\uDFFF":1}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\xff"}',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":1}{}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=lambda text: text[:20].decode("latin-1"),
)
def test_what_has_another_reading_is_refused(text: bytes) -> None:
    """A document that another parser could read differently is refused, and the error quotes nothing of it."""
    with pytest.raises(MalformedError) as caught:
        parse_object(text, 10_000_000)
    assert b"a" not in text or repr(text) not in str(caught.value)


def test_braces_in_strings_are_not_counted() -> None:
    """A prompt full of code is one value; as many objects are too many."""
    code = json.dumps({"prompt": 'if (x) { y("\\"", [1, 2]); }' * 1000}).encode()

    assert parse_object(code, 100)["prompt"]
    with pytest.raises(MalformedError, match="too many"):
        parse_object(b'{"a":[' + b"{}," * 1000 + b"{}]}", 1000)


@pytest.mark.parametrize(
    "document",
    [
        b'{"a":[' + b"[]," * 300_000 + b"1]}",
        b'{"a":' + b'"{",' * 250_000,
        b'"' + b'\\"{' * 300_000,
        b'"' + b'\\"{' * 300_000 + b"\\",
        b"{" * 1_000_000,
    ],
    ids=["lists", "strings", "endless", "escape", "braces"],
)
def test_hostile_documents_cost_their_size(document: bytes) -> None:
    """A megabyte of the worst is refused in linear time."""
    started = time.perf_counter()
    with pytest.raises(MalformedError):
        parse_object(document, 32_768)
    assert time.perf_counter() - started < 1.0
