"""Who asks: tokens, API keys and certificates, good and bad. Made when first asked for: signing takes a while."""

import base64
import concurrent.futures
import datetime as dt
import itertools
import json
import multiprocessing
import os
import random
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bench.api_keys import ApiKey, issued

ISSUER = "https://auth.example.com"
AUDIENCE = "genops-ai-api"
CUSTOMER = "customer-{:07d}"
SPIFFE_ID = "spiffe://prod.example/team/{team}/customer/{customer_id}"
"""Of workloads. As a pattern of the configuration it names two attributes."""

KEY_BITS = 2048  # RFC 7518, 3.3: the least for RS256, and what most issuers use
HOT = 100  # credentials in use at a time, in the rows of known ones
MANY = 100_000
LARGE = 12_800  # bytes of a claim: in base64 the token is longer than the 16 KiB that the sidecar reads


@dataclass(frozen=True, slots=True)
class Certificate:
    """A peer's certificate as Envoy tells of it: the name that is its principal, and PEM in URL encoding."""

    principal: str
    encoded: str


class Material:
    """Everything that the cases ask with, with `distinct` fresh and as many expired tokens. `public_key` is in PEM."""

    def __init__(self, distinct: int) -> None:
        self.distinct = distinct
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        self._valid = int(time.time()) + 3600
        self.public_key = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @cached_property
    def hot(self) -> list[str]:
        """Good ones that are asked with again and again."""
        return self._good(range(HOT))

    @cached_property
    def fresh(self) -> list[str]:
        """Good ones, all different."""
        return self._good(range(HOT, HOT + self.distinct))

    @cached_property
    def many(self) -> list[str]:
        """`MANY` good ones, the fresh ones among them: every row has a sidecar that has not seen any."""
        return (self.fresh + self._good(range(HOT + self.distinct, HOT + MANY)))[:MANY]

    @cached_property
    def expired(self) -> list[str]:
        """Signed by the issuer, all different, and an hour too late."""
        over = self._valid - 7200
        return _sign_all(self._key, [_claims(HOT + number, over) for number in range(self.distinct)])

    @cached_property
    def bad(self) -> str:
        """Well-formed, current, and not signed by the issuer."""
        return next(forged(self.hot[0]))

    @cached_property
    def oversized(self) -> str:
        """Right in everything but its length."""
        return _sign(_pem(self._key), [{**_claims(0, self._valid), "groups": "g" * LARGE}])[0]

    @cached_property
    def keys(self) -> list[ApiKey]:
        """API keys that are asked with again and again."""
        return [issued(CUSTOMER.format(number)) for number in range(HOT)]

    @cached_property
    def certificates(self) -> list[Certificate]:
        """Of workloads that ask again and again."""
        key = ec.generate_private_key(ec.SECP256R1())
        return [_certificate(key, CUSTOMER.format(number)) for number in range(HOT)]

    def _good(self, numbers: range) -> list[str]:
        return _sign_all(self._key, [_claims(number, self._valid) for number in numbers])


def forged(token: str) -> Iterator[str]:
    """Without end: the token with signatures that nobody made, all different, and the same in every run."""
    signing_input, _, _ = token.rpartition(".")
    dice = random.Random(2)
    while True:
        # Less than any modulus, or it would be refused by that, and not by the arithmetic (RFC 8017, 5.2.2).
        yield f"{signing_input}.{_base64(bytes(1) + dice.randbytes(KEY_BITS // 8 - 1))}"


def overdue(token: str) -> Iterator[str]:
    """Without end: tokens like this one with an end long ago, all different, with its signature."""
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    for number in itertools.count():
        changed = claims | {"exp": 1_000_000_000, "iat": 1_000_000_000, "jti": f"{number:016x}"}
        yield f"{header}.{_base64(json.dumps(changed).encode())}.{signature}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _claims(number: int, expires: int) -> dict[str, object]:
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": CUSTOMER.format(number),
        "iat": expires - 7200,
        "exp": expires,
        "jti": f"{number:016x}",
        "team": "search-relevance",
        "project": "assistant",
        "tier": "premium",
        "cost_center": "cc-4711",
        "scope": "llm.invoke models.read",
    }


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _sign_all(key: rsa.RSAPrivateKey, claims: Sequence[Mapping[str, object]]) -> list[str]:
    """In the order of `claims`, on every core."""
    spawn = multiprocessing.get_context("spawn")
    workers = len(os.sched_getaffinity(0))
    batches = [claims[start : start + 1000] for start in range(0, len(claims), 1000)]
    if len(batches) == 1:  # starting processes takes longer
        return _sign(_pem(key), claims)
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        return [token for batch in pool.map(_sign, itertools.repeat(_pem(key)), batches) for token in batch]


def _sign(pem: bytes, claims: Sequence[Mapping[str, object]]) -> list[str]:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("the bench signs with RS256: give it an RSA key")
    return [jwt.encode(dict(each), key, "RS256", headers={"kid": "bench-1"}) for each in claims]


def _certificate(key: ec.EllipticCurvePrivateKey, customer: str) -> Certificate:
    """As SPIRE makes them: P-256, an hour, one URI, an empty subject."""
    principal = SPIFFE_ID.format(team="search-relevance", customer_id=customer)
    name, start = x509.Name([]), dt.datetime.now(dt.UTC) - dt.timedelta(minutes=10)
    uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(principal)])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(hours=1))
        .add_extension(uri, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Certificate(principal, urllib.parse.quote(made.public_bytes(serialization.Encoding.PEM), safe=""))
