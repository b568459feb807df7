"""`keyset`, with `publickey` below it."""

import datetime as dt
import json
import warnings
from collections.abc import Iterable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.keyset import MAX_CANDIDATES, KeySetError, StaticKeys, from_pem, parse_jwks
from genops_extauth.publickey import ALGORITHMS, Key
from genops_extauth.shared_secrets import Secret
from minting import KeyPair, base64url, ec_pair, ed_pair, jwks, rsa_pair

RSA, EC, ED = rsa_pair(), ec_pair(), ed_pair()


def kids(found: Iterable[Key | Secret]) -> list[str | None]:
    """The names of public keys."""
    return [key.kid for key in found if isinstance(key, Key)]


def huge_rsa() -> dict[str, object]:
    """Make the JWK of an RSA key of 64,000 bits: any odd number looks like one."""
    return {"kty": "RSA", "kid": "huge", "e": "AQAB", "n": base64url(b"\xff" * 8_000).decode()}


UNUSABLE: list[tuple[str, object, str]] = [
    ("no object", "ed1", "not a JSON object"),
    ("no kty", ED.jwk(kty=None), "kty is not"),
    ("kty a list", ED.jwk(kty=["OKP"]), "kty is not"),
    ("symmetric", {"kty": "oct", "kid": "o", "k": "AAAA"}, "kty is not"),
    ("private RSA", RSA.jwk(d="AQAB"), "private half is published"),
    ("symmetric in disguise", EC.jwk(k="AAAA"), "private half is published"),
    ("encryption", RSA.jwk(use="enc"), "not for checking signatures"),
    ("use a list", RSA.jwk(use=["sig"]), "not for checking signatures"),
    ("signing only", EC.jwk(key_ops=["sign"]), "not for checking signatures"),
    ("key_ops a string", EC.jwk(key_ops="verify"), "not for checking signatures"),
    ("kid a number", ED.jwk(kid=1), "kid is not"),
    ("kid too long", ED.jwk(kid="k" * 129), "kid is not"),
    ("alg a number", ED.jwk(alg=1), "alg is not a string"),
    ("alg none", ED.jwk(alg="none"), "alg is not one that its kty and crv can do: EdDSA"),
    ("alg HS256", RSA.jwk(alg="HS256"), "alg is not one that its kty and crv can do"),
    ("alg of another curve", EC.jwk(alg="ES384"), "alg is not one that its kty and crv can do: ES256"),
    ("alg not allowed", RSA.jwk(alg="PS512"), "it is for PS512, and `algorithms` has only"),
    ("no modulus", {"kty": "RSA", "e": "AQAB"}, "its n is missing"),
    ("modulus padded", RSA.jwk(n="AAAA===="), "its n is not base64url"),
    ("modulus not ASCII", RSA.jwk(n="AAAé"), "its n is not base64url"),
    ("modulus too long", huge_rsa(), "its n is missing or too long"),
    ("1024 bits", rsa_pair("weak", bits=1024).jwk(), "RSA of 1024 bits, not 2048 to 8192"),
    ("8208 bits", RSA.jwk(n=base64url(b"\xff" * 1026).decode()), "RSA of 8208 bits, not 2048 to 8192"),
    ("exponent 1", RSA.jwk(e="AQ"), "its numbers are no key"),
    ("exponent of 2040 bits", RSA.jwk(e=base64url(b"\x7f" * 255).decode()), "exponent has more than 64 bits"),
    ("secp256k1", ec_pair("k1", "ES256K").jwk(alg=None), "sign no tokens here"),
    ("not on the curve", EC.jwk(x=base64url(bytes(32)).decode()), "its numbers are no key"),
    ("another curve's length", EC.jwk(crv="P-384"), "its numbers are no key"),
    ("X25519", ED.jwk(crv="X25519"), "its numbers are no key"),
    ("short Ed25519", ED.jwk(x="AAAA"), "its numbers are no key"),
]
ALLOWED = ALGORITHMS - {"PS512"}


