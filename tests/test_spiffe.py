"""SPIFFE ids and their patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.spiffe import SpiffeId, is_spiffe, pattern, spiffe_id

TRAINER = "spiffe://prod.example/ns/ml/sa/trainer"


@pytest.mark.parametrize(
    "text", [TRAINER, "spiffe://a/b", "spiffe://prod_1.example/A-b.c_d/...", f"spiffe://{'a' * 255}/x"]
)
def test_an_id_has_one_spelling(text: str) -> None:
    """What is an id is written as it was read."""
    assert str(spiffe_id(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://prod.example",
        "spiffe://prod.example/",
        "spiffe:///ns/ml",
        "SPIFFE://prod.example/ns",
        "spiffe://Prod.example/ns",
        "spiffe://prod.example:443/ns",
        "spiffe://user@prod.example/ns",
        "spiffe://prod.example/ns//ml",
        "spiffe://prod.example/ns/ml/",
        "spiffe://prod.example/./ml",
        "spiffe://prod.example/../ml",
        "spiffe://prod.example/ns/..",
        "spiffe://prod.example/ns/%6dl",
        "spiffe://prod.example/ns?x=1",
        "spiffe://prod.example/ns#x",
        "spiffe://prod.example/ns/ml\n",
        "spiffe://prod.example/ns/mł",
        "spiffe://prod.example/ns/*",
        "https://prod.example/ns/ml",
        f"spiffe://{'a' * 256}/x",
        f"spiffe://a/{'x' * 2048}",
    ],
)
def test_nothing_else_is_one(text: str) -> None:
    """No escapes, ports, users, queries, empty or dot segments, no upper case where the specification has none."""
    with pytest.raises(ValueError, match="no SPIFFE id"):
        spiffe_id(text)


@pytest.mark.parametrize(("uri", "due"), [(TRAINER, True), ("SPIFFE:x", True), ("spiffex://a/b", False), ("", False)])
def test_a_scheme_has_no_case(uri: str, due: bool) -> None:  # noqa: FBT001 - of the table
    """An id with a scheme in upper case is a SPIFFE id, if a wrong one: it cannot hide as another kind of URI."""
    assert is_spiffe(uri) is due


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (TRAINER, {}),
        ("spiffe://prod.example/ns/{team}/sa/{customer_id}", {"team": "ml", "customer_id": "trainer"}),
        ("spiffe://prod.example/ns/ml/sa/*", {}),
        ("spiffe://prod.example/*/{team}/*/*", {"team": "ml"}),
        ("spiffe://prod.example/ns/ml/sa/train", None),
        ("spiffe://prod.example/ns/ml/sa", None),
        ("spiffe://prod.example/ns/ml/sa/trainer/x", None),
        ("spiffe://prod.example/ns/*", None),
        ("spiffe://other.example/ns/ml/sa/trainer", None),
    ],
)
def test_a_pattern_is_segment_by_segment(written: str, found: dict[str, str] | None) -> None:
    """A star or a name stands for one whole segment, never for less or more, and never for the trust domain."""
    assert pattern(written).match(spiffe_id(TRAINER)) == found
    assert str(pattern(written)) == written


@pytest.mark.parametrize(
    "written",
    [
        "spiffe://*/ns/ml",
        "spiffe://{team}/ns",
        "spiffe://prod.example/ns-*",
        "spiffe://prod.example/x{team}",
        "spiffe://prod.example/{Team}",
        "spiffe://prod.example/{}",
        "spiffe://prod.example/**",
        "spiffe://prod.example/{team}/{team}",
        "prod.example/ns/ml",
    ],
)
def test_other_patterns_are_refused(written: str) -> None:
    """A pattern of part of a segment, of the trust domain, or with one name twice, is none."""
    with pytest.raises(ValueError, match="write"):
        pattern(written)


SEGMENTS = st.from_regex(r"[A-Za-z0-9._-]{1,9}", fullmatch=True).filter(lambda text: text not in (".", ".."))


@given(st.lists(SEGMENTS, min_size=1, max_size=5), st.lists(SEGMENTS, min_size=1, max_size=5))
def test_two_ids_are_equal_only_if_they_are_one(one: list[str], other: list[str]) -> None:
    """An id, as a pattern, is of itself and of no other."""
    first, second = SpiffeId("a.example", tuple(one)), SpiffeId("a.example", tuple(other))
    assert (pattern(str(first)).match(second) is not None) is (one == other)
