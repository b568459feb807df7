"""Which values a pattern of ``*`` matches, and in which order patterns are tried."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.wildcards import Wildcards, glob


def like(pattern: bytes, text: bytes) -> bool:
    """The definition: a star is nothing, or one byte and a star."""
    if not pattern:
        return not text
    if pattern[:1] == b"*":
        return like(pattern[1:], text) or (bool(text) and like(pattern, text[1:]))
    return text[:1] == pattern[:1] and like(pattern[1:], text[1:])


FEW = st.text("ab*", max_size=7).map(str.encode)


@given(FEW.filter(lambda pattern: b"*" in pattern), FEW)
def test_a_star_is_zero_or_more_bytes(pattern: bytes, text: bytes) -> None:
    """A pattern matches what its definition says, stars in the text being bytes like others."""
    assert glob(pattern).matches(text) == like(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        (b"foo*bar*baz", b"foo123bar456baz", True),
        (b"foo*bar*baz", b"foobarbaz", True),
        (b"foo*bar*baz", b"foo123baz", False),
        (b"foo*bar*baz", b"bar456baz", False),
        (b"foo*bar", b"foobar", True),
        (b"ab*ba", b"aba", False),
        (b"a*a", b"a", False),
        (b"*a*", b"ab", True),
        (b"a**b", b"ab", True),
        (b"a*b*b", b"ab", False),
        (b"*", b"", True),
        (b"\xff*", b"\xff\x00", True),
    ],
)
def test_parts_stand_in_order_and_share_no_byte(pattern: bytes, text: bytes, matches: bool) -> None:  # noqa: FBT001 - a column
    """The first part stands at the start, the last at the end, those between in order, none over another."""
    assert glob(pattern).matches(text) is matches


def test_many_stars_take_no_longer_than_the_text_is_long() -> None:
    """A text made to be tried in all ways is looked through once."""
    assert not glob(b"*a" * 200 + b"*b*").matches(b"a" * 200_000)


def test_patterns_are_tried_in_the_order_of_their_declaration() -> None:
    """Of several patterns that match, the one declared first comes first, whether its star is in the key or not."""
    ways = Wildcards([(b"p", b"a*", 1), (b"p*", b"", 2), (b"q", b"a*", 3), (b"p", b"ab*", 4), (b"*", b"", 5)])

    assert list(ways.each(b"p", b"abc")) == [1, 2, 4, 5]
    assert list(ways.each(b"q", b"abc")) == [3, 5]
    assert list(ways.each(b"r", b"abc")) == [5]


def test_memory_grows_as_the_patterns_do() -> None:
    """A hundred times as many patterns, half of them of any key, take about a hundred times the memory."""

    def taken(count: int) -> int:
        patterns = [(b"%d%b" % (number, b"*"[number % 2 :]), b"x*", number) for number in range(count)]
        tracemalloc.start()
        ways = Wildcards(patterns)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert list(ways.each(b"1", b"xy")) == [1]
        return held

    assert taken(10_000) < 200 * taken(100)


def test_a_star_in_a_key_is_of_key_and_value_joined() -> None:
    """A pattern with a star in its key is matched against ``key_value``, as envoyproxy/ratelimit does by accident."""
    ways = Wildcards([(b"k*", b"v", 1), (b"k*c", b"", 2)])

    assert list(ways.each(b"key", b"v")) == [1]
    assert list(ways.each(b"key", b"abc")) == [2]
    assert list(ways.each(b"kc", b"x")) == []


def test_without_a_star_in_its_key_nothing_is_joined() -> None:
    """A pattern of values is met under its own key alone: (a, b_c) and (a_b, c) are not one."""
    ways = Wildcards([(b"a", b"b_c*", 1)])

    assert list(ways.each(b"a", b"b_c")) == [1]
    assert list(ways.each(b"a", b"c")) == []
    assert list(ways.each(b"a_b", b"c")) == []
