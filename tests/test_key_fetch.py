"""One fetch of a key set, from an issuer that misbehaves."""

import asyncio
import datetime as dt
import gzip
import resource
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import aiohttp.http
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from faulty_issuer import (
    Fault,
    FaultyIssuer,
    answers,
    bomb,
    drips,
    faulty_issuer,
    html,
    key_set,
    public_jwk,
    redirects,
    says,
    streams,
)
from genops_extauth import key_fetch
from genops_extauth.key_fetch import FetchError, FetchFailed, Found, KeysAt, open_session, translated
from genops_extauth.keyset import KeySet, parse_jwks

_ALGORITHMS = frozenset({"ES256"})
_KEY = ec.generate_private_key(ec.SECP256R1())
_GOOD = public_jwk(_KEY, "good")
_MIB = 1024 * 1024


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


@pytest.fixture
async def issuer() -> AsyncIterator[FaultyIssuer]:
    async with faulty_issuer([_GOOD]) as issuer:
        yield issuer


async def fetch(session: aiohttp.ClientSession, uri: str, seconds: float = 5.0, max_bytes: int = 64 * 1024) -> Found:
    return await KeysAt(session, uri, _ALGORITHMS).fetch(seconds=seconds, max_bytes=max_bytes)


async def failure(session: aiohttp.ClientSession, uri: str, seconds: float = 5.0) -> FetchFailed:
    with pytest.raises(FetchFailed) as failed:
        await fetch(session, uri, seconds)
    return failed.value


async def test_fetches_keys(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """A good answer is a key set."""
    found = await fetch(session, issuer.url)

    assert list(found.keys.by_kid) == ["good"]
    assert found.skipped == ()


@pytest.mark.parametrize("uri", ["http://auth.example.com/jwks", "https://a:b@auth.example.com/", "file:///etc/passwd"])
async def test_insecure_uri(session: aiohttp.ClientSession, uri: str) -> None:
    """Nothing is made to fetch from a URI that keys must not come from."""
    with pytest.raises(ValueError, match="URI"):
        KeysAt(session, uri, _ALGORITHMS)


async def test_content_type_is_not_trusted(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """The body counts, not what the server calls it: half of the issuers call it something of their own."""
    issuer.fault = answers(key_set([_GOOD]), content_type="text/html")

    assert list((await fetch(session, issuer.url)).keys.by_kid) == ["good"]


async def test_bad_key_among_good(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """One bad key costs none of the others, and is told."""
    issuer.jwks = [{"kty": "oct", "k": "c2VjcmV0"}, _GOOD, {"kty": "EC"}]

    found = await fetch(session, issuer.url)

    assert list(found.keys.by_kid) == ["good"]
    assert len(found.skipped) == 2


async def test_compressed(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """A compressed body is read: some servers compress unasked."""
    issuer.fault = answers(gzip.compress(key_set([_GOOD])), Content_Encoding="gzip")

    assert list((await fetch(session, issuer.url)).keys.by_kid) == ["good"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (html(), FetchError.NOT_A_KEY_SET),
        (answers(b""), FetchError.NOT_A_KEY_SET),
        (answers(b"[]"), FetchError.NOT_A_KEY_SET),
        (answers(b"null"), FetchError.NOT_A_KEY_SET),
        (answers(b'{"keys": {}}'), FetchError.NOT_A_KEY_SET),
        (answers(b'{"keys": []}'), FetchError.NOT_A_KEY_SET),
        (answers(b"\xff\xfe\x00"), FetchError.NOT_A_KEY_SET),
        (answers(b"[" * 50_000), FetchError.NOT_A_KEY_SET),
        (answers(key_set([{}] * 10_000)), FetchError.NOT_A_KEY_SET),
        (answers(key_set([{"kty": "oct", "k": "c2VjcmV0"}])), FetchError.NOT_A_KEY_SET),
        (answers(key_set([_GOOD]), status=203), FetchError.STATUS),
        (answers(status=204), FetchError.STATUS),
        (answers(status=304), FetchError.STATUS),
        (answers(key_set([_GOOD]), status=404), FetchError.STATUS),
        (answers(key_set([_GOOD]), status=500), FetchError.STATUS),
        (streams(50 * _MIB), FetchError.TOO_LARGE),
        (bomb(50 * _MIB), FetchError.TOO_LARGE),
        (answers(b" " * 65_537), FetchError.TOO_LARGE),
        (says(b""), FetchError.CONNECT),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), FetchError.PROTOCOL),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"), FetchError.PROTOCOL),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}"), FetchError.PROTOCOL),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), FetchError.PROTOCOL),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}"), FetchError.PROTOCOL),
        (says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), FetchError.PROTOCOL),
    ],
)
async def test_bad_answers(
    session: aiohttp.ClientSession, issuer: FaultyIssuer, fault: Fault, code: FetchError
) -> None:
    """Whatever comes that is no key set is one of the known failures."""
    issuer.fault = fault

    assert (await failure(session, issuer.url)).code is code


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect(session: aiohttp.ClientSession, issuer: FaultyIssuer, status: int) -> None:
    """A redirect is not followed, not even to a good key set."""
    async with faulty_issuer([_GOOD]) as elsewhere:
        issuer.fault = redirects(elsewhere.url, status)

        assert (await failure(session, issuer.url)).code is FetchError.REDIRECT
        assert elsewhere.requests == []


