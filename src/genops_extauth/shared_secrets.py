"""Shared secrets: HMAC keys, of issuers that have no key pair (RFC 7518, section 3.2).

Whoever can check such a token can make one. So a secret is never mixed with public keys: an issuer has the one or the
others (`tokens.Issuer`), a secret never comes from a JWK Set, and nothing that is a public key in any form becomes a
secret, or everybody who has that key could sign (CVE-2022-29217).
"""

import binascii
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import MappingProxyType

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key

MIN_BYTES = MappingProxyType({"HS256": 32, "HS384": 48, "HS512": 64})
"""The algorithms, each with its hash's size: no secret may be shorter (RFC 7518, section 3.2)."""

_HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
_JUDGE = jwt.get_algorithm_by_name("HS256")  # of forms of keys: all three algorithms judge alike
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")  # base64url to base64


class SecretError(ValueError):
    """Raised for a secret that must not sign anything; the message says what to do and quotes nothing of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Secret:
    """A secret, and the algorithms that it may verify."""

    algorithms: frozenset[str]
    value: bytes = field(repr=False)

    def signed(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is that of `message`, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(hmac.digest(self.value, message, _HASHES[algorithm]), signature)


def from_bytes(value: bytes, algorithms: Iterable[str]) -> Secret:
    """Take a secret for some of `MIN_BYTES`. Raises `SecretError`."""
    allowed = frozenset(algorithms)
    if not allowed or not allowed <= MIN_BYTES.keys():
        raise SecretError(f"a secret is for {', '.join(MIN_BYTES)} and for nothing else")
    strongest = max(allowed)
    if len(value) < MIN_BYTES[strongest]:
        raise SecretError(
            f"shorter than the {MIN_BYTES[strongest]} bytes that {strongest} needs (RFC 7518, 3.2): make another at "
            "its issuer, for example with `openssl rand -hex 64`"
        )
    if any(map(_is_key, _readings(value))):
        raise SecretError(
            "this is a key or a certificate: whoever has its public half could sign. Public keys stand under "
            "identity.jwt; a secret is random bytes, for example of `openssl rand -hex 64`"
        )
    return Secret(allowed, value)


def _readings(value: bytes) -> Iterator[bytes]:
    """What a secret may be meant as: itself, and where it is base64 (a PEM block without its armour) what that says."""
    yield value.strip()
    text = b"".join(value.split()).translate(_TO_STANDARD).rstrip(b"=")
    try:
        yield binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error:
        return


def _is_key(data: bytes) -> bool:
    if b"-----BEGIN " in data:
        return True
    try:
        _JUDGE.prepare_key(data)  # refuses PEM, OpenSSH, DER and JWKs
    except jwt.InvalidKeyError:
        return bool(data)  # it refuses nothing at all too, which is no key
    try:
        load_der_private_key(data, None)
    except TypeError:  # It wants a password.
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True
