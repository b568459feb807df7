import base64
import json

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.keyset import from_secret
from genops_extauth.shared_secrets import MIN_BYTES, SecretError, from_bytes
from minting import Shared, ec_pair, ed_pair, jwks, rsa_pair
from token_recipes import PUBLIC_FORMS

PRIVATE = rsa_pair().private
PEM = rsa_pair().public_pem()


@pytest.mark.parametrize("algorithm", MIN_BYTES)
def test_a_secret_is_as_long_as_its_hash(algorithm: str) -> None:
    """One byte less than RFC 7518 (3.2) wants is refused, and the refusal does not hold the secret."""
    secret = bytes(range(128, 256))[: MIN_BYTES[algorithm]]

    assert from_bytes(secret, {algorithm}).algorithms == {algorithm}
    with pytest.raises(SecretError, match=f"shorter than the {MIN_BYTES[algorithm]} bytes that {algorithm} needs"):
        from_bytes(secret[:-1], {algorithm})
    with pytest.raises(SecretError, match="shorter than the 64 bytes that HS512 needs"):
        from_bytes(bytes(range(63)), MIN_BYTES)


@pytest.mark.parametrize("algorithms", [[], ["RS256"], ["HS256", "RS256"], ["none"], ["hs256"]])
def test_a_secret_is_for_hmac_alone(algorithms: list[str]) -> None:
    """A secret for an algorithm of public keys, or for none, is refused."""
    with pytest.raises(SecretError, match="for HS256, HS384, HS512 and for nothing else"):
        from_bytes(Shared().secret, algorithms)


KEYS: dict[str, bytes] = {form: encode("rsa1") for form, encode in PUBLIC_FORMS.items()} | {
    "EC PEM": ec_pair().public_pem(),
    "Ed25519 PEM": ed_pair().public_pem(),
    "PEM after blanks": b"\n  \xef\xbb\xbf" + PEM,
    "half a PEM block": PEM[:120],
    "PEM in base64": base64.b64encode(PEM),
    "PEM body, wrapped": b"\n".join(PEM.splitlines()[1:-1]),
    "PEM body, base64url": b"".join(PEM.splitlines()[1:-1]).translate(bytes.maketrans(b"+/", b"-_")).rstrip(b"="),
    "private PEM": rsa_pair().private_pem(),
    "private DER": PRIVATE.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    "private DER with a password": PRIVATE.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    ),
    "OpenSSH": PRIVATE.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    "JWK Set": jwks(rsa_pair()),
    "symmetric JWK": json.dumps({"kty": "oct", "k": base64.b64encode(bytes(64)).decode()}).encode(),
    "JWK in base64": base64.urlsafe_b64encode(json.dumps(rsa_pair().jwk()).encode()),
}


@pytest.mark.parametrize("form", KEYS)
def test_no_key_is_a_secret(form: str) -> None:
    """A key of any form is refused: with it published, everybody could sign (CVE-2022-29217)."""
    with pytest.raises(SecretError, match="this is a key or a certificate"):
        from_bytes(KEYS[form], {"HS256"})


@given(st.binary(min_size=64, max_size=200) | st.binary(min_size=48, max_size=200).map(base64.b64encode))
def test_random_bytes_are_a_secret(secret: bytes) -> None:
    """Random bytes, raw or in base64, are taken as they are, and sign what they are to sign and nothing else."""
    made = from_bytes(secret, MIN_BYTES)
    for algorithm in MIN_BYTES:
        signature = Shared(secret, algorithm).sign(b"message")

        assert made.signed(algorithm, b"message", signature)
        assert not made.signed(algorithm, b"massage", signature)
        assert not made.signed(algorithm, b"message", signature[:-1])
        assert not made.signed(algorithm, b"message", b"")


def test_a_secret_is_not_shown() -> None:
    """Neither the secret nor the set that holds it prints it."""
    made = from_bytes(Shared().secret, {"HS256"})

    assert Shared().secret.decode() not in f"{made!r} {made} {from_secret(made)!r}"
