"""The xDS client against a management server of the test's own, over real gRPC."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ads_server import TYPE, AdsServer, Stream, ads_server, limits
from genops_extauth import xds, xds_channel
from genops_extauth.xds import Answered, Lost, Status, XdsSource
from genops_extauth.xds_channel import Settings, Tls, open_channel
from genops_extauth.xds_messages import Resource


class Sidecar:
    """What stands behind the client: it takes limits over, or refuses them with `problems`, and remembers."""

    def __init__(self, settings: Settings) -> None:
        self.problems: tuple[str, ...] = ()
        self.defect: Exception | None = None
        self.applied: list[list[str]] = []
        self.told: list[Answered | Lost] = []
        self.pauses: list[float] = []
        self._news = asyncio.Event()
        self.source = XdsSource(settings, self._apply, self._observe, sleep=self._sleep)

    async def lost(self, times: int = 1) -> list[Lost]:
        """Wait until so many streams were lost."""
        while len(lost := [each for each in self.told if isinstance(each, Lost)]) < times:
            self._news.clear()
            await self._news.wait()
        return lost

    async def _apply(self, resources: Sequence[Resource]) -> tuple[str, ...]:
        if self.defect is not None:
            raise self.defect
        if not self.problems:
            self.applied.append([resource.name for resource in resources])
        return self.problems

    def _observe(self, event: Answered | Lost) -> None:
        self.told.append(event)
        self._news.set()

    async def _sleep(self, seconds: float) -> None:
        """Virtual time: what would be waited for is written down. The network still has its turn."""
        if seconds:
            self.pauses.append(seconds)
        await asyncio.sleep(min(seconds, 0.01))


@contextlib.asynccontextmanager
async def sidecar(settings: Settings) -> AsyncIterator[Sidecar]:
    """Run the client; it is cancelled afterwards."""
    client = Sidecar(settings)
    running = asyncio.ensure_future(client.source.run())
    try:
        yield client
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.fixture
async def server() -> AsyncIterator[AdsServer]:
    async with ads_server() as server:
        yield server


@pytest.fixture
async def client(server: AdsServer) -> AsyncIterator[Sidecar]:
    async with sidecar(Settings(server.address)) as client:
        yield client


@pytest.fixture
async def stream(server: AdsServer, client: Sidecar) -> Stream:  # noqa: ARG001 - it is the client that opens it
    """The first stream, its first request read."""
    stream = await server.stream()
    await stream.request()
    return stream


async def test_asks(server: AdsServer) -> None:
    """A new stream asks for all rate limits, says who asks, and names no version."""
    headers = {"x-tenant": "t1", "authorization": "Bearer s"}
    async with sidecar(Settings(server.address, "envoy-ratelimit", {"zone": "a"}, headers)):
        stream = await server.stream()
        request = await stream.request()

    assert request.type_url == TYPE
    assert request.node is not None
    assert request.node.id == "envoy-ratelimit"
    assert request.node.metadata is not None
    assert request.node.metadata.to_dict() == {"zone": "a"}
    assert (request.version_info, request.response_nonce, request.resource_names) == ("", "", [])
    assert request.error_detail is None
    assert {name: stream.headers[name] for name in headers} == headers


async def test_accepts(client: Sidecar, stream: Stream) -> None:
    """All resources of a response are taken over together, and then acknowledged by version and nonce."""
    await stream.send("7", limits("a", 5), limits("b", 6), nonce="x")
    request = await stream.request()

    assert (request.version_info, request.response_nonce, request.error_detail) == ("7", "x", None)
    assert client.applied == [["a", "b"]]
    assert client.source.status == Status(version="7")
    assert client.told == [Answered("7")]
    await client.source.first(0)


async def test_refuses(client: Sidecar, stream: Stream) -> None:
    """A response with problems changes nothing and is refused with all of them; the last accepted version stays."""
    await stream.send("1", limits("a", 5))
    await stream.request()
    client.problems = ("a: this", "b: that")
    await stream.send("2", limits("a", 6))
    request = await stream.request()

    assert (request.version_info, request.response_nonce) == ("1", "n-2")
    assert request.error_detail is not None
    assert (request.error_detail.code, request.error_detail.message) == (3, "a: this\nb: that")
    assert client.source.status == Status(version="1", error="a: this; b: that")
    assert client.told[-1] == Answered("2", ("a: this", "b: that"))
    client.problems = ()
    await stream.send("3", limits("a", 6))
    assert (await stream.request()).version_info == "3"
    assert client.source.status == Status(version="3")


async def test_refuses_the_first(client: Sidecar, stream: Stream) -> None:
    """While no limits were accepted there is no version, and whoever waits for the first hears what is wrong."""
    client.problems = ("a: this",)
    await stream.send("1", limits("a", 5))

    assert (await stream.request()).version_info == ""
    with pytest.raises(TimeoutError, match=r"gave no rate limits in 0 s: a: this"):
        await client.source.first(0)


async def test_long_refusal(client: Sidecar, stream: Stream) -> None:
    """However much is wrong, what is told of it fits into a message that servers take."""
    client.problems = ("x" * 1000,) * 5000
    await stream.send("1", limits("a", 5))
    request = await stream.request()

    assert request.error_detail is not None
    assert len(request.error_detail.message) == 64 * 1024


async def test_none(client: Sidecar, stream: Stream) -> None:
    """A response without resources says that there are no limits."""
    await stream.send("1", limits("a", 5))
    await stream.request()
    await stream.send("2")

    assert (await stream.request()).version_info == "2"
    assert client.applied[1:] == [[]]


async def test_other_type(client: Sidecar, stream: Stream) -> None:
    """A response of a type that nobody asked for is passed over: to answer it would be to ask for it."""
    await stream.send("1", b"", type_url="type.googleapis.com/a.B", packed="type.googleapis.com/a.B")
    await stream.send("2", limits("a", 5))

    assert (await stream.request()).response_nonce == "n-2"
    assert client.told[0] == Answered("1", ("the server sent 'type.googleapis.com/a.B', which nobody asked for",))


async def test_nonces(client: Sidecar, stream: Stream) -> None:
    """Each response is taken over and answered, also where nonces repeat or lack."""
    for version, nonce in (("1", "same"), ("2", "same"), ("3", "")):
        await stream.send(version, limits("a", 5), nonce=nonce)
        request = await stream.request()
        assert (request.version_info, request.response_nonce) == (version, nonce)
    assert len(client.applied) == 3


async def test_refused_again(client: Sidecar, stream: Stream) -> None:
    """A server that repeats at once what was refused is answered ever more slowly."""
    client.problems = ("a: this",)
    for _ in range(8):
        await stream.send("1", limits("a", 5))
        await stream.request()

    assert len(client.pauses) == 7
    for pause, longest in zip(client.pauses, (1, 2, 4, 8, 16, 30, 30), strict=True):
        assert longest / 2 < pause <= longest


@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED])
async def test_hangs_up(server: AdsServer, code: grpc.StatusCode) -> None:
    """A server that ends each stream at once is asked ever more rarely, until it gives limits."""
    said = "the server closed the stream" if code is grpc.StatusCode.OK else "PERMISSION_DENIED: not today"
    server.refusing = code
    async with sidecar(Settings(server.address)) as client:
        lost = await client.lost(8)
        while said not in {each.reason for each in lost}:
            lost = await client.lost(len(lost) + 1)
        server.refusing = None
        stream = await server.stream()
        await stream.request()
        await stream.send("1", limits("a", 5))
        await stream.request()
        stream.end()
        after = await client.lost(len(lost) + 1)

    assert {each.reason for each in lost} <= {said, "the server ended the stream while it was written to"}
    for each, longest in zip(lost[:8], (1, 2, 4, 8, 16, 30, 30, 30), strict=True):
        assert longest / 2 < each.pause <= longest
    assert after[-1].pause <= 1


async def test_never_answers(client: Sidecar, stream: Stream) -> None:
    """Whoever waits for the first limits of a server that says nothing learns for which node."""
    assert stream.unread == 0
    with pytest.raises(
        TimeoutError, match=r"127\.0\.0\.1:\d+ gave no rate limits in 0 s: it has none for the node 'def"
    ):
        await client.source.first(0)
    assert client.source.status == Status()


async def test_server_restarts(server: AdsServer, client: Sidecar, stream: Stream) -> None:
    """Limits outlast the server; one that comes back is asked without a version, for it may count from 1 again."""
    await stream.send("1", limits("a", 5))
    await stream.request()
    await server.down()
    await client.lost(3)

    assert len(client.applied) == 1
    assert client.source.status.version == "1"
    assert "UNAVAILABLE" in client.source.status.error
    await server.up()
    stream = await server.stream()
    assert (await stream.request()).version_info == ""
    await stream.send("1", limits("a", 6))
    assert (await stream.request()).version_info == "1"
    assert len(client.applied) == 2
    assert client.source.status == Status(version="1")


async def test_refuses_after_restart(server: AdsServer, client: Sidecar, stream: Stream) -> None:
    """A refusal names no version of another stream, for its server may mean something else by it."""
    await stream.send("1", limits("a", 5))
    await stream.request()
    stream.end()
    stream = await server.stream()
    await stream.request()
    client.problems = ("a: this",)
    await stream.send("1", limits("a", 6))

    assert (await stream.request()).version_info == ""
    assert client.source.status.version == "1"


async def test_answers_too_late(server: AdsServer) -> None:
    """To answer on a stream that has ended is no error: reading tells why it ended."""
    async with await open_channel(Settings(server.address)) as channel:
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(xds._METHOD)()
        await call.write(b"")
        other = await server.stream()
        await other.request()
        other.end(grpc.StatusCode.ABORTED, "moved")
        await call.code()
        await xds._say(call, b"")

        with pytest.raises(grpc.aio.AioRpcError, match="moved"):
            await call.read()


async def test_no_response(server: AdsServer, client: Sidecar, stream: Stream) -> None:
    """Bytes that are no DiscoveryResponse cannot be answered: the stream is given up for another."""
    await stream.send_bytes(b"\xff\xff")
    (lost,) = await client.lost()

    assert lost.reason == "what the server sent is not a DiscoveryResponse"
    assert (await (await server.stream()).request()).response_nonce == ""


async def test_huge(server: AdsServer) -> None:
    """A response over the limit is not read, and changes nothing."""
    async with sidecar(Settings(server.address, max_bytes=10_000)) as client:
        stream = await server.stream()
        await stream.send("1", limits("a", 5))
        await client.source.first(10)
        await stream.send("2", limits("a" * 5000, 5))
        (lost,) = await client.lost()

    assert "larger than max" in lost.reason
    assert len(client.applied) == 1


async def test_defect(client: Sidecar, stream: Stream) -> None:
    """A defect in applying limits refuses them without its text, and is told to whoever watches the loop."""
    defects: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))
    client.defect = ZeroDivisionError("of ours")
    await stream.send("1", limits("a", 5))
    request = await stream.request()

    assert request.error_detail is not None
    assert request.error_detail.message == "internal error"
    assert [defect["exception"] for defect in defects] == [client.defect]


async def test_proxy(server: AdsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the environment names is for what is outside, and is not asked."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with sidecar(Settings(server.address)) as client:
        await (await server.stream()).request()
        assert client.told == []


async def test_vanished(server: AdsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is cut off without a word is missed."""
    often = (("grpc.keepalive_time_ms", 100), ("grpc.http2.ping_timeout_ms", 100))
    monkeypatch.setattr(xds_channel, "_OPTIONS", tuple(dict([*xds_channel._OPTIONS, *often]).items()))
    async with silent_link(server.port) as (port, silence), sidecar(Settings(f"127.0.0.1:{port}")) as client:
        stream = await server.stream()
        await stream.send("1", limits("a", 5))
        await client.source.first(10)
        silence.set()
        (lost,) = await client.lost()

    assert lost.reason.startswith("UNAVAILABLE: ")
    assert "ping timeout" in lost.reason


