import asyncio
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.exceptions as errors
import uvloop

from certificates import Authority, Pair
from genops_extauth.hits import NOTHING_ASKED
from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_habits import habits
from genops_extauth.redis_link import Call, Link, connected
from genops_extauth.redis_store import RedisStore
from genops_extauth.store_address import Tls, target
from proxy import before
from stores import PATIENT, REDIS, VALKEY, free_port, running, until


@dataclass(frozen=True, slots=True)
class Secured:
    """A server that speaks TLS only and wants a certificate from its clients; `ca` signed both."""

    port: int
    ca: Authority
    client: Pair
    folder: Path

    def tls(self, **other: str | None) -> Tls:
        options: dict[str, str | None] = {
            "ca_file": str(self.ca.file),
            "cert_file": str(self.client.certificate),
            "key_file": str(self.client.key),
        }
        return Tls(**(options | other))

    async def said(self, tls: Tls, host: str = "localhost") -> str:
        """What becomes of a ping."""
        store = RedisStore(target(f"rediss://{host}:{self.port}", tls=tls), habits(timeout=PATIENT))
        try:
            await store.ping()
        except StoreUnavailable as error:
            return str(error)
        else:
            assert await store.transact([]) == NOTHING_ASKED
            return "served"
        finally:
            await store.close()


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    if REDIS is None:
        pytest.skip("install redis-server: the Valkey of the wheel has no TLS")
    with tempfile.TemporaryDirectory(prefix="tls-") as name:
        folder = Path(name)
        ca = Authority(folder)
        server, client = ca.issue("localhost"), ca.issue("client")
        port = free_port()
        options = (
            *("--tls-port", str(port), "--tls-ca-cert-file", str(ca.file), "--tls-auth-clients", "yes"),
            *("--tls-cert-file", str(server.certificate), "--tls-key-file", str(server.key)),
        )
        with running(REDIS, *options):
            yield Secured(port, ca, client, folder)


async def test_tls_with_certificates_on_both_sides_serves(secured: Secured) -> None:
    """A server is believed by the authority of ca_file, and is shown our certificate."""
    assert await secured.said(secured.tls()) == "served"


async def test_certificate_of_another_authority_is_refused(secured: Secured) -> None:
    """A server whose authority is not believed is refused, and which option to look at is said."""
    stranger = Authority(secured.folder, "stranger")
    for ca_file in (None, str(stranger.file)):
        said = await secured.said(secured.tls(ca_file=ca_file))
        assert said.startswith("tls: ")
        assert "check store.tls: ca_file" in said
        assert "CERTIFICATE_VERIFY_FAILED" in said


async def test_certificate_for_another_name_is_refused(secured: Secured) -> None:
    """The certificate must have the host's name, or that of server_name."""
    assert (await secured.said(secured.tls(), host="127.0.0.1")).startswith("tls: ")
    assert await secured.said(secured.tls(server_name="localhost"), host="127.0.0.1") == "served"
    assert (await secured.said(secured.tls(server_name="other"))).startswith("tls: ")


async def test_server_may_want_our_certificate(secured: Secured) -> None:
    """Without our certificate a server that wants one closes the connection, and that is an outage."""
    said = await secured.said(secured.tls(cert_file=None, key_file=None))
    assert said.partition(":")[0] in ("tls", "unreachable")


async def test_file_that_cannot_be_read_is_told(secured: Secured) -> None:
    """A file that is missing is told as an outage, and not in a traceback."""
    said = await secured.said(secured.tls(ca_file=str(secured.folder / "missing.pem")))
    assert said.startswith("tls: ")
    assert "No such file" in said


async def test_rotated_files_are_those_of_the_next_connection(secured: Secured) -> None:
    """Certificates are read for each connection: one that was replaced needs no restart."""
    file = secured.folder / "rotating.pem"
    file.write_bytes(Authority(secured.folder, "old").file.read_bytes())
    store = RedisStore(
        target(f"rediss://localhost:{secured.port}", tls=secured.tls(ca_file=str(file))), habits(timeout=PATIENT)
    )
    with pytest.raises(StoreUnavailable, match=r"^tls: "):
        await store.ping()
    file.write_bytes(secured.ca.file.read_bytes())
    await store.ping()
    await store.close()


async def test_plain_connection_to_tls_is_told(secured: Secured) -> None:
    """Without TLS in the URL nothing sensible comes back, and that is an outage."""
    store = RedisStore(target(f"redis://localhost:{secured.port}"), habits(timeout=PATIENT))
    with pytest.raises(StoreUnavailable, match=r"^(unreachable|protocol): "):
        await store.ping()
    await store.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_connection_that_broke_unnoticed_is_a_broken_connection(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """A script sent over a connection that was reset a moment ago fails as over any broken one, on any event loop."""

    async def go(path: Path) -> None:
        async with before(path) as proxy:
            link = Link(lambda: connected(target(proxy.url)))
            await link.connect()
            await until(lambda: proxy.accepted > 0)
            await proxy.cut()
            with pytest.raises(errors.ConnectionError):
                await link.call([Call((b"k",), ())])
            await link.close()

    with running(VALKEY) as server, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(go(server.path))