@pytest.mark.parametrize(("bad", "why"), [row[1:] for row in UNUSABLE], ids=[row[0] for row in UNUSABLE])
def test_one_bad_key_never_costs_the_others(bad: object, why: str) -> None:
    """A key that must not verify is skipped with a reason, and its neighbours are kept."""
    keys, skipped = parse_jwks(jwks(ec_pair("before"), bad, ed_pair("after")), ALLOWED)
    assert kids(keys.keys) == ["before", "after"]
    assert len(skipped) == 1
    assert skipped[0].startswith("key 2: ")
    assert why in skipped[0]


@pytest.mark.parametrize(
    ("pair", "algorithms"),
    [
        (RSA, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (EC, {"ES256"}),
        (ec_pair("p384", "ES384"), {"ES384"}),
        (ec_pair("p521", "ES512"), {"ES512"}),
        (ED, {"EdDSA"}),
        (ed_pair("448", large=True), {"EdDSA"}),
    ],
)
def test_a_key_may_do_what_its_kind_can(pair: KeyPair, algorithms: set[str]) -> None:
    """A key that names no algorithm does those of its kind; its own name and the issuer's list each narrow them."""
    (free,) = parse_jwks(jwks(pair.jwk(alg=None)), ALGORITHMS)[0].keys
    (named,) = parse_jwks(jwks(pair.jwk()), ALGORITHMS)[0].keys
    (listed,) = parse_jwks(jwks(pair.jwk(alg=None)), frozenset({pair.algorithm, "HS256"}))[0].keys
    assert free.algorithms == algorithms
    assert named.algorithms == listed.algorithms == {pair.algorithm}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[]", "not a JWK Set"),
        (b'{"keys": {}}', "not a JWK Set"),
        (b'{"keys": []}', "it is empty"),
        (b'{"keys": [1, {}]}', "no usable key .key 1: not a JSON object; key 2: its kty"),
        (json.dumps({"keys": [{}] * 101}).encode(), "has 101 keys, over 100"),
    ],
)
def test_what_is_no_key_set_says_so(document: bytes, message: str) -> None:
    """A document without a usable key is an error that tells what is wrong with it."""
    with pytest.raises(KeySetError, match=message):
        parse_jwks(document, ALGORITHMS)


def test_a_member_that_stands_twice_costs_nothing() -> None:
    """RFC 7517 section 4: of members with one name the last may count."""
    document = jwks(EC, ED).replace(b'"use"', b'"use": "enc", "use"', 1)
    assert len(parse_jwks(document, ALGORITHMS)[0].keys) == 2


def test_equal_content_has_an_equal_fingerprint() -> None:
    """Order, repetition and unknown members do not change a fingerprint; a kid, an algorithm and a key do."""

    def fingerprint(*keys: object) -> bytes:
        return parse_jwks(jwks(*keys), ALGORITHMS)[0].fingerprint

    same = {fingerprint(EC, RSA), fingerprint(RSA, EC), fingerprint(RSA, EC, RSA), fingerprint(RSA, EC.jwk(x5t="a"))}
    others = {fingerprint(EC), fingerprint(EC, RSA.jwk(kid="2")), fingerprint(EC, RSA.jwk(alg=None))}
    others |= {fingerprint(EC, rsa_pair("rsa2").jwk(kid="rsa1")), fingerprint(EC, RSA.jwk(kid="\ud800"))}
    assert len(same) == 1
    assert len(same | others) == 6


def test_a_kid_chooses_its_keys_and_no_others() -> None:
    """A kid that is known chooses its keys for the algorithm; one that is not, none; without one all are tried."""
    second = ec_pair("ec2")
    keys, _ = parse_jwks(jwks(EC, second, RSA.jwk(kid="ec1"), ED), ALGORITHMS)
    chosen = {kid: kids(keys.select(kid, "ES256")) for kid in ("ec1", "ed1", "nobody", None)}
    assert chosen == {"ec1": ["ec1"], "ed1": [], "nobody": [], None: ["ec1", "ec2"]}
    assert kids(keys.select("ec1", "RS256")) == ["ec1"]


def test_keys_without_names_serve_any_kid() -> None:
    """Where an issuer names none of its keys, what a token says of a name is ignored."""
    keys, _ = parse_jwks(jwks(EC.jwk(kid=None), ED.jwk(kid=None)), ALGORITHMS)
    assert len(keys.select("any", "ES256")) == len(keys.select(None, "EdDSA")) == 1


