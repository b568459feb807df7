"""Files that only their owner may read, and that are there whole or not at all, whatever happens meanwhile."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def create(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, with mode 0600. Raises FileExistsError, and OSError.

    Once this returns, the file outlasts a crash of the machine.
    """
    _placed(path, data, path.hardlink_to)


def replace(path: Path, data: bytes) -> None:
    """Write a file in the place of the one before, if there is one. Raises OSError."""
    _placed(path, data, lambda new: new.rename(path))


def _placed(path: Path, data: bytes, place: Callable[[Path], object]) -> None:
    new = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # what a crash left behind
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        place(new)
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the name is the folder's (fsync(2))
    finally:
        os.close(folder)
