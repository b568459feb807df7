"""Verification keys: which key may check which algorithm, decided once, when the keys are loaded.

The token's header only picks among what was decided here. So no key of a wrong kind, for another use, too weak, too large or private can
come near a signature, and a published symmetric key is no key at all.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from genops_extauth.jose import MAX_KID_LENGTH, Malformed, decode_base64url

MAX_KEYS = 100
"""Keys of one document. The largest providers publish about a dozen; each key costs a parse on the event loop, 10,000 would stall it."""

MAX_CANDIDATES = 4
"""Keys tried for one token. An issuer that names no keys has two while it rotates, rarely three; without a cap a forged token would cost
as many signature checks as there are keys."""

MIN_RSA_BITS = 2048
"""RFC 7518 section 3.3."""

MAX_RSA_BITS = 8192
"""The work grows with the square of the size: a key of 64,000 bits loads, and then every token stalls the event loop."""

_MAX_RSA_EXPONENT = 2**64
"""OpenSSL's own bound for large keys (``OPENSSL_RSA_MAX_PUBEXP_BITS``), here for all: the work grows with the exponent too."""

Public = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_EDDSA = frozenset({"EdDSA"})

ALGORITHMS = _RSA | frozenset(_CURVES.values()) | _EDDSA
"""What can be configured at all: RFC 7518 section 3.1 without ``none`` and HMAC, and RFC 8037 section 3.1."""

_COORDINATES = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}
_READERS = {
    "RSA": "RS256",
    "EC": "ES256",
    "OKP": "EdDSA",
}  # any algorithm of the family: PyJWT reads all its keys through each
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # RFC 7518 section 6
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


class KeySetError(ValueError):
    """Raised when a document holds no usable key; the message says what to do."""


class _Unusable(ValueError):
    """Raised for one key; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One public key. `algorithms`: the JWS algorithms that it may verify, bound when it was loaded."""

    kid: str | None
    algorithms: frozenset[str]
    public: Public


@dataclass(frozen=True, slots=True, eq=False)
class KeySet:
    """The keys of one issuer at one moment. `fingerprint` is equal for equal content, in whatever order."""

    fingerprint: bytes
    by_kid: Mapping[str, tuple[Key, ...]]
    keys: tuple[Key, ...]

    def select(self, kid: str | None, algorithm: str) -> tuple[Key, ...]:
        """The keys to try, at most `MAX_CANDIDATES`; empty when none is known.

        A token's `kid` is looked up and nothing else: an opaque word. Where no key has a name (a PEM file), a token's is ignored.
        """
        named = self.keys if kid is None or not self.by_kid else self.by_kid.get(kid, ())
        return tuple(key for key in named if algorithm in key.algorithms)[:MAX_CANDIDATES]


@dataclass(frozen=True, slots=True)
class StaticKeys:
    """Keys that do not change, from a file or the environment; a `tokens.KeySource`."""

    keys: KeySet

    def current(self) -> KeySet:
        """Always the same object."""
        return self.keys


def parse_jwks(document: bytes, algorithms: frozenset[str]) -> tuple[KeySet, tuple[str, ...]]:
    """Read a JWK Set (RFC 7517 section 5): the usable keys, and for each other one why it was skipped.

    `algorithms` are those the issuer may use. One bad key never costs the others. Raises `KeySetError` when the document is not a JWK Set,
    has more than `MAX_KEYS` keys, or has no usable one.
    """
    keys: list[Key] = []
    skipped: list[str] = []
    seen: set[bytes] = set()
    for number, jwk in enumerate(_jwks(document), start=1):
        try:
            key = _from_jwk(jwk, algorithms)
        except _Unusable as error:
            skipped.append(f"key {number}: {error}")
            continue
        if (digest := _digest(key)) not in seen:
            seen.add(digest)
            keys.append(key)
    if not keys:
        raise KeySetError(
            f"the JWK Set has no usable key ({'; '.join(skipped) or 'it is empty'}): check the URL and `algorithms`"
        )
    return _key_set(keys), tuple(skipped)


def from_pem(pem: bytes, algorithms: frozenset[str]) -> KeySet:
    """Read public keys and certificates, up to `MAX_CANDIDATES` one after another: during a rotation there are two.

    A certificate only wraps its key: its dates, chain and name are not looked at. Raises `KeySetError` on anything unusable.
    """
    blocks = list(_PEM.finditer(pem))
    if any(b"PRIVATE KEY" in block[1] for block in blocks):
        raise KeySetError(
            "this is a private key, and whoever holds it can make tokens: replace it at its issuer, and give its public half, "
            "made there by `openssl pkey -in key.pem -pubout`"
        )
    if not 1 <= len(blocks) <= MAX_CANDIDATES:
        raise KeySetError(
            f"found {len(blocks)} PEM blocks: give 1 to {MAX_CANDIDATES} of `-----BEGIN PUBLIC KEY-----` or `-----BEGIN CERTIFICATE-----`"
        )
    try:
        return _key_set([_bind(None, _load_pem(block[0], block[1]), None, algorithms) for block in blocks])
    except _Unusable as error:
        raise KeySetError(f"the PEM key is unusable: {error}") from error