def test_few_keys_are_tried() -> None:
    """However many keys there are, one token never costs more than a few signature checks."""
    keys, _ = parse_jwks(jwks(*[ed_pair(f"ed{number}") for number in range(20)]), ALGORITHMS)
    assert len(keys.keys) == 20
    assert len(keys.select(None, "EdDSA")) == MAX_CANDIDATES


# PEM


def certificate(pair: KeyPair) -> bytes:
    assert isinstance(pair.private, rsa.RSAPrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "idp.test")])
    start = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, pair.private.public_key(), 1, start, start + dt.timedelta(days=1))
    return builder.sign(pair.private, SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "pem",
    [
        RSA.public_pem(),
        RSA.public_pem().replace(b"\n", b"\r\n"),
        RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        certificate(RSA),
        b"# our issuer, since May\n" + RSA.public_pem() + b"\n",
        RSA.public_pem() + certificate(RSA),
    ],
    ids=["SPKI", "CRLF", "PKCS#1", "certificate", "with comment", "twice"],
)
def test_every_usual_pem_is_read(pem: bytes) -> None:
    """A public key is read from each form that openssl writes, and a certificate for its key."""
    (key,) = from_pem(pem, frozenset({"RS256", "ES256"})).keys
    assert kids([key]) == [None]
    assert key.algorithms == {"RS256"}


def test_two_pem_keys_serve_a_rotation() -> None:
    """Several keys one after another are all tried; the source always gives the same object."""
    keys = from_pem(RSA.public_pem() + rsa_pair("rsa2").public_pem(), frozenset({"RS256"}))
    assert len(keys.select("any", "RS256")) == 2
    assert StaticKeys(keys).current() is keys


UNUSABLE_PEM: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "0 PEM blocks: give 1 to 4"),
    ("no armour", b"".join(RSA.public_pem().splitlines()[1:-1]), "0 PEM blocks"),
    ("no end", RSA.public_pem()[:-30], "0 PEM blocks"),
    ("too many", RSA.public_pem() * 5, "5 PEM blocks"),
    ("private", RSA.private_pem(), "this is a private key.*pubout"),
    ("private beside public", RSA.public_pem() + EC.private_pem(), "this is a private key"),
    ("garbage", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "does not parse"),
    ("garbled certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "does not parse"),
    ("of no use here", EC.public_pem(), "it is for ES256, and `algorithms` has only RS256"),
    ("weak", rsa_pair("weak", bits=1024).public_pem(), "RSA of 1024 bits"),
]


@pytest.mark.parametrize(("pem", "message"), [row[1:] for row in UNUSABLE_PEM], ids=[row[0] for row in UNUSABLE_PEM])
def test_an_unusable_pem_is_refused_aloud(pem: bytes, message: str) -> None:
    """A PEM that cannot be used is an error that says what to do, and never shows a private key."""
    with pytest.raises(KeySetError, match=message) as caught:
        from_pem(pem, frozenset({"RS256"}))
    content = [line for line in pem.splitlines() if not line.startswith(b"-----")]
    assert not any(line in str(caught.value).encode() for line in content)


def test_a_dsa_key_is_refused() -> None:
    """A key of a kind that signs no tokens is an error, not a crash."""
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
        public = dsa.DSAParameterNumbers(p=2**2047 + 9, q=2**255 + 95, g=4)
        pem = (
            dsa.DSAPublicNumbers(16, public).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    with pytest.raises(KeySetError, match="sign no tokens here"):
        from_pem(pem, ALGORITHMS)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2), max_leaves=3
)


@given(st.sampled_from([RSA, EC, ED]), st.dictionaries(st.sampled_from(sorted({*RSA.jwk(), *EC.jwk()})), JSON))
def test_no_jwk_whatever_raises(pair: KeyPair, changes: dict[str, Any]) -> None:
    """Members of any type make a key unusable, or a key; never an error that takes the good keys along."""
    good = ed_pair("good")
    keys, skipped = parse_jwks(jwks(good, pair.jwk() | changes), ALGORITHMS)
    assert kids(keys.keys[:1]) == ["good"]
    assert len(keys.keys) + len(skipped) == 2
    assert all(key.algorithms <= ALGORITHMS for key in keys.keys)
