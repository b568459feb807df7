"""What is asked: signed tokens, and Envoy's messages around them, encoded by `envoy-data-plane`.

That encoder shares no code with the product, and takes half a millisecond a message; so one message is encoded with a
placeholder, and the placeholder replaced by values of the same length.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.common.ratelimit.v3 as descriptors
import envoy_data_plane.envoy.service.auth.v3 as auth
import envoy_data_plane.envoy.service.ratelimit.v3 as ratelimit
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ISSUER = "https://auth.example.com"
AUDIENCE = "genops-ai-api"
DOMAIN = "genops"
WIDE = "wide"
"""The domain of envoyproxy/ratelimit's file: `MOST_DESCRIPTORS` limits of a customer."""

MOST_DESCRIPTORS = 10
KEY_BITS = 2048  # RFC 7518, 3.3: the least for RS256, and what most issuers use
CUSTOMER = "customer-{:07d}"
HOT_TOKENS = 100
KEYS = 1_000_000  # customers of the row with many keys

# What a browser-facing Envoy forwards for one call of an API; with the token about 1.1 kB.
CLIENT_HEADERS: Mapping[str, str] = {
    ":authority": "api.example.com",
    ":method": "POST",
    ":path": "/v1/chat/completions?stream=true",
    ":scheme": "https",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "content-length": "1182",
    "content-type": "application/json",
    "user-agent": "openai-python/2.8.1",
    "x-envoy-external-address": "203.0.113.7",
    "x-forwarded-for": "203.0.113.7",
    "x-forwarded-proto": "https",
    "x-request-id": "5f1f2a0c-6e0e-4a52-8f0e-0d9c2a7a4d11",
    "x-stainless-lang": "python",
}


@dataclass(frozen=True, slots=True)
class Material:
    """Everything the cases ask with: tokens, and the issuer's public key in PEM.

    `fresh` and `expired` tokens are all different; `bad` is well-formed, current, and signed by another key.
    """

    public_key: bytes
    hot: tuple[str, ...]
    fresh: tuple[str, ...]
    expired: tuple[str, ...]
    bad: str


def material(distinct: int) -> Material:
    """With `distinct` fresh and as many expired tokens."""
    issuer, stranger = _new_key(), _new_key()
    now = int(time.time())
    valid, over = now + 3600, now - 3600
    hot = [_claims(number, valid) for number in range(HOT_TOKENS)]
    fresh = [_claims(HOT_TOKENS + number, valid) for number in range(distinct)]
    expired = [_claims(number, over) for number in range(distinct)]
    tokens = iter(_sign_all(issuer, [*hot, *fresh, *expired]))
    return Material(
        public_key=issuer.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        hot=tuple(itertools.islice(tokens, len(hot))),
        fresh=tuple(itertools.islice(tokens, distinct)),
        expired=tuple(tokens),
        bad=_sign(_pem(stranger), [_claims(0, valid)])[0],
    )


def checks(tokens: Sequence[str]) -> Iterator[bytes]:
    """The CheckRequest of each token, as gRPC messages."""
    placeholder = "T" * len(tokens[0])
    template = grpc_message(bytes(check_request(placeholder)))
    for token in tokens:
        if len(token) != len(placeholder):
            raise ValueError("the tokens of one row must have one length: pad their claims")
        yield template.replace(placeholder.encode(), token.encode())


def check_request(token: str) -> auth.CheckRequest:
    """As Envoy asks for `CLIENT_HEADERS` and a bearer token."""
    http = auth.AttributeContextHttpRequest(
        id="12140410427043126518",
        method=CLIENT_HEADERS[":method"],
        headers={**CLIENT_HEADERS, "authorization": f"Bearer {token}"},
        path=CLIENT_HEADERS[":path"],
        host=CLIENT_HEADERS[":authority"],
        scheme=CLIENT_HEADERS[":scheme"],
        protocol="HTTP/2",
        size=1182,
    )
    return auth.CheckRequest(
        attributes=auth.AttributeContext(
            source=_peer("203.0.113.7", 51122),
            destination=_peer("10.1.2.3", 8443),
            request=auth.AttributeContextRequest(http=http),
            metadata_context=core.Metadata(),
            route_metadata_context=core.Metadata(),
        )
    )


def limits(tier: str, customers: Iterator[str]) -> Iterator[bytes]:
    """ShouldRateLimit for each customer (names of one length), as gRPC messages."""
    first = next(customers)
    template = grpc_message(bytes(limit_request(tier, first)))
    for customer in itertools.chain((first,), customers):
        yield template.replace(first.encode(), customer.encode())


def wide_limits(count: int, customers: Iterator[str]) -> Iterator[bytes]:
    """ShouldRateLimit with `count` descriptors for each customer, as gRPC messages."""
    first = next(customers)
    template = grpc_message(bytes(wide_request(count, first)))
    for customer in itertools.chain((first,), customers):
        yield template.replace(first.encode(), customer.encode())


def wide_request(count: int, customer: str) -> ratelimit.RateLimitRequest:
    """Descriptors of two entries each, all of one customer, every one with a limit of its own."""
    made = [
        descriptors.RateLimitDescriptor(
            entries=[
                descriptors.RateLimitDescriptorEntry(key="limit", value=str(number)),
                descriptors.RateLimitDescriptorEntry(key="customer", value=customer),
            ]
        )
        for number in range(count)
    ]
    return ratelimit.RateLimitRequest(domain=WIDE, descriptors=made)


def limit_request(tier: str, customer: str) -> ratelimit.RateLimitRequest:
    """One descriptor of two entries, as the shipped manifests make it."""
    entries = {"customer_tier": tier, "customer_id": customer}
    descriptor = descriptors.RateLimitDescriptor(
        entries=[descriptors.RateLimitDescriptorEntry(key=key, value=value) for key, value in entries.items()]
    )
    return ratelimit.RateLimitRequest(domain=DOMAIN, descriptors=[descriptor])


def random_customers() -> Iterator[str]:
    """Without end; the same sequence in every run."""
    dice = random.Random(1)
    return (CUSTOMER.format(dice.randrange(KEYS)) for _ in itertools.count())


def grpc_message(message: bytes) -> bytes:
    """Length-prefixed, not compressed: gRPC over HTTP/2, Length-Prefixed-Message."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _peer(address: str, port: int) -> auth.AttributeContextPeer:
    socket_address = core.SocketAddress(address=address, port_value=port)
    return auth.AttributeContextPeer(address=core.Address(socket_address=socket_address))


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
    }


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _sign_all(key: rsa.RSAPrivateKey, claims: Sequence[Mapping[str, object]]) -> list[str]:
    """In the order of `claims`, on every core."""
    spawn = multiprocessing.get_context("spawn")
    workers = len(os.sched_getaffinity(0))
    batches = [claims[start : start + 1000] for start in range(0, len(claims), 1000)]
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        return [token for batch in pool.map(_sign, itertools.repeat(_pem(key)), batches) for token in batch]


def _sign(pem: bytes, claims: Sequence[Mapping[str, object]]) -> list[str]:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("the bench signs with RS256: give it an RSA key")
    return [jwt.encode(dict(each), key, "RS256", headers={"kid": "bench-1"}) for each in claims]
