"""Folders for an embedded Valkey: a private one for its socket and its log, and one that the user gave for its data.

A lock in each is held for as long as anybody uses it. Valkey inherits that of its data: so the folder is free again
when Valkey itself has ended, however this process ended.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PREFIX = "genops-valkey-"
_LONGEST = 100
"""Bytes in a socket's path: sun_path has 104 on macOS, 108 on Linux (unix(7)), with a 0 at the end."""

_WAIT = 2.0
"""Seconds to wait for a folder of data: a Valkey whose process was just killed takes a moment to end."""


class EmbeddedValkeyError(Exception):
    """Raised when Valkey cannot be started; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Home:
    """A folder of our own, which only our user may enter; gone with us."""

    folder: Path
    lock: int

    @property
    def socket(self) -> Path:
        """Where Valkey listens."""
        return self.folder / "valkey.sock"

    @property
    def log(self) -> Path:
        """What Valkey said."""
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
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.lock)

    def last_words(self) -> str:
        """The last line that Valkey wrote."""
        lines = self.log.read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"it said {said[-1][:500]!r}" if said else "it said nothing"


@dataclass(frozen=True, slots=True)
class Data:
    """A folder that keeps data, for one Valkey at a time. `lock` is to be inherited by it."""

    folder: Path
    lock: int

    @classmethod
    async def claim(cls, folder: Path) -> Self:
        """Take the folder, made where it is missing; wait a moment for whoever has it.

        Raises EmbeddedValkeyError where somebody keeps it, and OSError where it cannot be used.
        """
        lock = await asyncio.to_thread(_opened, folder)
        end = asyncio.get_running_loop().time() + _WAIT
        while not _locked(lock):
            if asyncio.get_running_loop().time() > end:
                os.close(lock)
                raise EmbeddedValkeyError(
                    f"{folder} is in use by another process: give each its own folder, or one Redis to all"
                )
            await asyncio.sleep(0.05)
        return cls(folder, lock)

    def leave(self) -> None:
        """Let the next one have it."""
        os.close(self.lock)


def _opened(folder: Path) -> int:
    folder.mkdir(mode=0o700, exist_ok=True)
    return os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
