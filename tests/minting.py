"""Key pairs and signed tokens for tests: an issuer in a few lines."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from genops_extauth.keyset import StaticKeys, from_secret, parse_jwks
from genops_extauth.shared_secrets import from_bytes
from genops_extauth.tokens import Issuer, KeySource

ISSUER = "https://idp.test/"
AUDIENCE = "genops-gateway"
NOW = 1_800_000_000.0
"""Seconds since the epoch; the tests' present."""

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
ATTRIBUTES = {name: (name,) for name in ("team", "project", "customer_id", "customer_tier", "cost_center")}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


@dataclass(frozen=True)
class KeyPair:
    """A signing key with the name and the algorithm under which its issuer uses it."""

    kid: str
    algorithm: str
    private: PrivateKey

    def jwk(self, **changes: object) -> dict[str, object]:
        """Publish the public half; a change to None leaves the member out."""
        published = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        published |= {"kid": self.kid, "alg": self.algorithm, "use": "sig", "key_ops": None} | changes
        return {name: value for name, value in published.items() if value is not None}

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def private_pem(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, message: bytes, algorithm: str | None = None) -> bytes:
        return jwt.get_algorithm_by_name(algorithm or self.algorithm).sign(message, self.private)


@dataclass(frozen=True)
class Shared:
    """A secret that an issuer shares with whoever checks its tokens."""

    secret: bytes = b"not-a-key-but-64-bytes-that-an-issuer-and-this-gateway-only-have"
    algorithm: str = "HS256"
    kid: str = "s1"

    def sign(self, message: bytes, algorithm: str | None = None) -> bytes:
        return hmac.digest(self.secret, message, getattr(hashlib, f"sha{(algorithm or self.algorithm)[2:]}"))


@cache
def rsa_pair(kid: str = "rsa1", algorithm: str = "RS256", bits: int = 2048) -> KeyPair:
    """Make an RSA pair; the same for the same arguments, for it takes a while."""
    return KeyPair(kid, algorithm, rsa.generate_private_key(65537, bits))


@cache
def ec_pair(kid: str = "ec1", algorithm: str = "ES256") -> KeyPair:
    curve = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1(), "ES256K": ec.SECP256K1()}
    return KeyPair(kid, algorithm, ec.generate_private_key(curve[algorithm]))


@cache
def ed_pair(kid: str = "ed1", *, large: bool = False) -> KeyPair:
    """Make an Ed25519 pair, or a `large` Ed448 one."""
    kind = ed448.Ed448PrivateKey if large else ed25519.Ed25519PrivateKey
    return KeyPair(kid, "EdDSA", kind.generate())


def jwks(*jwk: object) -> bytes:
    """Write a JWK Set of key pairs and ready JWKs."""
    return json.dumps({"keys": [key.jwk() if isinstance(key, KeyPair) else key for key in jwk]}).encode()


def claims(now: float = NOW, **changes: object) -> dict[str, object]:
    """Say what a good token says; a change to None leaves the claim out."""
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "user-1", "iat": int(now), "exp": int(now) + 300}
    said |= {"team": "search", "project": "p1", "customer_id": "c-42", "customer_tier": "gold"}
    return {name: value for name, value in (said | changes).items() if value is not None}


def token(
    pair: KeyPair | Shared, said: Mapping[str, object] | bytes, header: Mapping[str, object] | None = None
) -> bytes:
    """Sign `said`, or bytes in its place; `header` overrides members of the pair's own."""
    stated: dict[str, Any] = {"alg": pair.algorithm, "kid": pair.kid, "typ": "JWT"} | dict(header or {})
    payload = said if isinstance(said, bytes) else json.dumps(said).encode()
    signing_input = base64url(json.dumps(stated).encode()) + b"." + base64url(payload)
    return signing_input + b"." + base64url(pair.sign(signing_input))


def trusted(keys: KeyPair | Shared | KeySource | None = None, **changes: Any) -> Issuer:
    """Trust the issuer of these tests, with a key pair (by default that of `ed_pair`), a secret or a source of keys."""
    keys = keys or ed_pair()
    if isinstance(keys, Shared):
        secret = from_bytes(keys.secret, {keys.algorithm})
        changes = {"algorithms": secret.algorithms, **changes}
        keys = StaticKeys(from_secret(secret))
    source = StaticKeys(parse_jwks(jwks(keys), ALGORITHMS)[0]) if isinstance(keys, KeyPair) else keys
    return replace(Issuer(ISSUER, frozenset({AUDIENCE}), ALGORITHMS, source, ATTRIBUTES), **changes)


def base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
