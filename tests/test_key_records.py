import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth import key_records
from genops_extauth.key_lifecycle import Record, Revoked, Secret
from genops_extauth.key_records import RecordError, read, time_of, time_text, written
from genops_extauth.reserved_headers import ATTRIBUTES

times = st.integers(0, 2**32)
words = st.frozensets(st.from_regex(r"[a-z.:-]{1,20}", fullmatch=True), max_size=5)
secrets = st.builds(
    Secret,
    digest=st.binary(min_size=32, max_size=32),
    created=times,
    expires=st.none() | times,
    rotation=st.just("") | st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
)
records = st.builds(
    Record,
    id=st.from_regex(r"[0-9a-z]{16}", fullmatch=True),
    name=st.from_regex(r"[a-zé]{1,200}", fullmatch=True),
    secrets=st.lists(secrets, min_size=1, max_size=3).map(tuple),
    created=times,
    version=st.integers(1, 2**53 - 1),
    attributes=st.dictionaries(
        st.sampled_from(ATTRIBUTES), st.from_regex(r"[a-z]{1,20}( [a-z]{1,20})?", fullmatch=True)
    ),
    scopes=words,
    roles=words,
    not_before=st.none() | times,
    expires=st.none() | times,
    revoked=st.none() | st.builds(Revoked, times, st.just("leaked")),
    pending=st.none() | secrets,
)
GOOD: dict[str, Any] = {
    "version": 1,
    "id": "0123456789abcdef",
    "name": "acme batch",
    "created": "2026-01-01T00:00:00Z",
    "secrets": [{"digest": "ab" * 32, "created": "2026-01-01T00:00:00Z"}],
}
SECRET = GOOD["secrets"][0]


@given(records)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    """What is written is read back as the same record, in one line of at most the size that is read."""
    data = written(record)
    assert read(data) == record
    assert b"\n" not in data
    assert len(data) < key_records.MAX_BYTES


def test_the_smallest_record_is_enough() -> None:
    """What is optional may be left out."""
    assert read(json.dumps(GOOD).encode()).attributes == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "0123456789ABCDEF"}, "id: "),
        ({"id": 7}, "id: "),
        ({"version": 0}, "version: "),
        ({"version": True}, "version: "),
        ({"version": 2**53}, "version: "),
        ({"name": ""}, "name: "),
        ({"name": "a\x1b[2Jb"}, "name: "),
        ({"created": "2026-01-01"}, "created: write a time"),
        ({"created": "2026-01-01T00:00:00+00:00"}, "created: write a time"),
        ({"created": 1}, "created: is no text"),
        ({"expires": None}, "expires: is no text"),
        ({"secrets": []}, "secrets: from 1 to 3"),
        ({"secrets": [SECRET] * 4}, "secrets: from 1 to 3"),
        ({"secrets": {}}, "secrets: is no list"),
        ({"secrets": [{**SECRET, "digest": "AB" * 32}]}, "a digest is"),
        ({"secrets": [{**SECRET, "digest": "ab" * 16}]}, "a digest is"),
        ({"secrets": [{**SECRET, "key": "gxk_"}]}, "unknown member 'key'"),
        ({"secrets": [{**SECRET, "rotation": "a b"}]}, "rotation: "),
        ({"attributes": {"colour": "red"}}, "attributes: 'colour' is none; there are team"),
        ({"attributes": {"team": "a,b"}}, "attributes.team: "),
        ({"attributes": {"team": 1}}, "attributes.team: "),
        ({"scopes": "all"}, "scopes: is no list"),
        ({"scopes": ["a b"]}, "scopes: "),
        ({"roles": [1]}, "roles: "),
        ({"revoked": True}, "revoked: is no mapping"),
        ({"revoked": {"at": "2026-01-01T00:00:00Z"}}, "revoked.reason: "),
        ({"admin": True}, "unknown member 'admin'"),
    ],
)
def test_what_is_not_understood_is_refused(changes: dict[str, Any], said: str) -> None:
    """A record with a member that is unknown, of another type or out of bounds lets nobody in, and where is said."""
    with pytest.raises(RecordError, match=said.replace(".", r"\.")):
        read(json.dumps(GOOD | changes).encode())


@pytest.mark.parametrize("name", GOOD)
def test_what_must_be_there_is_missed(name: str) -> None:
    """A record without its id, name, version, secrets or the time it was made is none."""
    with pytest.raises(RecordError, match=name):
        read(json.dumps({key: value for key, value in GOOD.items() if key != name}).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"version":NaN}',
        b"\xff",
        b'{"id":"0123456789abcdef","id":"0123456789abcdef"}',
        json.dumps(GOOD).encode().ljust(key_records.MAX_BYTES + 1),
    ],
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    """What is no JSON object, says something twice, or is too large, is no record."""
    with pytest.raises(RecordError):
        read(data)


@given(times)
def test_times_are_to_the_second(at: int) -> None:
    """A time is written so that it reads as the same second."""
    assert time_of(time_text(at), "a time") == at
