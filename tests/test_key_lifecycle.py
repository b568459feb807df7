from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.apikeys import MAX_SECRETS
from genops_extauth.key_lifecycle import (
    LifecycleError,
    Record,
    Secret,
    begun,
    completed,
    ending_soon,
    identities,
    refusal,
    revoked,
    state,
)
from genops_extauth.model import Denied
from genops_extauth.reasons import Reason

NOW = 1_000_000
FIRST, SECOND, THIRD = (Secret(bytes((number,)) * 32, NOW) for number in (1, 2, 3))
RECORD = Record("0123456789abcdef", "a key", (FIRST,), NOW, attributes={"team": "ml"}, scopes=frozenset({"s"}))
HOUR = 3600


def rotated(record: Record, rotation: str, digest: bytes, now: int, overlap: int = HOUR) -> Record:
    return completed(begun(record, rotation, digest, now), now, overlap)


def digests(record: Record, now: int) -> list[bytes]:
    return [secret.digest for secret in record.working(now)]


def test_both_secrets_work_until_the_overlap_ends() -> None:
    """After a rotation the old and the new secret work; when the overlap ends, the new one alone."""
    record = rotated(RECORD, "r1", SECOND.digest, NOW)
    assert digests(record, NOW) == [FIRST.digest, SECOND.digest]
    assert refusal(record, 0, NOW + HOUR - 1) is None
    assert refusal(record, 0, NOW + HOUR) == Denied(Reason.API_KEY_EXPIRED, "this secret was rotated out")
    assert refusal(record, 1, NOW + HOUR) is None
    assert state(record, NOW) == "rotating"
    assert state(record, NOW + HOUR) == "active"


def test_a_rotation_that_was_begun_changes_nothing() -> None:
    """The secret of a rotation works once it is completed, never before."""
    record = begun(RECORD, "r1", SECOND.digest, NOW)
    assert digests(record, NOW) == [FIRST.digest]
    assert record.pending == Secret(SECOND.digest, NOW, rotation="r1")
    assert state(record, NOW) == "active"


def test_what_ended_in_1970_is_over() -> None:
    """An end at the epoch is an end like any other, of a key and of a secret."""
    secret = replace(FIRST, expires=0)

    assert refusal(replace(RECORD, expires=0), 0, NOW) == Denied(Reason.API_KEY_EXPIRED)
    assert refusal(replace(RECORD, secrets=(secret,)), 0, NOW) == Denied(
        Reason.API_KEY_EXPIRED, "this secret was rotated out"
    )
    assert state(replace(RECORD, expires=0), NOW) == "expired"


def test_another_rotation_waits_for_the_overlap() -> None:
    """A second rotation is refused while the first secret of another one still works, and what to do is said."""
    record = rotated(RECORD, "r1", SECOND.digest, NOW)
    with pytest.raises(LifecycleError, match=r"overlap of rotation r1: wait until .*--rotation-id r1; .*revoke"):
        begun(record, "r2", THIRD.digest, NOW + HOUR - 1)
    assert digests(rotated(record, "r2", THIRD.digest, NOW + HOUR), NOW + HOUR) == [SECOND.digest, THIRD.digest]


def test_a_rotation_that_was_given_up_does_not_stand_in_the_way() -> None:
    """A rotation that was begun and not completed is forgotten when another one is begun."""
    record = begun(begun(RECORD, "r1", SECOND.digest, NOW), "r2", THIRD.digest, NOW)
    assert record.pending == Secret(THIRD.digest, NOW, rotation="r2")


def test_no_overlap_ends_the_old_secret_at_once() -> None:
    """With an overlap of nothing the old secret ends the moment that the new one works."""
    assert digests(rotated(RECORD, "r1", SECOND.digest, NOW, overlap=0), NOW) == [SECOND.digest]


def test_no_secret_outlives_its_key() -> None:
    """The overlap does not let a secret work beyond the end that its key had."""
    record = replace(RECORD, expires=NOW + 10)
    record = completed(begun(record, "r1", SECOND.digest, NOW), NOW, HOUR, NOW + 10 * HOUR)
    assert [secret.expires for secret in record.secrets] == [NOW + 10, None]
    assert record.expires == NOW + 10 * HOUR


