"""One public key, and the algorithms it may verify: decided once, when it is loaded.

The token's header only picks among what was decided here. So no key of a wrong kind, for another use, too weak, too
large or private comes near a signature, and a published symmetric key is no key at all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from genops_extauth.jose import MAX_KID_LENGTH, decode_base64url
from genops_extauth.strict_json import MalformedError

MIN_RSA_BITS = 2048
"""RFC 7518 section 3.3."""

MAX_RSA_BITS = 8192
"""The work grows with the square of the size: a key of 64,000 bits loads, and then each token stalls the loop."""

_RSA_EXPONENT_BITS = 64
"""OpenSSL's own bound for large keys (OPENSSL_RSA_MAX_PUBEXP_BITS), here for all: the work grows with the exponent."""

_MAX_MEMBER_LENGTH = 1374
"""Characters: a modulus of `MAX_RSA_BITS` has 1,366, and some issuers put zero bytes in front."""

Public = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_EDDSA = frozenset({"EdDSA"})

ALGORITHMS = _RSA | frozenset(_CURVES.values()) | _EDDSA
"""What can be configured at all: RFC 7518 section 3.1 without ``none`` and HMAC, and RFC 8037 section 3.1."""

_MEMBERS = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # RFC 7518 section 6
_READERS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}  # PyJWT reads every key of a family through any of its names


class UnusableKeyError(ValueError):
    """Raised for a key that must not verify anything; the message says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One public key. `algorithms`: the JWS algorithms that it may verify, bound when it was loaded."""

    kid: str | None
    algorithms: frozenset[str]
    public: Public

    def signed(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is that of `message`. `algorithm` must be one of the key's."""
        # prepare_key is PyJWT's own check that the key's type and curve are the algorithm's.
        try:
            judge = jwt.get_algorithm_by_name(algorithm)
            return judge.verify(message, judge.prepare_key(self.public), signature) is True
        except Exception:  # noqa: BLE001 - whatever a library makes of hostile bytes, it was not a good signature
            return False


def from_jwk(jwk: object, algorithms: frozenset[str]) -> Key:
    """Read a JWK (RFC 7517 section 4) for an issuer that may use `algorithms`. Raises `UnusableKeyError`."""
    if not isinstance(jwk, dict):
        raise UnusableKeyError("not a JSON object")
    kty, kid, alg, operations = jwk.get("kty"), jwk.get("kid"), jwk.get("alg"), jwk.get("key_ops", ["verify"])
    if not isinstance(kty, str) or kty not in _MEMBERS:
        raise UnusableKeyError("its kty is not RSA, EC or OKP")
    if not _PRIVATE.isdisjoint(jwk):
        raise UnusableKeyError("its private half is published: whoever reads it can make tokens")
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise UnusableKeyError("it is not for checking signatures (use, key_ops)")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID_LENGTH):
        raise UnusableKeyError(f"its kid is not a string of up to {MAX_KID_LENGTH} characters")
    if alg is not None and not isinstance(alg, str):
        raise UnusableKeyError("its alg is not a string")
    return _bind(_load_jwk(jwk, kty), kid, alg, algorithms)


def from_pem_block(block: bytes, algorithms: frozenset[str]) -> Key:
    """Read one PEM public key or certificate (RFC 7468), which names neither a kid nor an algorithm.

    A certificate only wraps its key: its dates, chain and name are not looked at. Raises `UnusableKeyError`.
    """
    try:
        if block.startswith(b"-----BEGIN CERTIFICATE-----"):
            return _bind(load_pem_x509_certificate(block).public_key(), None, None, algorithms)
        return _bind(load_pem_public_key(block), None, None, algorithms)
    except UnusableKeyError:
        raise
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKeyError("it does not parse: give the whole block, as openssl wrote it") from None


def _load_jwk(jwk: Mapping[str, object], kty: str) -> object:
    for name in _MEMBERS[kty]:
        value = jwk.get(name)
        if not isinstance(value, str) or len(value) > _MAX_MEMBER_LENGTH:
            raise UnusableKeyError(f"its {name} is missing or too long")
        try:
            decode_base64url(value.encode())  # PyJWT's own reader passes over foreign characters.
        except (MalformedError, UnicodeEncodeError):
            raise UnusableKeyError(f"its {name} is not base64url without padding") from None
    try:
        return jwt.get_algorithm_by_name(_READERS[kty]).from_jwk(dict(jwk))
    except Exception:  # noqa: BLE001 - whatever a library says of one key, the others must not suffer
        raise UnusableKeyError("its numbers are no key of its kty and crv") from None


def _bind(public: object, kid: str | None, alg: str | None, algorithms: frozenset[str]) -> Key:
    """Decide what a key may verify: what its kind can do, narrowed to its own ``alg`` and to the issuer's list."""
    able = _abilities(public)
    if alg is not None and alg not in able:
        raise UnusableKeyError(f"its alg is not one that its kty and crv can do: {_names(able)}")
    offered = able if alg is None else frozenset({alg})
    if offered.isdisjoint(algorithms):
        raise UnusableKeyError(f"it is for {_names(offered)}, and `algorithms` has only {_names(algorithms)}")
    return Key(kid, offered & algorithms, public)  # type: ignore[arg-type]  # _abilities raised for any other kind


def _abilities(public: object) -> frozenset[str]:
    match public:
        case RSAPublicKey(key_size=bits) if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
            raise UnusableKeyError(f"RSA of {bits} bits, not {MIN_RSA_BITS} to {MAX_RSA_BITS}")
        case RSAPublicKey() if public.public_numbers().e.bit_length() > _RSA_EXPONENT_BITS:
            raise UnusableKeyError(f"its public exponent has more than {_RSA_EXPONENT_BITS} bits")
        case RSAPublicKey():
            return _RSA
        case EllipticCurvePublicKey() if public.curve.name in _CURVES:
            return frozenset({_CURVES[public.curve.name]})
        case Ed25519PublicKey() | Ed448PublicKey():
            return _EDDSA
    raise UnusableKeyError(
        "keys of its kind and curve sign no tokens here: RSA, P-256, P-384, P-521, Ed25519, Ed448 do"
    )


def _names(algorithms: Iterable[str]) -> str:
    return ", ".join(sorted(algorithms))
