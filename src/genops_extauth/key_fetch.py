"""One fetch from an issuer: bounded in time and size, nothing followed, and its errors translated in one place.

An issuer is trusted to name its keys and with nothing else. Its server may be broken or taken over: it must not be able
to hold us up, fill the memory, block the event loop or send us elsewhere (redirects: CVE-2026-102267).
"""

import asyncio
import enum
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import aiohttp

from genops_extauth.keyset import KeySet, KeySetError, parse_jwks
from genops_extauth.secure_uri import require_secure

T = TypeVar("T")

_HEADERS: Final = {
    "Accept": "application/jwk-set+json, application/json",  # RFC 7517 section 8.5.2; what comes back is not trusted
    "User-Agent": "genops-extauth",  # some issuers' firewalls refuse requests without one
}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})  # RFC 9110 section 15.4
_LONGEST_DETAIL: Final = 500
"""Characters. A set of 100 unusable keys has 100 reasons, and the first few say it all."""


class Step(enum.StrEnum):
    """Which of an issuer's documents was asked for."""

    DISCOVERY = "discovery"
    KEYS = "keys"


class FetchError(enum.StrEnum):
    """Why a fetch failed: for metrics and logs."""

    CONNECT = "connect"
    """The name did not resolve, or the connection was refused or lost."""
    TLS = "tls"
    """The server's certificate or handshake was refused."""
    TIMEOUT = "timeout"
    """The whole fetch took too long, in whichever part."""
    PROTOCOL = "protocol"
    """The answer is not HTTP, or broke off."""
    REDIRECT = "redirect"
    """The answer points elsewhere: configure the URI that it points to, if that is right."""
    STATUS = "status"
    """The answer's status is not 200."""
    TOO_LARGE = "too_large"
    """The body is over the limit, after decompression."""
    NOT_A_KEY_SET = "not_a_key_set"
    """The body is not a JWK Set, has too many keys, or no usable one."""
    NOT_A_DISCOVERY_DOCUMENT = "not_a_discovery_document"
    """The body is not the metadata of an OpenID provider, or names no key set."""
    ISSUER_MISMATCH = "issuer_mismatch"
    """The discovery document is another issuer's: configure its issuer exactly as it writes it, if that is right."""
    JWKS_URI_REFUSED = "jwks_uri_refused"
    """The discovery document names a key set that must not be fetched: not https, or an address inside."""
    UNEXPECTED = "unexpected"
    """Anything else: a fault of ours."""


class FetchFailed(Exception):  # noqa: N818 - `FetchError` is its code
    """Raised when a fetch brought nothing. `detail` is in our words or the system's, never the server's."""

    def __init__(self, code: FetchError, detail: str, step: Step = Step.KEYS) -> None:
        super().__init__(f"{step}: {code}: {detail}")
        self.code = code
        self.detail = detail
        self.step = step


@dataclass(frozen=True, slots=True)
class Found:
    """What a fetch brought. `skipped` says why, for each key that cannot be used; `remarks` what else is to be told."""

    keys: KeySet
    skipped: tuple[str, ...]
    remarks: tuple[str, ...] = ()


# The nearest ancestor counts. aiohttp's root, ClientError, is left out: with it no test could tell a missing one.
_CODES: Final[dict[type[BaseException], FetchError]] = {
    aiohttp.ClientConnectionError: FetchError.CONNECT,
    aiohttp.ClientSSLError: FetchError.TLS,
    aiohttp.ServerFingerprintMismatch: FetchError.TLS,
    aiohttp.ServerTimeoutError: FetchError.TIMEOUT,
    aiohttp.ClientResponseError: FetchError.PROTOCOL,
    aiohttp.ClientPayloadError: FetchError.PROTOCOL,
    aiohttp.UploadAbortedError: FetchError.PROTOCOL,
    aiohttp.RedirectClientError: FetchError.REDIRECT,
    aiohttp.TooManyRedirects: FetchError.REDIRECT,
    aiohttp.InvalidURL: FetchError.UNEXPECTED,  # `require_secure` came before
    aiohttp.NonHttpUrlClientError: FetchError.UNEXPECTED,
    OSError: FetchError.CONNECT,
    ssl.SSLError: FetchError.TLS,
    TimeoutError: FetchError.TIMEOUT,
    KeySetError: FetchError.NOT_A_KEY_SET,
    Exception: FetchError.UNEXPECTED,
}


def open_session() -> aiohttp.ClientSession:
    """Make the session that every issuer's keys are fetched through; the caller closes it. Needs a running event loop.

    No cookies, no proxies or passwords from the environment. Connections are not kept: an issuer is asked every few
    minutes, and a new connection sees its new addresses and certificate.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        trust_env=False,
    )


@dataclass(frozen=True, slots=True)
class KeysAt:
    """The JWK Set at a URI: a `jwks.Place`. Raises `ValueError` for a URI that keys must not come from.

    `algorithms` are those that the issuer may use.
    """

    session: aiohttp.ClientSession
    uri: str
    algorithms: frozenset[str]

    def __post_init__(self) -> None:
        require_secure(self.uri)

    async def fetch(self, *, seconds: float, max_bytes: int) -> Found:
        """Fetch and read the set, in at most `seconds`; `max_bytes` caps it as decompressed. Raises `FetchFailed`."""
        read = partial(parse_jwks, algorithms=self.algorithms)
        return Found(*await fetch(self.session, self.uri, read, seconds=seconds, max_bytes=max_bytes))


async def fetch(
    session: aiohttp.ClientSession, uri: str, read: Callable[[bytes], T], *, seconds: float, max_bytes: int
) -> T:
    """Fetch the document at `uri` and `read` it, in at most `seconds` from looking up the name to the last key.

    `max_bytes` caps the body as decompressed. Raises `FetchFailed`.
    """
    try:
        async with asyncio.timeout(seconds):
            document = await _get(session, uri, max_bytes)
            # 100 keys take 2 to 7 ms, a hostile half MiB 20 ms (measured): every request would wait for so long.
            return await asyncio.to_thread(read, document)
    except Exception as error:
        raise translated(error) from error


async def _get(session: aiohttp.ClientSession, uri: str, max_bytes: int) -> bytes:
    # aiohttp's own time limits are off: they round up, and each covers a part only.
    async with session.get(uri, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=None)) as response:
        if response.status in _REDIRECTS:
            raise FetchFailed(FetchError.REDIRECT, f"HTTP {response.status}")
        if response.status != 200:  # noqa: PLR2004 - 203 or 206 is not the document either
            raise FetchFailed(FetchError.STATUS, f"HTTP {response.status}")
        body = bytearray()
        # Content-Length says nothing of what comes, and of what comes decompressed even less: count what arrives.
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > max_bytes:
                raise FetchFailed(FetchError.TOO_LARGE, f"over {max_bytes} bytes")
        return bytes(body)


def translated(error: Exception) -> FetchFailed:
    """Say in our terms why a fetch failed."""
    if isinstance(error, FetchFailed):
        return error
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    return FetchFailed(code, _detail(error)[:_LONGEST_DETAIL])


def _detail(error: Exception) -> str:
    """Only texts that the server cannot write: reason phrases, header lines and bodies would end in our logs."""
    if isinstance(error, KeySetError):
        return str(error)
    # aiohttp wraps what the system or OpenSSL said, and that says it best.
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    said = cause.strerror if isinstance(cause, OSError) else None
    return f"{type(cause).__name__}: {said}" if said else type(cause).__name__
