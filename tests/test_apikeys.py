import hmac
import string
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth import apikeys
from genops_extauth.apikeys import MAX_SECRETS, digest_of, foreign_id, is_id, matches, minted, presented

DIGEST_KEY = b"d" * 32
KEY = minted(lambda length: bytes(range(length))).text.encode()
FOREIGN = b"sk-1234567890abcdefghij"

entropy = st.binary(min_size=48, max_size=48)
digests = st.binary(min_size=32, max_size=32)


def key_of(data: bytes) -> apikeys.NewKey:
    """A key made of 48 bytes of randomness."""
    taken = iter((data[:16], data[16:]))
    return minted(lambda _: next(taken))


def test_the_form_does_not_change() -> None:
    """One randomness and one digest key make one key, one digest and one id, in every release."""
    assert KEY == b"gxk_7dy896m08s18udxr_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf48I95h"
    assert digest_of(KEY, DIGEST_KEY).hex() == "9dbbcec6fbd070dfc2eb8eade4ba1277fead6caa03f02dcd1a96071899b813eb"
    assert foreign_id(FOREIGN, DIGEST_KEY) == "z2cb3o23ihqn9pd3"


@given(entropy)
def test_each_key_is_read_as_itself(data: bytes) -> None:
    """Whatever the randomness, a key that was made is read with its id and its digest."""
    key = key_of(data)
    found = presented(key.text.encode(), DIGEST_KEY)
    assert found == apikeys.Presented(key.id, digest_of(key.text.encode(), DIGEST_KEY))
    assert len(key.text) == 70
    assert is_id(key.id)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_no_two_secrets_are_one(one: bytes, other: bytes) -> None:
    """Two different 256 bits are two different keys: no bit of the randomness is lost."""
    keys = {key_of(bytes(16) + secret).text for secret in (one, other)}
    assert len(keys) == len({one, other})


@given(st.integers(len("gxk_"), len(KEY) - 1), st.sampled_from(string.printable.encode()))
def test_a_slip_is_no_key(place: int, typed: int) -> None:
    """One wrong character anywhere makes it no key at all: it costs no lookup (CRC-32 finds each of them)."""
    slip = KEY[:place] + bytes((typed,)) + KEY[place + 1 :]
    assert (presented(slip, DIGEST_KEY) is None) == (slip != KEY)


@pytest.mark.parametrize(
    "text",
    [
        KEY.upper(),
        KEY.replace(b"gxk_", b"GXK_"),
        KEY + b"0",
        KEY[:-1],
        KEY + b"\n",
        b" " + KEY,
        KEY[:20] + b"-" + KEY[21:],
        KEY + b"=",
        KEY + b"," + KEY,
        b"gxk_",
        b"",
        b"x" * 15,
        b"x" * 513,
        b"sk-1234567890 abcdefghij",
        "sk-1234567890abcdefghijé".encode(),
        b"sk-1234567890\x00abcdefghij",
    ],
)
def test_there_is_one_spelling(text: bytes) -> None:
    """What differs in case, length, or by a sign is no key: nobody is to guess what was meant."""
    assert presented(text, DIGEST_KEY) is None


def test_a_key_of_another_form_has_a_keyed_id() -> None:
    """A key that was made elsewhere is found by a digest of it, from which it cannot be tried out."""
    found = presented(FOREIGN, DIGEST_KEY)
    assert found is not None
    assert is_id(found.id)
    assert found.id != foreign_id(FOREIGN, b"e" * 32)
    assert bytes.fromhex(found.digest.hex()) != hmac.digest(DIGEST_KEY, FOREIGN, "sha256")


def test_its_digest_is_no_key() -> None:
    """Who reads a record and shows the digest in it, in any spelling, shows another key, which nobody has."""
    digest = digest_of(KEY, DIGEST_KEY)
    for shown in (digest.hex().encode(), digest.hex().upper().encode()):
        found = presented(shown, DIGEST_KEY)
        assert found is None or matches((digest,), found.digest) is None


@given(st.lists(digests, min_size=0, max_size=MAX_SECRETS, unique=True), digests)
def test_matches_is_where_it_stands(known: list[bytes], other: bytes) -> None:
    """Each digest is found where it stands, and one that does not stand there nowhere."""
    assert [matches(known, each) for each in known] == list(range(len(known)))
    assert matches(known, other) == (known.index(other) if other in known else None)
    assert matches((), bytes(32)) is None


@pytest.mark.parametrize("known", [(), (b"k" * 32,), (b"k" * 32, b"l" * 32), (b"k" * 32, b"l" * 32, b"m" * 32)])
@pytest.mark.parametrize("digest", [b"k" * 32, b"l" * 32, b"k" * 31 + b"x", b"z" * 32])
def test_as_many_comparisons_whatever_is_known(known: tuple[bytes, ...], digest: bytes) -> None:
    """However many secrets there are, none included, and whichever fits, as many comparisons are made, of 32 bytes."""
    compare_digest = hmac.compare_digest
    with mock.patch.object(hmac, "compare_digest", side_effect=compare_digest) as compared:
        matches(known, digest)
    assert [tuple(map(len, call.args)) for call in compared.call_args_list] == [(32, 32)] * MAX_SECRETS


def test_nothing_shows_a_key() -> None:
    """Neither a key nor what is made of one is in the text of the objects that hold it."""
    key = key_of(bytes(range(48)))
    found = presented(key.text.encode(), DIGEST_KEY)
    assert key.text not in repr(key)
    assert repr(found) == f"Presented(id='{key.id}')"
