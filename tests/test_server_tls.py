"""TLS on the gRPC port, with real connections: who gets one, who may call, and what a renewal does to them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certificates import Authority, Pair
from genops_extauth.certificates import CredentialsError, Files, expires
from genops_extauth.health_probe import ask_health, open_channel
from genops_extauth.server import GrpcServer
from genops_extauth.server_tls import ServerTls
from stores import until

NAME = "limiter.example"
METHOD = "/a.Service/Method"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> Files:
    pair = authority.issue(NAME)
    return Files(pair.certificate, pair.key, authority.file)


async def method(_: bytes, __: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
    return b"answered"


def served(tls: ServerTls | None) -> GrpcServer:
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(method)
    return GrpcServer({"a.Service": {"Method": handler}}, "127.0.0.1:0", "grpcio", tls)


@contextlib.asynccontextmanager
async def serving(files: Files, names: Sequence[str] = (), told: list[str] | None = None) -> AsyncIterator[str]:
    server = served(await ServerTls.read(files, names, (told if told is not None else []).append))
    try:
        yield await server.start()
    finally:
        await server.stop(0)


async def health(address: str, ca: Path | None, pair: Pair | None = None) -> str:
    """What a client hears that believes `ca`, and shows `pair`."""
    key, certificate = (None, None) if pair is None else (pair.key, pair.certificate)

    def ask() -> str:
        with open_channel(address, (ca, key, certificate), NAME) as channel:
            return ask_health(channel, "", 10)

    return await asyncio.to_thread(ask)


async def test_a_client_shows_its_certificate(files: Files, authority: Authority, tmp_path: Path) -> None:
    """With client_ca, who shows no certificate of those authorities gets no connection, nor does who speaks no TLS."""
    (tmp_path / "others").mkdir()
    stranger = Authority(tmp_path / "others").issue("gateway")
    async with serving(files) as address:
        assert await health(address, authority.file, authority.issue("gateway")) == "SERVING"
        assert await health(address, authority.file, stranger) == "UNREACHABLE"
        assert await health(address, authority.file) == "UNREACHABLE"
        assert await health(address, None) == "UNREACHABLE"


async def test_without_client_ca_clients_show_nothing(files: Files, authority: Authority) -> None:
    """Without client_ca every client gets a connection that believes the server."""
    async with serving(Files(files.cert, files.key)) as address:
        assert await health(address, authority.file) == "SERVING"


async def test_only_who_is_named_may_call(files: Files, authority: Authority) -> None:
    """With client_names each call of a client of another name is refused, health's included; no name has nothing."""
    async with serving(files, ["gateway.example"]) as address:
        for name, due in (("gateway.example", "SERVING"), ("*.example", "SERVING"), ("other.example", "UNREACHABLE")):
            assert await health(address, authority.file, authority.issue(name)) == due


async def asked(channel: grpc.aio.Channel, name: str) -> bytes:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(name)
    return await call(b"", timeout=10)


CALLS: dict[str, Callable[[grpc.aio.Channel], Awaitable[object]]] = {
    "one of ours": lambda channel: asked(channel, METHOD),
    "Check": lambda channel: health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10),
    "Watch": lambda channel: (
        health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10).read()
    ),
}


@pytest.mark.parametrize("call", CALLS)
async def test_every_call_is_looked_at(files: Files, authority: Authority, call: str) -> None:
    """Each kind of call is answered to who is named, and PERMISSION_DENIED to all others."""
    for name, due in (("gateway.example", None), ("other.example", grpc.StatusCode.PERMISSION_DENIED)):
        pair = authority.issue(name)
        credentials = grpc.ssl_channel_credentials(
            authority.file.read_bytes(), pair.key.read_bytes(), pair.certificate.read_bytes()
        )
        options = (("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1))
        async with (
            serving(files, ["gateway.example"]) as address,
            grpc.aio.secure_channel(address, credentials, options=options) as channel,
        ):
            if due is None:
                assert await CALLS[call](channel) is not grpc.aio.EOF
                continue
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await CALLS[call](channel)
            assert caught.value.code() is due


async def test_an_unknown_method_is_unimplemented(files: Files, authority: Authority) -> None:
    """A method that there is not is UNIMPLEMENTED, whoever asks."""
    pair = authority.issue("other.example")
    credentials = grpc.ssl_channel_credentials(
        authority.file.read_bytes(), pair.key.read_bytes(), pair.certificate.read_bytes()
    )
    async with (
        serving(files, ["gateway.example"]) as address,
        grpc.aio.secure_channel(address, credentials, options=[("grpc.ssl_target_name_override", NAME)]) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked(channel, "/a.Service/Other")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_renewal_needs_no_restart(files: Files, tmp_path: Path) -> None:
    """Files that were replaced, the clients' authorities too, are those of the next connection, and it is told."""
    (tmp_path / "new").mkdir()
    old, new = Authority(tmp_path), Authority(tmp_path / "new")
    pair = old.issue(NAME)
    told: list[str] = []
    async with serving(Files(pair.certificate, pair.key, old.file), told=told) as address:
        mine, theirs = old.issue("gateway"), new.issue("gateway")
        assert await health(address, old.file, mine) == "SERVING"
        assert await health(address, new.file, theirs) == "UNREACHABLE"
        fresh = new.issue(NAME)
        (kept := tmp_path / "kept").write_bytes(old.file.read_bytes())
        for source, target in ((fresh.certificate, files.cert), (fresh.key, files.key), (new.file, old.file)):
            source.replace(target)
        assert await health(address, old.file, theirs) == "SERVING"
        assert await health(address, kept, mine) == "UNREACHABLE"
        await until(lambda: told == [""])


async def test_it_is_known_when_what_is_shown_expires(files: Files, authority: Authority) -> None:
    """The expiry is that of the certificate that clients are shown: a renewed one with the next connection."""
    server = served(await ServerTls.read(files, (), print))
    address, before = await server.start(), expires(files.cert.read_bytes())
    authority.issue(NAME, days=2)
    assert server.certificate_expires == before
    assert await health(address, authority.file, authority.issue("gateway")) == "SERVING"
    assert server.certificate_expires == expires(files.cert.read_bytes()) > before
    await server.stop(0)
    assert served(None).certificate_expires is None


async def test_half_a_renewal_changes_nothing(files: Files, authority: Authority) -> None:
    """While the files do not fit together the former certificate is shown; that is told once, and it mends itself."""
    gateway = authority.issue("gateway")
    old, told = (files.cert.read_bytes(), files.key.read_bytes()), list[str]()
    async with serving(files, told=told) as address:
        authority.issue(NAME)  # both files anew
        renewed = files.cert.read_bytes()
        files.cert.write_bytes(old[0])
        for _ in range(2):
            assert await health(address, authority.file, gateway) == "SERVING"
        files.cert.unlink()
        assert await health(address, authority.file, gateway) == "SERVING"
        files.cert.write_bytes(renewed)
        assert await health(address, authority.file, gateway) == "SERVING"
        await until(lambda: len(told) == 3)
    assert told == [
        "key_file: is the key of another certificate; the server's own comes first in cert_file",
        "cert_file: cannot be read: No such file or directory",
        "",
    ]


async def test_nothing_to_show_is_no_start(files: Files, tmp_path: Path) -> None:
    """There is no port without a certificate."""
    with pytest.raises(CredentialsError, match="key_file: cannot be read"):
        await ServerTls.read(Files(files.cert, tmp_path / "none"), (), print)