def test_an_expired_key_needs_another_end() -> None:
    """A rotation of a key that has expired is refused unless it gets another end; its old secret stays dead."""
    record = begun(replace(RECORD, expires=NOW), "r1", SECOND.digest, NOW)
    with pytest.raises(LifecycleError, match="--expires"):
        completed(record, NOW, HOUR)
    assert digests(completed(record, NOW, HOUR, NOW + HOUR), NOW) == [SECOND.digest]


def test_what_was_not_begun_is_not_completed() -> None:
    """There is nothing to complete without a secret that was begun."""
    with pytest.raises(LifecycleError, match="begin one"):
        completed(RECORD, NOW, HOUR)


@given(st.lists(st.integers(0, HOUR - 1), min_size=1, max_size=12))
def test_a_repeated_rotation_takes_nothing_away(pauses: list[int]) -> None:
    """However often a rotation is repeated within its overlap, the first secret, the latest, and that before it work.

    So the key works that was delivered, whichever of the last two answers was lost.
    """
    now, record, before = NOW, RECORD, FIRST.digest
    for number, seconds in enumerate(pauses):
        now += seconds
        digest = (number + 10).to_bytes(32, "big")
        record = rotated(record, "r1", digest, now)
        assert set(digests(record, now)) == {FIRST.digest, before, digest}
        assert len(record.secrets) <= MAX_SECRETS
        before = digest


def test_versions_count_each_change() -> None:
    """Each transition makes the next version, so that of two writers one is told."""
    record = rotated(RECORD, "r1", SECOND.digest, NOW)
    assert (RECORD.version, record.version, revoked(record, NOW, "leaked").version) == (1, 3, 4)


def test_a_revoked_key_is_no_more() -> None:
    """A revoked key holds with none of its secrets, is rotated no more, and keeps its first reason."""
    record = revoked(rotated(RECORD, "r1", SECOND.digest, NOW), NOW, "leaked")
    assert [refusal(record, place, NOW) for place in (0, 1)] == [Denied(Reason.API_KEY_REVOKED)] * 2
    assert revoked(record, NOW + 1, "again") is record
    assert state(record, NOW) == "revoked"
    with pytest.raises(LifecycleError, match="issue another key"):
        begun(record, "r2", THIRD.digest, NOW)


@pytest.mark.parametrize(
    ("changes", "now", "reason", "word"),
    [
        ({}, NOW, None, "active"),
        ({"not_before": NOW}, NOW - 1, Reason.API_KEY_NOT_YET_VALID, "not yet valid"),
        ({"not_before": NOW}, NOW, None, "active"),
        ({"expires": NOW}, NOW - 1, None, "active"),
        ({"expires": NOW}, NOW, Reason.API_KEY_EXPIRED, "expired"),
    ],
)
def test_a_key_holds_in_its_time(changes: dict[str, int], now: int, reason: Reason | None, word: str) -> None:
    """A key holds from its not_before until just before it expires."""
    record = replace(RECORD, **changes)  # type: ignore[arg-type] # times are whole seconds
    found = refusal(record, 0, now)
    assert (None if found is None else found.reason) == reason
    assert state(record, now) == word


def test_the_identity_is_the_keys() -> None:
    """An identity names the key, whichever secret proves it, and ends with the first of the two that ends."""
    record = replace(rotated(RECORD, "r1", SECOND.digest, NOW), expires=NOW + 9 * HOUR)
    old, new = identities(record)
    for identity in (old, new):
        assert (identity.issuer, identity.subject, identity.method) == ("api_key", RECORD.id, "api_key")
        assert (identity.credential_id, identity.attributes) == (RECORD.id, {"team": "ml"})
        assert identity.scopes == frozenset({"s"})
    assert (old.expires_at, new.expires_at) == (NOW + HOUR, NOW + 9 * HOUR)


def test_keys_that_end_soon_are_told_in_order() -> None:
    """Those that end within the time are told, the first one first; none that has ended, or is revoked."""
    ends = {"a": NOW + 2, "b": NOW + 1, "c": NOW, "d": NOW + 11, "e": None}
    records = [replace(RECORD, id=name, expires=at) for name, at in ends.items()]
    records.append(revoked(replace(RECORD, id="f", expires=NOW + 1), NOW, "leaked"))
    assert [record.id for record in ending_soon(records, NOW, 10)] == ["b", "a"]
