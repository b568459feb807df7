"""The life of an API key: its record, whether it holds now, and how a record becomes the next one.

A rotation has two steps, so that no crash between them can cost a customer its access:

    begun       the digest of the new secret stands in the record, as `pending`: it does not work yet
    (the new key is delivered: printed, or written to a file and synced)
    completed   the new secret works; those before it work until the overlap ends

A rotation that was begun and not completed changes nothing. Completed again, with the secret that was delivered, it
changes nothing either. Where the answer was lost it is begun again: then all secrets so far work for another overlap.
So at each moment the key that was delivered last, or the one before it, works.

Records are never mended in place: each transition makes the next `version`, and who writes it says which version it
read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from genops_extauth.apikeys import MAX_SECRETS
from genops_extauth.model import Denied, Identity
from genops_extauth.reasons import Reason

ISSUER = "api_key"
"""The issuer of identities that keys prove."""


class LifecycleError(ValueError):
    """Raised for a transition that a record does not allow; the message says what to do instead."""


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of a key: its digest, when it was made, when it ends (None: with its key), and by which rotation.

    Times are in whole seconds since the epoch, here and below.
    """

    digest: bytes = field(repr=False)
    created: int
    expires: int | None = None
    rotation: str = ""


@dataclass(frozen=True, slots=True)
class Revoked:
    """Since when a key is revoked, and why."""

    at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """All that is kept of a key. The last of its `secrets` is the current one; `pending` is not delivered yet."""

    id: str
    name: str
    secrets: tuple[Secret, ...]
    created: int
    version: int = 1
    attributes: Mapping[str, str] = field(default_factory=dict)
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    not_before: int | None = None
    expires: int | None = None
    revoked: Revoked | None = None
    pending: Secret | None = None

    def working(self, now: float) -> tuple[Secret, ...]:
        """The secrets that have not ended."""
        return tuple(each for each in self.secrets if _end(each.expires) > now)

    @property
    def rotation(self) -> str:
        """The rotation that made the current secret; empty where there was none."""
        return self.secrets[-1].rotation


def identities(record: Record) -> tuple[Identity, ...]:
    """Who shows it, by secret: the same but for when it ends."""
    return tuple(
        Identity(
            issuer=ISSUER,
            subject=record.id,
            attributes=record.attributes,
            expires_at=min(_end(secret.expires), _end(record.expires)),
            method="api_key",
            credential_id=record.id,
            scopes=record.scopes,
            roles=record.roles,
        )
        for secret in record.secrets
    )


def refusal(record: Record, place: int, now: float) -> Denied | None:
    """Why the key does not hold now, shown with its secret at `place`. Only who has a secret of it is told."""
    if record.revoked is not None:
        return Denied(Reason.API_KEY_REVOKED)
    if record.not_before is not None and now < record.not_before:
        return Denied(Reason.API_KEY_NOT_YET_VALID)
    if now >= _end(record.expires):
        return Denied(Reason.API_KEY_EXPIRED)
    if now >= _end(record.secrets[place].expires):
        return Denied(Reason.API_KEY_EXPIRED, "this secret was rotated out")
    return None


def begun(record: Record, rotation: str, digest: bytes, now: int) -> Record:
    """The record with a new secret that does not work yet. Raises `LifecycleError`.

    A rotation that another one began, and did not complete, is given up.
    """
    if record.revoked is not None:
        raise LifecycleError(f"{record.id} is revoked: issue another key")
    if rotation != record.rotation and len(record.working(now)) > 1:
        raise LifecycleError(
            f"{record.id} is in the overlap of rotation {record.rotation}: wait until that ends, or repeat it with "
            f"--rotation-id {record.rotation}; if a secret leaked, issue another key and revoke this one"
        )
    return replace(record, version=record.version + 1, pending=Secret(digest, now, rotation=rotation))


def completed(record: Record, now: int, overlap: int, expires: int | None = None) -> Record:
    """The record with its pending secret at work; those before it end after `overlap` seconds at the latest.

    `expires` is when the key ends from now on, None for as before. Raises `LifecycleError`.
    """
    if record.pending is None:
        raise LifecycleError(f"{record.id} has no rotation under way: begin one")
    until = int(min(now + overlap, _end(record.expires)))
    ends = record.expires if expires is None else expires
    if ends is not None and ends <= now:
        raise LifecycleError(f"{record.id} has expired: give it another end with --expires")
    leaving = tuple(replace(each, expires=until) for each in record.working(now)) if until > now else ()
    # Of answers that were lost on the way only the latest may have arrived after all; the first secret surely did.
    kept = leaving[:1] + leaving[1:][2 - MAX_SECRETS :]
    return replace(record, version=record.version + 1, secrets=(*kept, record.pending), pending=None, expires=ends)


def revoked(record: Record, now: int, reason: str) -> Record:
    """The record of a key that holds no more; the first revocation stands."""
    if record.revoked is not None:
        return record
    return replace(record, version=record.version + 1, revoked=Revoked(now, reason), pending=None)


def state(record: Record, now: int) -> str:
    """How a key is, in a word: revoked, expired, not yet valid, rotating, active."""
    if record.revoked is not None:
        return "revoked"
    if now >= _end(record.expires):
        return "expired"
    if now < (record.not_before or 0):
        return "not yet valid"
    return "rotating" if len(record.working(now)) > 1 else "active"


def ending_soon(records: Iterable[Record], now: int, within: int) -> list[Record]:
    """Those that end within so many seconds, the first one first."""
    ending = [each for each in records if each.revoked is None and now < _end(each.expires) <= now + within]
    return sorted(ending, key=lambda each: _end(each.expires))


def _end(expires: int | None) -> float:
    """The end of what may have none. 0 is one: who writes 1970 means that it is over."""
    return inf if expires is None else expires
