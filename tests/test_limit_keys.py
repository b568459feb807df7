"""How keys are spelt."""

from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.limit_keys import Hole, form, steps, written, written_pattern

TEXTS = st.one_of(st.binary(max_size=80), st.text("ab|=~%{}:*_", max_size=8).map(str.encode))


@given(st.lists(TEXTS, min_size=2, max_size=8, unique=True))
def test_no_two_texts_are_spelt_alike(texts: list[bytes]) -> None:
    """Different texts are spelt differently, whatever bytes they are made of; so are patterns."""
    assert len({written(text) for text in texts}) == len(texts)
    assert len({written_pattern(text) for text in texts}) == len(texts)


@given(st.binary(max_size=200))
def test_a_text_holds_no_separator(text: bytes) -> None:
    """What is spelt is printable ASCII, short, and can neither end a step of the path nor its hash tag."""
    assert all(0x20 < byte < 0x7F for byte in written(text))
    assert not set(written(text)) & set(b"|={}*")
    assert len(written(text)) <= 3 * 64


def test_a_long_text_is_replaced_by_a_digest() -> None:
    """More than 64 bytes are replaced by a digest, so that a key stays short and its owner private."""
    assert written(b"a" * 64) == b"a" * 64
    assert len(written(b"a" * 65)) == 33
    assert b"aaa" not in written(b"a" * 65)
    assert written_pattern(b"*" * 64) == b"*" * 64
    assert len(written_pattern(b"*" * 65)) == 33


ENTRIES = st.lists(st.tuples(TEXTS, TEXTS), max_size=3).map(tuple)


@given(ENTRIES, ENTRIES)
def test_no_two_paths_are_spelt_alike(
    one: tuple[tuple[bytes, bytes], ...], other: tuple[tuple[bytes, bytes], ...]
) -> None:
    """Paths are spelt alike only where they are the same: (a_b, c) and (a, b_c) are not."""
    assert (b"".join(steps(one)) == b"".join(steps(other))) == (one == other)


def test_a_form_is_filled_in_with_what_a_request_holds() -> None:
    """A percent sign in the fixed part of a key stays what it is."""
    spelt = form("p", (b"d%20", b"|k=", Hole(0, 1)), None)

    assert spelt.ended(b"cal:100%") % b"v" == b"p:{d%20|k=v}:cal:100%"
    assert spelt.holes == (Hole(0, 1),)


def test_without_a_prefix_a_key_begins_with_its_hash_tag() -> None:
    """An empty prefix leaves nothing behind."""
    assert form("", (b"d",), None).ended(b"tb1") == b"{d}:tb1"


def test_one_entry_can_be_the_hash_tag() -> None:
    """Where an entry is the tag it stands alone in the braces, and the path follows."""
    assert form("p", (b"d", b"|k=", Hole(0, 1)), Hole(0, 1)).ended(b"tb1") % (b"v", b"v") == b"p:{v}d|k=v:tb1"