@contextlib.asynccontextmanager
async def silent_link(port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A TCP link to `port` that carries nothing any more, and closes nothing, once the event is set."""
    silence = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65_536):
                if not silence.is_set():
                    writer.write(chunk)
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up = await asyncio.open_connection("127.0.0.1", port)
        tasks.update(asyncio.ensure_future(carry(*ends)) for ends in ((reader, up[1]), (up[0], writer)))

    link = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield link.sockets[0].getsockname()[1], silence
    finally:
        link.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Authority:
    """A certificate authority of the test's own; its certificates are PEM files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {folder.name}")])
        self.file = folder / "ca.crt"
        folder.mkdir()
        self.file.write_bytes(self._signed(self._name, self._key, None).public_bytes(Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for a host's name, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        files = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        files[0].write_bytes(self._signed(subject, key, name).public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, host: str | None) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        day = dt.timedelta(days=1)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        builder = builder.add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture
async def secure(authority: Authority) -> AsyncIterator[AdsServer]:
    """A server that is called envoy-gateway, and wants to see a certificate, as Envoy Gateway does."""
    certificate, key = authority.issue("envoy-gateway")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], authority.file.read_bytes(), require_client_auth=True
    )
    async with ads_server(credentials) as server:
        yield server


@pytest.fixture
def mutual(authority: Authority, secure: AdsServer) -> Settings:
    tls = Tls(authority.file, *authority.issue("envoy-ratelimit"), server_name="envoy-gateway")
    return Settings(secure.address, tls=tls)


async def test_mutual_tls(secure: AdsServer, mutual: Settings) -> None:
    """With TLS both sides show certificates, and the server's may have another name than its address."""
    async with sidecar(mutual) as client:
        stream = await secure.stream()
        await stream.send("1", limits("a", 5))
        await client.source.first(10)


@pytest.mark.parametrize("change", [{"ca_file": None}, {"server_name": None}, {"cert_file": None, "key_file": None}])
async def test_mistrust(secure: AdsServer, mutual: Settings, change: dict[str, None]) -> None:
    """There is no stream where nobody vouches for the server, its name is another, or we have no certificate."""
    assert mutual.tls is not None
    async with sidecar(replace(mutual, tls=replace(mutual.tls, **change))) as client:
        (lost, *_) = await client.lost()

    assert lost.reason.startswith("UNAVAILABLE: ")
    assert secure.opened == 0


async def test_files_are_read_anew(secure: AdsServer, mutual: Settings) -> None:
    """Certificates that come late, or are renewed, are taken for the next stream."""
    assert mutual.tls is not None
    assert mutual.tls.cert_file is not None
    kept = mutual.tls.cert_file.rename(mutual.tls.cert_file.with_suffix(".kept"))
    async with sidecar(mutual) as client:
        (lost, *_) = await client.lost()
        kept.rename(mutual.tls.cert_file)
        stream = await secure.stream()
        await stream.send("1", limits("a", 5))
        await client.source.first(10)

    assert lost.reason == f"[Errno 2] No such file or directory: '{mutual.tls.cert_file}'"


async def test_secrets(server: AdsServer) -> None:
    """The headers' values are shown nowhere, not even where the server repeats them."""
    settings = Settings(server.address, headers={"authorization": "Bearer s3cret"})
    async with sidecar(settings) as client:
        stream = await server.stream()
        await stream.request()
        stream.end(grpc.StatusCode.UNAUTHENTICATED, "who is Bearer s3cret?")
        (lost, *_) = await client.lost()

    assert lost.reason == "UNAUTHENTICATED: who is ***?"
    assert "s3cret" not in repr(settings)


async def test_cancelled(server: AdsServer, client: Sidecar, stream: Stream) -> None:
    """When the client is told to stop, its stream ends."""
    async with sidecar(Settings(server.address)):
        other = await server.stream()
    await other.ended()
    assert client.told == []
    assert stream.unread == 0
