"""Ways to hand over a key, once: a file that only its owner may read, or standard output."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from genops_extauth import private_files
from genops_extauth.apikeys import NewKey
from genops_extauth.sources import MAX_SECRET_BYTES, SourceError, read


class FileDelivery:
    """Writes the key to a new file with mode 0600: the key and a line end, as mounted Secrets and ``curl`` like it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    async def held(self) -> bytes | None:
        """The key in the file, if it is there. Raises `sources.SourceError`."""
        if not await asyncio.to_thread(self._path.exists):
            return None
        return (await asyncio.to_thread(read, self._path, MAX_SECRET_BYTES)).strip()

    async def deliver(self, key: NewKey) -> None:
        """Write the file, and sync it. Raises `sources.SourceError`."""
        try:
            await asyncio.to_thread(private_files.create, self._path, key.text.encode() + b"\n")
        except OSError as error:
            raise SourceError(f"{self._path} cannot be written: {error.strerror}; nothing was changed") from None


class ShownDelivery:
    """Shows the key by `show`."""

    name = "standard output"

    def __init__(self, show: Callable[[NewKey], None]) -> None:
        self._show = show

    async def held(self) -> bytes | None:
        """Nothing: what was shown is not here to be read."""
        return None

    async def deliver(self, key: NewKey) -> None:
        """Show the key."""
        self._show(key)
