"""An issuer's key server that can misbehave: real HTTP on a free loopback port, in the event loop of the test."""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

Private = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey
Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]
Jwk = dict[str, Any]

WELL_KNOWN = "/.well-known/openid-configuration"


def public_jwk(private: Private, kid: str, **members: object) -> Jwk:
    """The public half of a key as a JWK with the name `kid`; `members` are added, or replace what is there."""
    match private.public_key():
        case RSAPublicKey() as public:
            jwk = RSAAlgorithm.to_jwk(public, as_dict=True)
        case EllipticCurvePublicKey() as public:
            jwk = ECAlgorithm.to_jwk(public, as_dict=True)
        case Ed25519PublicKey() as public:
            jwk = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**jwk, "kid": kid, "use": "sig", **members}


def key_set(jwks: Sequence[Mapping[str, object]]) -> bytes:
    """A JWK Set as it is sent."""
    return json.dumps({"keys": list(jwks)}).encode()


class FaultyIssuer:
    """Serves a JWK Set at `url`, or misbehaves: any `Fault` below can be put in `fault`, None is good behaviour.

    `requests` are the headers of each request, oldest first. While `gate` is cleared, requests wait at it.

    It describes itself as `name` in a discovery document; `document_fault`, `document_requests` and `document_gate` are
    that document's, and `said` are members that it has besides, or in place of what it should have.
    """

    def __init__(self, jwks: Sequence[Mapping[str, object]] = (), tls: ssl.SSLContext | None = None) -> None:
        self.jwks = list(jwks)
        self.fault: Fault | None = None
        self.requests: list[Mapping[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.said: dict[str, object] = {}
        self.document_fault: Fault | None = None
        self.document_requests: list[Mapping[str, str]] = []
        self.document_gate = asyncio.Event()
        self.document_gate.set()
        self._tls = tls
        self._arrival = asyncio.Condition()
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def name(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{self.name}/jwks.json"

    def document(self) -> bytes:
        """Its discovery document, as it is sent."""
        said = {"issuer": self.name, "jwks_uri": self.url, "id_token_signing_alg_values_supported": ["RS256", "ES256"]}
        return json.dumps(said | self.said).encode()

    async def asked(self, times: int, *, documents: int = 0) -> None:
        """Wait until `times` requests for the keys have come in, and some for the document, since the start."""
        async with self._arrival:
            await self._arrival.wait_for(
                lambda: len(self.requests) >= times and len(self.document_requests) >= documents
            )

    async def up(self) -> None:
        """Listen; after `down`, on the same port."""
        app = web.Application()
        app.router.add_get(WELL_KNOWN, self._describe)
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        await web.SockSite(self._runner, listener, ssl_context=self._tls).start()

    async def down(self) -> None:
        """Stop listening and drop every connection: the next one is refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        async with self._arrival:
            self.document_requests.append(request.headers)
            self._arrival.notify_all()
        await self.document_gate.wait()
        if self.document_fault is not None:
            return await self.document_fault(request)
        return web.Response(body=self.document(), content_type="application/json")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        async with self._arrival:
            self.requests.append(request.headers)
            self._arrival.notify_all()
        await self.gate.wait()
        if self.fault is not None:
            return await self.fault(request)
        return web.Response(body=key_set(self.jwks), content_type="application/json")


@contextlib.asynccontextmanager
async def faulty_issuer(
    jwks: Sequence[Mapping[str, object]] = (), tls: ssl.SSLContext | None = None
) -> AsyncIterator[FaultyIssuer]:
    """Run one; it is down afterwards."""
    issuer = FaultyIssuer(jwks, tls)
    await issuer.up()
    try:
        yield issuer
    finally:
        await issuer.down()


def answers(body: bytes = b"", *, status: int = 200, content_type: str = "application/json", **headers: str) -> Fault:
    """Any whole answer. A `_` in a header's name stands for ``-``."""

    async def fault(_: web.Request) -> web.StreamResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, status=status, content_type=content_type, headers=names)

    return fault


def html() -> Fault:
    """A captive portal, or a login page: status 200."""
    return answers(b"<!doctype html><title>Sign in</title>", content_type="text/html")


def redirects(to: str, status: int = 302) -> Fault:
    """Points to another place."""
    return answers(status=status, Location=to)


def bomb(size: int) -> Fault:
    """A body of `size` spaces, which gzip makes a thousand times smaller."""
    return answers(gzip.compress(b" " * size), Content_Encoding="gzip")


def streams(size: int, chunk: bytes = b" " * 65_536) -> Fault:
    """A body of `size` bytes in chunks, its length not told."""

    async def fault(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client had enough
            for _ in range(size // len(chunk)):
                await response.write(chunk)
        return response

    return fault


def drips(interval: float = 0.01) -> Fault:
    """A body that never ends, a byte each `interval` seconds: no pause is ever long."""

    async def fault(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(interval)
        return response

    return fault


def says(raw: bytes) -> Fault:
    """Any bytes in place of an HTTP answer, and the end of the connection."""

    async def fault(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(raw)
        request.transport.close()
        return web.Response()

    return fault
