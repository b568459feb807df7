"""Records of API keys in a folder, one in each file ``<id>.json``: a mounted Secret, or the folder that is to be one.

Kubernetes mounts a Secret as links, and changes all of it at once by changing one (``..data``). So links are followed,
names that begin with a dot are not, and what changed while it was read is read again.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from genops_extauth import key_records, private_files
from genops_extauth.key_lifecycle import Record
from genops_extauth.key_operations import ConflictError
from genops_extauth.sources import SourceError
from genops_extauth.sources import read as read_file

MAX_FILES = 10_000
"""A Secret holds a megabyte: some 2,000 records. Who names ``/`` by mistake is told so at once."""

_ATTEMPTS = 3


def records(folder: Path) -> tuple[list[Record], list[str]]:
    """The records in a folder, by id, and what is wrong with other files. Raises `sources.SourceError`."""
    for _ in range(_ATTEMPTS - 1):
        before = _listing(folder)
        found = _read(before)
        if _listing(folder) == before:
            return found
    return _read(_listing(folder))


class FileKeys:
    """As `key_store.KeyStore`, in a folder. When keys are used it does not know. All raise OSError too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def get(self, key_id: str) -> Record | None:
        """The record of a key, None where there is none. Raises `key_records.RecordError`."""
        return await asyncio.to_thread(self._get, key_id)

    async def put(self, record: Record) -> None:
        """Write a record in the place of its version before. Raises `ConflictError` where another is there."""
        await asyncio.to_thread(self._put, record)

    async def all(self) -> tuple[list[Record], list[str]]:
        """All records, by id, and what is wrong with other files. Raises `sources.SourceError`."""
        return await asyncio.to_thread(records, self._folder)

    async def used(self, key_ids: Sequence[str]) -> dict[str, int]:  # noqa: ARG002 - as `KeyStore`
        """Nothing: nobody writes into a mounted folder."""
        return {}

    def _get(self, key_id: str) -> Record | None:
        path = self._folder / f"{key_id}.json"
        return key_records.read(read_file(path, key_records.MAX_BYTES)) if path.exists() else None

    def _put(self, record: Record) -> None:
        with _locked(self._folder):
            held = self._get(record.id)
            if held == record:
                return
            if (0 if held is None else held.version) != record.version - 1:
                raise ConflictError(record.id)
            private_files.replace(self._folder / f"{record.id}.json", key_records.written(record) + b"\n")


def _listing(folder: Path) -> dict[str, str]:
    """The files by name, in order, each with where it really is: another place is another content."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    found[entry.name] = os.path.realpath(entry.path)
                if len(found) > MAX_FILES:
                    raise SourceError(f"holds more than {MAX_FILES} files: name a smaller folder")
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}") from None
    return dict(sorted(found.items()))


def _read(listing: dict[str, str]) -> tuple[list[Record], list[str]]:
    found, problems = [], []
    for name, path in listing.items():
        try:
            record = key_records.read(read_file(Path(path), key_records.MAX_BYTES))
        except (SourceError, key_records.RecordError) as error:
            problems.append(f"{name}: {error}")
            continue
        if name == f"{record.id}.json":
            found.append(record)
        else:
            problems.append(f"{name}: holds the record of {record.id}: name it {record.id}.json")
    return found, problems


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among those who write here. The lock is the folder's own: it needs no file that might be mounted."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
