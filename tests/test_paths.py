"""Which paths have one reading, and what patterns take."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.paths import ANY, Pattern, decoded, is_plain, pattern

PLAIN = [
    "/",
    "/healthz",
    "/v1/a/",
    "/...",
    "/.well-known/x",
    "/a..b",
    "/v1/models/m:pull",
    '/v1/"><script>',
    "/@a,b+c=d",
]
AMBIGUOUS = [
    "",
    "*",
    "healthz",
    "http://evil.test/healthz",
    "\\healthz\\..\\v1",
    "//healthz",
    "/v1//a",
    "/a//",
    "/./healthz",
    "/v1/.",
    "/v1/..",
    "/v1/../healthz",
    "/HEALTHZ/../v1/admin",
    "/healthz;x",
    "/healthz#x",
    "/a b",
    "/a\tb",
    "/a\x00",
    "/a\x7f",
    "/café",
    "/healthz‥/v1",
    "/%68ealthz",
    "/%68ealthz/../v1/admin",
    "/healthz%2f..%2fv1%2fadmin",
    "/healthz%2F",
    "/%2e%2e/v1",
    "/v1/%2E",
    "/healthz%00/v1",
    "/a%0ab",
    "/a%7f",
    "/a%5cb",
    "/a%3bb",
    "/a%3Fb",
    "/a%23b",
    "/a%",
    "/a%2",
    "/a%zz",
    "/%252e%252e/v1",
    "/a%252fb",
    "/a%25%32%66b",
    "/%c0%ae%c0%ae/v1",
    "/%E2%80%A5/v1",
    "/a%EF%BC%8Fb",
    "/%ff",
]


@pytest.mark.parametrize("path", PLAIN)
def test_plain_paths_have_one_reading(path: str) -> None:
    """A path without anything that components read differently stands for itself."""
    assert is_plain(path)
    assert decoded(path) == path


@pytest.mark.parametrize("path", AMBIGUOUS)
def test_what_could_be_read_as_another_path_is_none(path: str) -> None:
    """A path that somebody may decode, cut, merge or resolve into another is no plain one, nor one to decode."""
    assert not is_plain(path)
    assert decoded(path) is None or "%2f" in path.lower()


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/model/claude-v1%3A0/converse", "/model/claude-v1:0/converse"),
        ("/v1/files/%C3%A9t%C3%A9.pdf", "/v1/files/été.pdf"),
        ("/v1/a%20b", "/v1/a b"),
        ("/v1/100%25", "/v1/100%"),
        ("/v1/models/meta-llama%2FLlama-3", "/v1/models/meta-llama/Llama-3"),
    ],
)
def test_encoded_paths_are_decoded_for_comparison(path: str, read: str) -> None:
    """What a client must encode, or may, is no second path: it is told how whoever decodes it reads it."""
    assert decoded(path) == read


def test_endless_paths_have_no_reading() -> None:
    """A path longer than servers take is not matched at all, which would take time for each character."""
    assert is_plain("/" + "a" * 8191)
    assert not is_plain("/" + "a" * 8192)
    assert decoded("/" + "%20" * 4000) is None


PIECES = ["/", "a", ".", "%2F", "%25", "%2", "2f", "2e", "%3A", "%C3%A9", "\u2025", "%EF%BC%8F", ";", "%5c", "%20", "{"]


@given(st.lists(st.sampled_from(PIECES), max_size=6).map("/a".join))
def test_no_reading_leads_elsewhere(path: str) -> None:
    """However often a path that has a reading is decoded and resolved, it is that reading."""
    reading = path if is_plain(path) else decoded(path)
    if reading is None:
        return
    assert unquote(reading) == reading
    assert not re.search(r"//|/\.{1,2}(/|$)|[\\;?#\x00-\x1f\x7f]", reading)
    assert reading.count("/") == len(re.findall("/|%2f", path, re.IGNORECASE))


@pytest.mark.parametrize(
    ("text", "takes", "leaves"),
    [
        ("/", ["/"], ["/a"]),
        ("/v1/models", ["/v1/models"], ["/v1/models/", "/v1/Models", "/v1", "/v1/models/x"]),
        ("/v1/files/{id}", ["/v1/files/x", "/v1/files/{id}"], ["/v1/files/", "/v1/files", "/v1/files/x/y"]),
        ("/v1/{rest=**}", ["/v1/", "/v1/a", "/v1/a/b/"], ["/v1", "/v2/a", "/v11"]),
        ("/{tenant}/chat/{rest=**}", ["/a/chat/", "/a/chat/b"], ["/a/chat", "/chat/b"]),
        ("/{rest=**}", ["/", "/a/b"], []),
    ],
)
def test_a_pattern_takes_whole_segments(text: str, takes: list[str], leaves: list[str]) -> None:
    """Literal segments are compared byte by byte, a variable takes one that is not empty, the rest whatever follows."""
    read = pattern(text)

    assert all(read.covers(pattern(path) if "{" not in path else exactly(path)) for path in takes)
    assert not any(read.covers(exactly(path)) for path in leaves)


def exactly(path: str) -> Pattern:
    return Pattern(tuple(path[1:].split("/")))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("v1", "must start with /"),
        ("/a?b", "without query and fragment"),
        ("/a#b", "without query and fragment"),
        ("/a//b", "without //"),
        ("/a/../b", "without //, . and .."),
        ("/a/.", "without //, . and .."),
        ("/v1/*", "{rest=**} the rest of the path"),
        ("/v1/a{id}", "{id} takes one whole segment"),
        ("/v1/{Id}", "{id} takes one whole segment"),
        ("/{rest=**}/a", "stands at the end"),
        ("/{a}/{a}", "two of its variables alike"),
        ("/a;b", "more than one reading"),
        ("/a%20b", "more than one reading"),
        ("/é", "more than one reading"),
    ],
)
def test_a_pattern_that_no_request_could_have_is_refused(text: str, hint: str) -> None:
    """A pattern with two spellings, or that is no pattern, is refused with what to write instead."""
    with pytest.raises(ValueError, match=re.escape(hint)):
        pattern(text)


SEGMENT = st.sampled_from(["a", "b", None])
PATTERN = st.builds(Pattern, st.lists(SEGMENT, min_size=1, max_size=3).map(tuple), st.booleans()) | st.just(ANY)
PATHS = [exactly("/" + "/".join(parts)) for parts in (["a"], ["b"], ["a", ""], ["a", "b"], ["c", "a", "b"], ["a"] * 4)]


@given(PATTERN, PATTERN)
def test_covering_is_taking_all(one: Pattern, other: Pattern) -> None:
    """A pattern that covers another takes every path that the other takes."""
    if one.covers(other):
        assert all(one.covers(path) for path in PATHS if other.covers(path))