async def test_down(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """A refused connection is told as the system tells it."""
    await issuer.down()

    failed = await failure(session, issuer.url)

    assert failed.code is FetchError.CONNECT
    assert failed.detail.startswith("ConnectionRefusedError: ")


async def test_unknown_host(session: aiohttp.ClientSession) -> None:
    """A name that does not resolve is a failed connection."""
    assert (await failure(session, "https://issuer.invalid/jwks")).code is FetchError.CONNECT


async def test_slow_headers(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """The time limit covers an answer that does not come."""
    issuer.gate.clear()

    assert (await failure(session, issuer.url, 0.1)).code is FetchError.TIMEOUT


async def test_slow_drip(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """The time limit covers the whole answer: bytes that keep coming do not extend it."""
    issuer.fault = drips()

    assert (await failure(session, issuer.url, 0.1)).code is FetchError.TIMEOUT


async def test_keys_are_read_in_a_thread(
    session: aiohttp.ClientSession, issuer: FaultyIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are read beside the event loop: a hundred large ones take longer than a request may wait."""
    threads: list[int] = []

    def watched(document: bytes, algorithms: frozenset[str]) -> tuple[KeySet, tuple[str, ...]]:
        threads.append(threading.get_ident())
        return parse_jwks(document, algorithms)

    monkeypatch.setattr(key_fetch, "parse_jwks", watched)
    await fetch(session, issuer.url)

    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_hostile_answers_do_not_block(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """A huge answer costs neither memory nor the event loop's time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - began)

    watcher = asyncio.create_task(watch())
    for fault in (streams(50 * _MIB), answers(b'{"keys":[' + b"{}," * 170_000 + b"{}]}")):
        issuer.fault = fault
        with pytest.raises(FetchFailed):
            await fetch(session, issuer.url, max_bytes=512 * 1024)
    watcher.cancel()

    assert longest < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


async def test_server_text_stays_out(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """Nothing that the server wrote gets into the failure: it would end in the logs."""
    for fault in (
        answers(b"evil", status=500, evil="evil"),
        says(b"HTTP/1.1 599 evil\r\nevil: evil\r\n\r\nevil"),
        says(b"evil\r\n\r\n"),
        says(b"HTTP/1.1 200 OK\r\nevil evil\r\n\r\n"),
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nevil\r\n"),
        redirects("https://evil.example/"),
        answers(b"evil"),
        answers(key_set([{"kty": "evil", "kid": "evil", "alg": "evil"}, {**_GOOD, "alg": "evil", "crv": "evil"}])),
    ):
        issuer.fault = fault
        assert "evil" not in str(await failure(session, issuer.url))


async def test_long_detail(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """A hundred bad keys do not make a log line of ten thousand characters."""
    issuer.jwks = [{}] * 100

    assert len((await failure(session, issuer.url)).detail) <= 500


async def test_no_cookies_no_environment(
    session: aiohttp.ClientSession, issuer: FaultyIssuer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No cookie is kept, and neither a proxy nor a password is taken from the environment."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password pa55word\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    issuer.fault = answers(key_set([_GOOD]), Set_Cookie="session=1; Path=/")

    by_name = issuer.url.replace("127.0.0.1", "localhost")  # aiohttp keeps no cookies of bare addresses anyway

    await fetch(session, by_name)
    await fetch(session, by_name)

    assert len(issuer.requests) == 2
    assert all(not {"Cookie", "Authorization"} & set(headers) for headers in issuer.requests)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 'localhost' that nobody vouches for, with its key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, _KEY.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(_KEY, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = _KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return path


async def test_tls(session: aiohttp.ClientSession, certificate: Path) -> None:
    """A certificate that nobody vouches for is refused, however good the keys behind it."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    async with faulty_issuer([_GOOD], tls) as issuer:
        failed = await failure(session, issuer.url.replace("127.0.0.1", "localhost"))

        assert failed.code is FetchError.TLS
        assert "self-signed certificate" in failed.detail
        assert issuer.requests == []


async def test_plain_http_on_https(session: aiohttp.ClientSession, issuer: FaultyIssuer) -> None:
    """A server that speaks no TLS where it should is a TLS failure."""
    assert (await failure(session, issuer.url.replace("http:", "https:"))).code is FetchError.TLS


def _descendants(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _descendants(child)


def test_every_aiohttp_exception_is_translated() -> None:
    """Every exception of the HTTP library has a code of its own family's, so that a new one cannot pass unseen."""
    families = set(key_fetch._CODES) - {Exception, OSError, ValueError}
    missing = [
        kind.__name__
        for kind in _descendants(aiohttp.ClientError)
        if kind is not aiohttp.ClientError and families.isdisjoint(kind.__mro__)
    ]

    assert missing == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (aiohttp.ServerTimeoutError(), FetchError.TIMEOUT),
        (aiohttp.ConnectionTimeoutError(), FetchError.TIMEOUT),
        (aiohttp.ServerDisconnectedError(), FetchError.CONNECT),
        (ConnectionResetError(), FetchError.CONNECT),
        (TimeoutError(), FetchError.TIMEOUT),
        (ssl.SSLError(1, "x"), FetchError.TLS),
        (aiohttp.ClientPayloadError("x"), FetchError.PROTOCOL),
        (RuntimeError("Session is closed"), FetchError.UNEXPECTED),
    ],
)
def test_nearest_ancestor_counts(error: Exception, code: FetchError) -> None:
    """A timeout is a timeout although it is a kind of connection error, and a stranger is unexpected."""
    assert translated(error).code is code
