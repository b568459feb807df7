"""What a configuration may point to: files beside it, and environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from genops_extauth.declared import Domain

MAX_SECRET_BYTES = 64 * 1024
"""Of a key or password file. A PEM key has at most 2 KiB, a certificate seldom 10."""


class SourceError(ValueError):
    """Raised when a file or variable cannot be had; the message says why, and never quotes what it holds."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look. `folder` is the configuration file's: relative paths start there.

    `passwords` are those that the environment holds, by setting (``store.password``) and name of the variable.
    `ignored` sections are known to be wrong: what other sections say of them is not looked at.
    """

    folder: Path = field(default_factory=Path)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    passwords: Mapping[str, Mapping[str, SecretStr]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    domains: tuple[Domain, ...] = ()
    remarks: tuple[str, ...] = ()

    def file(self, name: str) -> bytes:
        """Read a small file. Raises `SourceError`."""
        return read(self.folder / name, MAX_SECRET_BYTES)

    def variable(self, name: str) -> str:
        """Read a variable. Raises `SourceError` where it is not set or empty."""
        value = self.environ.get(name, "")
        if not value.strip():
            state = "set but empty" if name in self.environ else "not set"
            raise SourceError(f"the environment variable is {state}")
        return value


def read(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes. Raises `SourceError`.

    Only regular files (or links to them): reading a FIFO or a device would block the start for ever.
    """
    try:
        if path.exists() and not path.is_file():
            raise SourceError("cannot be read: not a regular file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError("cannot be read: no such path") from None  # a NUL in the name
    if len(data) > limit:
        raise SourceError(f"cannot be read: larger than {limit} bytes")
    return data
