"""What is asked: Envoy's messages around credentials, encoded by `envoy-data-plane`.

That encoder shares no code with the product, and takes half a millisecond a message; so one message is encoded with a
placeholder, and the placeholder replaced by values of the same length.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.common.ratelimit.v3 as descriptors
import envoy_data_plane.envoy.service.auth.v3 as auth
import envoy_data_plane.envoy.service.ratelimit.v3 as ratelimit

from bench.credentials import CUSTOMER, Certificate

DOMAIN = "genops"
WIDE = "wide"
"""The domain of envoyproxy/ratelimit's file: `MOST_DESCRIPTORS` limits of a customer."""

MOST_DESCRIPTORS = 10
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


def checks(credentials: Iterable[str]) -> Iterator[bytes]:
    """The CheckRequest of each token, as gRPC messages."""
    return _filled(check_request, credentials)


def key_checks(keys: Iterable[str]) -> Iterator[bytes]:
    """The CheckRequest of each API key, as gRPC messages."""
    return _filled(key_request, keys)


def certificate_checks(certificates: Iterable[Certificate]) -> Iterator[bytes]:
    """The CheckRequest of each peer, as gRPC messages."""
    return (grpc_message(bytes(certificate_request(certificate))) for certificate in certificates)


def check_request(token: str) -> auth.CheckRequest:
    """As Envoy asks for `CLIENT_HEADERS` and a bearer token."""
    return _check_request({"authorization": f"Bearer {token}"})


def key_request(key: str) -> auth.CheckRequest:
    """As Envoy asks for `CLIENT_HEADERS` and an API key in its own header."""
    return _check_request({"x-api-key": key})


def certificate_request(certificate: Certificate) -> auth.CheckRequest:
    """As Envoy asks for `CLIENT_HEADERS` on a connection of mutual TLS, with `include_peer_certificate`."""
    return _check_request({}, certificate)


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


def _check_request(credential: Mapping[str, str], peer: Certificate | None = None) -> auth.CheckRequest:
    http = auth.AttributeContextHttpRequest(
        id="12140410427043126518",
        method=CLIENT_HEADERS[":method"],
        headers={**CLIENT_HEADERS, **credential},
        path=CLIENT_HEADERS[":path"],
        host=CLIENT_HEADERS[":authority"],
        scheme=CLIENT_HEADERS[":scheme"],
        protocol="HTTP/2",
        size=1182,
    )
    source = _peer("203.0.113.7", 51122)
    if peer is not None:
        source.principal, source.certificate = peer.principal, peer.encoded
    return auth.CheckRequest(
        attributes=auth.AttributeContext(
            source=source,
            destination=_peer("10.1.2.3", 8443),
            request=auth.AttributeContextRequest(http=http),
            metadata_context=core.Metadata(),
            route_metadata_context=core.Metadata(),
        )
    )


def _filled(request: Callable[[str], auth.CheckRequest], values: Iterable[str]) -> Iterator[bytes]:
    values = iter(values)
    first = next(values)
    placeholder = "T" * len(first)
    template = grpc_message(bytes(request(placeholder)))
    for value in itertools.chain((first,), values):
        if len(value) != len(placeholder):
            raise ValueError("the credentials of one row must have one length: pad their claims")
        yield template.replace(placeholder.encode(), value.encode())


def _peer(address: str, port: int) -> auth.AttributeContextPeer:
    socket_address = core.SocketAddress(address=address, port_value=port)
    return auth.AttributeContextPeer(address=core.Address(socket_address=socket_address))
