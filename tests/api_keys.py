"""API keys with their records, made on the spot."""

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import leaks
from genops_extauth import apikeys, key_records
from genops_extauth.key_lifecycle import Record, Revoked, Secret


class Key(NamedTuple):
    """A key, and its record, which goes into a file with its id for a name."""

    key: bytes
    record: Record

    @property
    def file(self) -> tuple[str, bytes]:
        """The name and the content of its record's file."""
        return f"{self.record.id}.json", key_records.written(self.record)


def issued(digest_key: bytes, said: Mapping[str, Any] | None = None) -> Key:
    """Make a key of which a fixture of vectors/authz.yaml says: attributes, and when it holds."""
    said, now = dict(said or {}), int(time.time())
    expires = now - 1 if said.pop("expires", None) else None
    not_before = now + 3600 if said.pop("not_before", None) else None
    revoked = Revoked(now - 60, "leaked") if said.pop("revoked", None) else None
    made = apikeys.minted(os.urandom)
    secret = Secret(apikeys.digest_of(made.text.encode(), digest_key), now - 3600)
    record = Record(
        made.id,
        "of a test",
        (secret,),
        now - 3600,
        attributes=said,
        not_before=not_before,
        expires=expires,
        revoked=revoked,
    )
    return Key(leaks.plant(made.text.encode()), record)
