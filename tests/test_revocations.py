"""What is refused before its time."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.model import Identity
from genops_extauth.revocations import FOREVER, LONGEST, Denylist, Entry, Handle, Revoked, handle, kept

ISSUER, OTHER = "https://auth.example.com", "https://other.example.com"
TOKEN = Identity(ISSUER, "alice", {}, 2000.0, credential_id="t-1")
ANONYMOUS_TOKEN = Identity(ISSUER, "alice", {}, 2000.0)
KEY = Identity("api_keys", "acme", {}, 2000.0, method="api_key", credential_id="k-1")
CERTIFICATE = Identity("certificate", "spiffe://prod.example/ns/ml/sa/trainer", {}, 2000.0, method="certificate")


def refused(identity: Identity, *handles: Handle) -> bool:
    """Whether it is, by a configuration with these handles, and by a store with them, which is the same."""
    entries = [Entry(each, FOREVER) for each in handles]
    answers = {
        Revoked(Denylist(entries), Denylist()).includes(identity),
        Revoked(Denylist(), Denylist(entries)).includes(identity),
        Revoked(Denylist(entries), Denylist(entries)).includes(identity),
    }
    assert len(answers) == 1
    return answers.pop()


@pytest.mark.parametrize(
    ("identity", "revoked"),
    [
        (TOKEN, handle("token_id", "t-1", ISSUER)),
        (TOKEN, handle("token_id", "t-1")),
        (TOKEN, handle("subject", "alice", ISSUER)),
        (TOKEN, handle("subject", "alice")),
        (ANONYMOUS_TOKEN, handle("subject", "alice", ISSUER)),
        (KEY, handle("api_key", "k-1")),
        (KEY, handle("subject", "acme", "api_keys")),
        (CERTIFICATE, handle("subject", "spiffe://prod.example/ns/ml/sa/trainer", "certificate")),
    ],
)
def test_what_an_entry_is_about_is_refused(identity: Identity, revoked: Handle) -> None:
    """A token falls by its id or subject, of its issuer or of any; an API key by its id; a certificate by its name."""
    assert refused(identity, revoked)


@pytest.mark.parametrize(
    ("identity", "revoked"),
    [
        (TOKEN, handle("token_id", "t-1", OTHER)),
        (TOKEN, handle("token_id", "t-2", ISSUER)),
        (TOKEN, handle("token_id", "alice", ISSUER)),
        (TOKEN, handle("subject", "t-1", ISSUER)),
        (TOKEN, handle("subject", "alice", OTHER)),
        (TOKEN, handle("api_key", "t-1")),
        (ANONYMOUS_TOKEN, handle("token_id", "t-1")),
        (KEY, handle("token_id", "k-1")),
        (KEY, handle("api_key", "acme")),
        (CERTIFICATE, handle("token_id", "spiffe://prod.example/ns/ml/sa/trainer")),
    ],
)
def test_nothing_else_is_refused(identity: Identity, revoked: Handle) -> None:
    """Another issuer's token of the same id, another kind of entry with the same value: all these pass."""
    assert not refused(identity, revoked)


def test_nothing_is_revoked_at_first() -> None:
    """Empty lists refuse nobody."""
    assert not refused(TOKEN)
    assert not refused(KEY)


@given(st.text(), st.text())
def test_a_value_and_a_digest_never_meet(one: str, other: str) -> None:
    """Two values are kept as one only if they are one, and none is kept in more than a line."""
    long = one + "x" * LONGEST
    assert (kept(one) == kept(other)) is (one == other)
    assert kept(one) != kept(long)
    assert max(len(kept(one)), len(kept(long))) <= len("sha256:") + 64


def test_a_long_value_is_a_digest() -> None:
    """Of more than 64 characters a digest is kept, and does its work; half a surrogate pair, which JSON allows, too."""
    subject = "\ud800" + "s" * LONGEST
    revoked = handle("subject", subject, ISSUER)
    assert "sss" not in revoked.value
    assert refused(Identity(ISSUER, subject, {}, 2000.0), revoked)
    assert refused(Identity(ISSUER, "alice", {}, 2000.0, credential_id=subject), handle("token_id", subject))


def test_an_entry_ends() -> None:
    """It is refused until its end, and at it no longer; what has no end stays."""
    ended, endless = handle("token_id", "t-1"), handle("subject", "acme")
    known = Denylist([Entry(ended, 100.0), Entry(endless, FOREVER)])
    known.expire(99.9)
    assert known.includes(TOKEN)
    known.expire(100.0)
    assert not known.includes(TOKEN)
    assert known.includes(KEY)


ENTRIES = st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 9).map(float))), max_size=20)


@given(ENTRIES, st.lists(st.integers(0, 10), max_size=5))
def test_the_last_word_counts(said: Iterable[tuple[str, float | None]], looks: Iterable[int]) -> None:
    """Whatever was added, prolonged, shortened or removed: at each moment exactly what has not ended is refused."""
    known, expected = Denylist(), dict[str, float]()
    for value, until in said:
        if until is None:
            known.remove(handle("token_id", value))
            expected.pop(value, None)
        else:
            known.add(Entry(handle("token_id", value), until))
            expected[value] = until
    for now in sorted(looks):
        known.expire(now)
        expected = {value: until for value, until in expected.items() if until > now}
        identities = {value: Identity(ISSUER, "alice", {}, 2000.0, credential_id=value) for value in "abc"}
        assert {value for value in "abc" if known.includes(identities[value])} == set(expected)
        assert len(known) == len(expected)