def _jwks(document: bytes) -> list[object]:
    try:
        # Of a member that stands twice the last counts, as RFC 7517 section 4 permits: a slip in one key must not cost the others.
        parsed = json.loads(document)
    except (ValueError, RecursionError):
        raise KeySetError("the document is not JSON: check that the URL is the issuer's jwks_uri") from None
    keys = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(keys, list):
        raise KeySetError(
            'the document is not a JWK Set, {"keys": [...]}: check that the URL is the issuer\'s jwks_uri'
        )
    if len(keys) > MAX_KEYS:
        raise KeySetError(
            f"the JWK Set has {len(keys)} keys, more than {MAX_KEYS}: check that the URL is the issuer's jwks_uri"
        )
    return keys


def _from_jwk(jwk: object, algorithms: frozenset[str]) -> Key:
    if not isinstance(jwk, dict):
        raise _Unusable("not a JSON object")
    kty, kid, alg, operations = jwk.get("kty"), jwk.get("kid"), jwk.get("alg"), jwk.get("key_ops", ["verify"])
    if not isinstance(kty, str) or kty not in _COORDINATES:
        raise _Unusable("its kty is not RSA, EC or OKP")
    if not _PRIVATE.isdisjoint(jwk):
        raise _Unusable("its private half is published: whoever reads it can make tokens")
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise _Unusable("it is not for checking signatures (use, key_ops)")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_LENGTH):
        raise _Unusable(f"its kid is not a string of up to {MAX_KID_LENGTH} characters")
    if alg is not None and not isinstance(alg, str):
        raise _Unusable("its alg is not a string")
    return _bind(kid, _load_jwk(jwk, kty), alg, algorithms)


def _load_jwk(jwk: Mapping[str, object], kty: str) -> object:
    for name in _COORDINATES[kty]:
        value = jwk.get(name)
        # A longer modulus than is permitted would be refused below, but only after it was turned into a number.
        if not isinstance(value, str) or len(value) > MAX_RSA_BITS // 6 + 8:
            raise _Unusable(f"its {name} is missing or too long")
        try:
            decode_base64url(value.encode())  # PyJWT's own reader skips foreign characters
        except (Malformed, UnicodeEncodeError):
            raise _Unusable(f"its {name} is not base64url without padding") from None
    try:
        return jwt.get_algorithm_by_name(_READERS[kty]).from_jwk(dict(jwk))
    except Exception:  # noqa: BLE001 - whatever a library says of one key, the others must not suffer
        raise _Unusable("its numbers are not a key of its kty and crv") from None


def _load_pem(block: bytes, label: bytes) -> object:
    try:
        return load_pem_x509_certificate(block).public_key() if label == b"CERTIFICATE" else load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm):
        raise _Unusable("it does not parse: is the block complete?") from None


def _bind(kid: str | None, public: object, alg: str | None, algorithms: frozenset[str]) -> Key:
    """Decide what a key may verify: what its kind can do, narrowed to its own ``alg`` and to what the issuer may use."""
    if not isinstance(public, Public):
        raise _Unusable("keys of its kind sign no tokens")
    able = _abilities(public)
    if alg is not None and alg not in able:
        raise _Unusable(f"its alg is not one of {_names(able)}, which its kty and crv can do")
    bound = (able if alg is None else frozenset({alg})) & algorithms
    if not bound:
        raise _Unusable(
            f"it is for {_names(able if alg is None else {alg})}, and `algorithms` allows {_names(algorithms)}"
        )
    return Key(kid, bound, public)


def _abilities(public: Public) -> frozenset[str]:
    if isinstance(public, RSAPublicKey):
        if not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
            raise _Unusable(f"RSA of {public.key_size} bits, not {MIN_RSA_BITS} to {MAX_RSA_BITS}")
        if public.public_numbers().e >= _MAX_RSA_EXPONENT:
            raise _Unusable("its public exponent is over 64 bits")
        return _RSA
    if isinstance(public, EllipticCurvePublicKey):
        if public.curve.name not in _CURVES:
            raise _Unusable("its curve is not P-256, P-384 or P-521")
        return frozenset({_CURVES[public.curve.name]})
    return _EDDSA


def _names(algorithms: Iterable[str]) -> str:
    return ", ".join(sorted(algorithms))


def _digest(key: Key) -> bytes:
    public = key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    bound = json.dumps([key.kid, sorted(key.algorithms)])
    return hashlib.sha256(bound.encode() + b"\0" + public).digest()


def _key_set(keys: list[Key]) -> KeySet:
    by_kid: dict[str, tuple[Key, ...]] = {}
    for key in keys:
        if key.kid is not None:
            by_kid[key.kid] = (*by_kid.get(key.kid, ()), key)
    return KeySet(hashlib.sha256(b"".join(sorted(map(_digest, keys)))).digest(), by_kid, tuple(keys))
