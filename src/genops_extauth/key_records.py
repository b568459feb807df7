"""Records of API keys as JSON, in the store and in files: strict, for what is not understood must not let anybody in.

    {"version": 2, "id": "4f0c...", "name": "acme batch", "created": "2026-01-01T00:00:00Z",
     "secrets": [{"digest": "9c1e...", "created": "2026-01-01T00:00:00Z", "expires": "2026-06-02T00:00:00Z"},
                 {"digest": "77ab...", "created": "2026-06-01T00:00:00Z", "rotation": "r-51c9d2e0"}],
     "attributes": {"team": "ml", "project": "batch", "customer_id": "acme", "customer_tier": "premium"},
     "scopes": ["llm.invoke"], "roles": [], "expires": "2027-01-01T00:00:00Z"}

Times are RFC 3339 in UTC, to the second. What is absent is written neither as null nor as an empty text.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from genops_extauth.apikeys import MAX_SECRETS, is_id
from genops_extauth.claims import attributes
from genops_extauth.key_lifecycle import Record, Revoked, Secret
from genops_extauth.model import Denied
from genops_extauth.reserved_headers import ATTRIBUTES
from genops_extauth.strict_json import MalformedError, parse_object

T = TypeVar("T")

MAX_BYTES = 16 * 1024
"""Of a record. The attributes have 256 bytes each at most; scopes and roles are the rest."""

_MAX_ITEMS = 2000  # as `strict_json` counts them: more than fit into so many bytes

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LONGEST_TEXT = 200
_KINDS: Mapping[type, str] = {dict: "mapping", list: "list", str: "text"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ROTATION = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SCOPE = re.compile(r"[!#-\[\]-~]{1,128}")  # RFC 6749, 3.3
_MEMBERS = frozenset(
    {"version", "id", "name", "secrets", "pending", "attributes", "scopes", "roles"}
    | {"created", "not_before", "expires", "revoked"}
)


class RecordError(ValueError):
    """Raised for a text that is no record of a key; the message says where."""


def written(record: Record) -> bytes:
    """A record as JSON, in one line."""
    document: dict[str, object] = {
        "version": record.version,
        "id": record.id,
        "name": record.name,
        "created": time_text(record.created),
        "secrets": [_secret_document(each) for each in record.secrets],
        "attributes": dict(record.attributes),
        "scopes": sorted(record.scopes),
        "roles": sorted(record.roles),
    }
    document |= {name: time_text(at) for name in ("not_before", "expires") if (at := getattr(record, name)) is not None}
    if record.pending is not None:
        document["pending"] = _secret_document(record.pending)
    if record.revoked is not None:
        document["revoked"] = {"at": time_text(record.revoked.at), "reason": record.revoked.reason}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def read(data: bytes) -> Record:
    """Read a record. Raises `RecordError`."""
    if len(data) > MAX_BYTES:
        raise RecordError(f"a record has at most {MAX_BYTES} bytes")
    try:
        document = parse_object(data, _MAX_ITEMS)
    except MalformedError as error:
        raise RecordError(str(error)) from None
    return _record(_members(document, _MEMBERS, "the record"))


def time_text(at: int) -> str:
    """``2026-01-01T00:00:00Z``."""
    return datetime.fromtimestamp(at, UTC).strftime(_TIME)


def time_of(given: object, what: str) -> int:
    """Read such a time, in seconds since the epoch. Raises `RecordError`."""
    try:
        return int(datetime.strptime(_typed(given, str, what), _TIME).replace(tzinfo=UTC).timestamp())
    except RecordError:
        raise
    except ValueError:
        raise RecordError(f"{what}: write a time such as 2026-01-01T00:00:00Z") from None


def attributes_of(given: Mapping[str, object]) -> dict[str, str]:
    """Check governance attributes. Raises `RecordError`."""
    if unknown := given.keys() - set(ATTRIBUTES):
        raise RecordError(f"attributes: {min(unknown)!r} is none; there are {', '.join(ATTRIBUTES)}")
    found = attributes(given, {name: (name,) for name in ATTRIBUTES}, {})
    if isinstance(found, Denied):
        raise RecordError(
            f"attributes.{found.detail}: 1 to 256 visible ASCII characters, single spaces inside, no comma"
        )
    return found


def words_of(given: object, what: str) -> frozenset[str]:
    """Check scopes or roles. Raises `RecordError`."""
    words = _typed(given, list, what)
    if not all(isinstance(each, str) and _SCOPE.fullmatch(each) for each in words):
        raise RecordError(f'{what}: a list of words of visible ASCII without " and \\')
    return frozenset(words)


def name_of(given: object, what: str = "name") -> str:
    """Check a name or a reason: what people are shown. Raises `RecordError`."""
    text = _typed(given, str, what)
    if not text.isprintable() or not 0 < len(text.strip()) <= len(text) <= _LONGEST_TEXT:
        raise RecordError(f"{what}: 1 to {_LONGEST_TEXT} characters that can be printed")
    return text


def rotation_of(given: object) -> str:
    """Check the id of a rotation. Raises `RecordError`."""
    if not isinstance(given, str) or not _ROTATION.fullmatch(given):
        raise RecordError("rotation: 1 to 64 letters, digits and . _ -")
    return given


def _record(found: Mapping[str, object]) -> Record:
    key_id, version = found.get("id"), found.get("version")
    if not isinstance(key_id, str) or not is_id(key_id):
        raise RecordError("id: 16 digits and lower-case letters")
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version < 2**53:
        raise RecordError("version: a whole number from 1")
    secrets = tuple(_secret(each, "secrets") for each in _typed(found.get("secrets"), list, "secrets"))
    if not 0 < len(secrets) <= MAX_SECRETS:
        raise RecordError(f"secrets: from 1 to {MAX_SECRETS}")
    return Record(
        id=key_id,
        name=name_of(found.get("name")),
        secrets=secrets,
        created=time_of(found.get("created"), "created"),
        version=version,
        attributes=attributes_of(_typed(found.get("attributes", {}), dict, "attributes")),
        scopes=words_of(found.get("scopes", []), "scopes"),
        roles=words_of(found.get("roles", []), "roles"),
        not_before=_optional(found, "not_before", time_of),
        expires=_optional(found, "expires", time_of),
        revoked=_optional(found, "revoked", _revoked),
        pending=_optional(found, "pending", _secret),
    )


def _secret_document(secret: Secret) -> dict[str, object]:
    document: dict[str, object] = {"digest": secret.digest.hex(), "created": time_text(secret.created)}
    if secret.expires is not None:
        document["expires"] = time_text(secret.expires)
    return document | ({"rotation": secret.rotation} if secret.rotation else {})


def _secret(given: object, what: str) -> Secret:
    found = _members(given, frozenset({"digest", "created", "expires", "rotation"}), what)
    digest = found.get("digest")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise RecordError(f"{what}: a digest is 64 digits of 0-9a-f")
    return Secret(
        bytes.fromhex(digest),
        time_of(found.get("created"), f"{what}.created"),
        _optional(found, "expires", time_of),
        rotation_of(found["rotation"]) if "rotation" in found else "",
    )


def _revoked(given: object, what: str) -> Revoked:
    found = _members(given, frozenset({"at", "reason"}), what)
    return Revoked(time_of(found.get("at"), f"{what}.at"), name_of(found.get("reason"), f"{what}.reason"))


def _optional(found: Mapping[str, object], name: str, read_one: Callable[[object, str], T]) -> T | None:
    return read_one(found[name], name) if name in found else None


def _typed(given: object, kind: type[T], what: str) -> T:
    if not isinstance(given, kind):
        raise RecordError(f"{what}: is no { ({dict: 'mapping', list: 'list'}.get(kind, 'text')) }")  # type: ignore[call-overload] # T is one of three
    return given


def _members(given: object, allowed: frozenset[str], what: str) -> dict[str, object]:
    found: dict[str, object] = _typed(given, dict, what)
    if unknown := found.keys() - allowed:
        raise RecordError(f"{what} has an unknown member {min(unknown)[:64]!r}; there are {', '.join(sorted(allowed))}")
    return found
