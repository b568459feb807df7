"""The token recipes of vectors/authz.yaml: what its `dsl.token` and `dsl.values` say, as far as its cases use it."""

import base64
import datetime as dt
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from minting import KeyPair, base64url, ec_pair, ed_pair, rsa_pair

AUTHZ: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "vectors" / "authz.yaml").read_text("utf-8"))

SHARED_SECRET = b"published-in-the-jwks-so-no-secret"
"""The key `oct1`: symmetric, and yet in the JWK Set."""


def pair(name: str) -> KeyPair:
    """Return the key pair of a fixture."""
    fixture = AUTHZ["fixtures"]["keys"][name]
    algorithm = fixture.get("sign_alg") or fixture["alg"]
    if fixture["kty"] == "EC":
        return ec_pair(name, algorithm)
    return ed_pair(name) if fixture["kty"] == "OKP" else rsa_pair(name, algorithm, fixture["bits"])


def published() -> list[dict[str, object]]:
    """Return the JWKs of the first issuer, the unusable ones among them."""
    jwks: list[dict[str, object]] = []
    for name, fixture in AUTHZ["fixtures"]["keys"].items():
        if fixture["in_jwks"] is not True:
            continue
        if fixture["kty"] == "oct":
            jwks.append({"kty": "oct", "kid": name, "alg": fixture["alg"], "k": base64url(SHARED_SECRET).decode()})
        else:
            jwks.append(pair(name).jwk(alg=fixture["alg"], use=fixture.get("use", "sig")))
    return jwks


@cache
def _certificate(name: str) -> x509.Certificate:
    private = pair(name).private
    assert isinstance(private, rsa.RSAPrivateKey)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(subject, subject, private.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + dt.timedelta(days=36500))
    return builder.sign(private, SHA256())


def mint(recipe: Mapping[str, Any], now: int) -> bytes:
    """Follow a recipe."""
    key = pair(recipe.get("key", "rsa1"))
    header = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
    header_text = recipe.get("header_raw") or _member_text(header, recipe, "header", now)
    claims_text = recipe.get("claims_raw") or _member_text(AUTHZ["defaults"]["claims"], recipe, "claims", now)
    payload = claims_text.encode(recipe.get("claims_encoding", "utf-8"))
    signing_input = base64url(header_text.encode()) + b"." + base64url(payload)
    token = signing_input + b"." + base64url(_signature(recipe, key, signing_input))
    for mutation in recipe.get("mutate", []):
        name, _, argument = mutation.partition(":")
        token = _MUTATIONS[name](token, argument)
    return token


def _member_text(defaults: Mapping[str, Any], recipe: Mapping[str, Any], part: str, now: int) -> str:
    members = {**defaults, **recipe.get(part, {})}
    for name in recipe.get(f"{part}_drop", []):
        del members[name]
    raw = recipe.get(f"{part}_json", {})
    texts = {name: json.dumps(_value(value, now)) for name, value in members.items() if name not in raw}
    texts |= {name: str(_value(value, now)) for name, value in raw.items()}
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items()) + "}"


def _value(value: Any, now: int) -> Any:
    if isinstance(value, list):
        return [_value(item, now) for item in value]
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    name, _, argument = value[1:].partition(":")
    if name.startswith("now"):
        return now + int(name[3:] or 0)
    return _VALUES[name](argument, now)


def _repeat(argument: str, _now: int) -> str:
    character, _, count = argument.partition(":")
    return character * int(count)


_VALUES: dict[str, Callable[[str, int], Any]] = {
    "str": lambda argument, now: str(_value(argument, now)),
    "repeat": _repeat,
    "random": lambda _argument, _now: secrets.token_hex(8),
    "digits": lambda argument, _now: "9" * int(argument),
    "pub": lambda argument, _now: pair(argument).jwk(),
    "cert": lambda argument, _now: base64.b64encode(_certificate(argument).public_bytes(Encoding.DER)).decode(),
}


def _signature(recipe: Mapping[str, Any], key: KeyPair, signing_input: bytes) -> bytes:
    given = recipe.get("signature")
    if given is not None:
        return b"" if given == "empty" else bytes.fromhex(given.removeprefix("hex:"))
    sign = recipe.get("sign", {})
    if "hmac" in sign:
        return hmac.digest(_secret(sign["hmac"]), signing_input, hashlib.sha256)
    return pair(sign["key"]).sign(signing_input, sign["alg"]) if sign else key.sign(signing_input)


def _secret(form: str) -> bytes:
    kind, _, argument = form.partition(":")
    match kind:
        case "public":
            style, _, name = argument.partition(":")
            return PUBLIC_FORMS[style](name)
        case "hex":
            return bytes.fromhex(argument)
        case "text":
            return argument.encode()
        case _:
            return SHARED_SECRET


def _public(name: str, encoding: Encoding, form: PublicFormat) -> bytes:
    return pair(name).private.public_key().public_bytes(encoding, form)


def _pem(name: str) -> bytes:
    return _public(name, Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


PUBLIC_FORMS: dict[str, Callable[[str], bytes]] = {
    "pem_spki_nonl": lambda name: _pem(name).rstrip(b"\n"),
    "pem_pkcs1": lambda name: _public(name, Encoding.PEM, PublicFormat.PKCS1),
    "der_spki": lambda name: _public(name, Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "jwk_json": lambda name: json.dumps(pair(name).jwk(), separators=(",", ":")).encode(),
    "x509_pem": lambda name: _certificate(name).public_bytes(Encoding.PEM),
    "pem_body": lambda name: b"".join(_pem(name).splitlines()[1:-1]),
}


def _flip_bit(token: bytes, _segment: str) -> bytes:
    header, payload, signature = token.split(b".")
    decoded = bytearray(base64.urlsafe_b64decode(payload + b"=="))
    decoded[len(decoded) // 2] ^= 1
    return b".".join((header, base64url(bytes(decoded)), signature))


def _standard_alphabet(token: bytes, _segment: str) -> bytes:
    signed, _, signature = token.rpartition(b".")
    standard = signature.replace(b"-", b"+").replace(b"_", b"/")
    assert standard != signature, "this signature has no character that tells the alphabets apart: sign again"
    return signed + b"." + standard


_MUTATIONS: dict[str, Callable[[bytes, str], bytes]] = {
    "flip_bit": _flip_bit,
    "append": lambda token, argument: token + argument.encode(),
    "b64std": _standard_alphabet,
}
