"""Verification keys: the set that one issuer has at one moment, and which of them to try for a token.

All of a set are public, or it is one `shared_secrets.Secret`: the two are never in one set.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from genops_extauth.publickey import Key, UnusableKeyError, from_jwk, from_pem_block
from genops_extauth.shared_secrets import Secret

MAX_KEYS = 100
"""Keys of one document. Large providers publish about a dozen; reading 10,000 would stall the event loop."""

MAX_CANDIDATES = 4
"""Keys tried for one token. An issuer that names no keys has two while it rotates, seldom three; without a cap a forged
token would cost as many signature checks as there are keys."""

_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)  # RFC 7468 section 2


class KeySetError(ValueError):
    """Raised when a document holds no usable key; the message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class KeySet:
    """The keys of one issuer at one moment. `fingerprint` is equal for equal content, in whatever order."""

    fingerprint: bytes
    by_kid: Mapping[str, tuple[Key, ...]]
    keys: tuple[Key, ...] | tuple[Secret]

    def select(self, kid: str | None, algorithm: str) -> tuple[Key | Secret, ...]:
        """The keys to try, at most `MAX_CANDIDATES`; empty when none is known.

        A `kid` is looked up and nothing else: it is an opaque word. Where no key has a name (a PEM file), a token's is
        ignored.
        """
        named: tuple[Key | Secret, ...] = self.keys if kid is None or not self.by_kid else self.by_kid.get(kid, ())
        return tuple(key for key in named if algorithm in key.algorithms)[:MAX_CANDIDATES]


@dataclass(frozen=True, slots=True)
class StaticKeys:
    """Keys that do not change, from a file or the environment: a `tokens.KeySource`."""

    keys: KeySet

    def current(self) -> KeySet:
        """Return the keys, always the same object."""
        return self.keys


def parse_jwks(document: bytes, algorithms: frozenset[str]) -> tuple[KeySet, tuple[str, ...]]:
    """Read a JWK Set (RFC 7517 section 5): the usable keys, and for each other one why it was skipped.

    `algorithms` are those that the issuer may use. One bad key never costs the others. Raises `KeySetError` when the
    document is not a JWK Set, has more than `MAX_KEYS` keys, or has no usable one.
    """
    keys: list[Key] = []
    skipped: list[str] = []
    for number, jwk in enumerate(_members(document), start=1):
        try:
            keys.append(from_jwk(jwk, algorithms))
        except UnusableKeyError as error:
            skipped.append(f"key {number}: {error}")
    if not keys:
        raise KeySetError(f"the JWK Set has no usable key ({'; '.join(skipped) or 'it is empty'})")
    return _key_set(keys), tuple(skipped)


def from_pem(pem: bytes, algorithms: frozenset[str]) -> KeySet:
    """Read public keys and certificates, up to `MAX_CANDIDATES` one after another: during a rotation there are two.

    Raises `KeySetError` when there is none, too many, a private one, or one that is unusable.
    """
    blocks = list(_PEM_BLOCK.finditer(pem))
    if any(b"PRIVATE KEY" in block[1] for block in blocks):
        raise KeySetError(
            "this is a private key, and whoever holds it can make tokens: replace it at its issuer, and give the new "
            "one's public half, made there by `openssl pkey -in key.pem -pubout`"
        )
    if not 1 <= len(blocks) <= MAX_CANDIDATES:
        raise KeySetError(
            f"{len(blocks)} PEM blocks: give 1 to {MAX_CANDIDATES}, each from `-----BEGIN PUBLIC KEY-----` "
            "(or `CERTIFICATE`) to its END line"
        )
    try:
        return _key_set([from_pem_block(block[0], algorithms) for block in blocks])
    except UnusableKeyError as error:
        raise KeySetError(f"the PEM key cannot be used: {error}") from None


def from_secret(secret: Secret) -> KeySet:
    """Make the set of an issuer that has a secret. A token's kid is ignored: the secret has no name."""
    return KeySet(hmac.digest(secret.value, b"genops-extauth key set", "sha256"), {}, (secret,))


def _members(document: bytes) -> list[object]:
    try:
        # Where a member stands twice the last one counts, as RFC 7517 section 4 permits: a slip in one key must not
        # cost the others.
        parsed = json.loads(document)
    except (ValueError, RecursionError):
        raise KeySetError("the document is not JSON: is this the issuer's jwks_uri?") from None
    keys = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(keys, list):
        raise KeySetError('the document is not a JWK Set, {"keys": [...]}: is this the issuer\'s jwks_uri?')
    if len(keys) > MAX_KEYS:
        raise KeySetError(f"the JWK Set has {len(keys)} keys, over {MAX_KEYS}: is this the issuer's jwks_uri?")
    return keys


def _key_set(keys: Iterable[Key]) -> KeySet:
    """Build a set; a key that is there twice counts once, one kid may name several keys."""
    distinct = {_digest(key): key for key in keys}
    by_kid: dict[str, tuple[Key, ...]] = {}
    for key in distinct.values():
        if key.kid is not None:
            by_kid[key.kid] = (*by_kid.get(key.kid, ()), key)
    fingerprint = hashlib.sha256(b"".join(sorted(distinct))).digest()
    return KeySet(fingerprint, by_kid, tuple(distinct.values()))


def _digest(key: Key) -> bytes:
    bound = json.dumps([key.kid, sorted(key.algorithms)])  # ASCII, also for a kid of lone surrogates
    public = key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(bound.encode() + public).digest()
