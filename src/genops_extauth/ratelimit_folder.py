"""The files below a folder, as they were at one moment: what envoyproxy/ratelimit's runtime loader reads.

Kubernetes mounts a ConfigMap as links: ``limits.yaml -> ..data/limits.yaml`` and ``..data -> ..2026_07_05_…``, and
changes all of it at once by changing the second. So links are followed, names that begin with a dot are not, and what
changed while it was read is read again.
"""

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from genops_extauth.problems import ConfigError, Problem
from genops_extauth.sources import SourceError, read
from genops_extauth.strict_yaml import GO_YAML

MAX_FILES = 1000
"""A file for each team of a large company. Who names ``/`` by mistake is told so at once."""

MAX_TOTAL = 16 * 1024 * 1024
"""Bytes of all files: sixteen ConfigMaps of the largest size. Reading them takes seconds."""

_ATTEMPTS = 3


def contents(folder: Path) -> tuple[dict[str, bytes], list[Problem]]:
    """What the files below `folder` hold, by their paths in it, and those that cannot be read.

    Raises `ConfigError` where the folder itself cannot be.
    """
    for _ in range(_ATTEMPTS - 1):
        before = _listing(folder)
        found = _read(before)
        if _listing(folder) == before:
            return found
    return _read(_listing(folder))


def _listing(folder: Path) -> dict[str, Path]:
    """The files by name, in order, each with where it really is: another place is another content."""
    found = {}
    try:
        for name, path in _walk(folder):
            found[name] = path
            if len(found) > MAX_FILES:
                raise ConfigError((Problem("", f"holds more than {MAX_FILES} files: name a smaller one", str(folder)),))
    except OSError as error:
        message = f"the directory cannot be read: {error.strerror}"
        raise ConfigError((Problem("", message, str(error.filename or folder)),)) from None
    return dict(sorted(found.items()))


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each folder once: a link to one that it is in would lead round for ever, two links to one would multiply."""
    seen = set()
    waiting = deque([("", folder)])
    while waiting:
        prefix, place = waiting.popleft()
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(place) as listed:
            entries = sorted(listed, key=lambda each: each.name)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append((f"{prefix}{entry.name}/", place / entry.name))
            else:
                yield f"{prefix}{entry.name}", Path(os.path.realpath(entry.path))


def _read(listing: dict[str, Path]) -> tuple[dict[str, bytes], list[Problem]]:
    found: dict[str, bytes] = {}
    problems = []
    left = MAX_TOTAL
    for name, path in listing.items():
        try:
            found[name] = read(path, GO_YAML.max_bytes)
        except SourceError as error:
            problems.append(Problem("", f"{name.replace('/', '.')}: {error}", name))
            continue
        left -= len(found[name])
        if left < 0:
            message = f"the files up to here hold more than {MAX_TOTAL} bytes: name a smaller directory"
            return found, [*problems, Problem("", message, name)]
    return found, problems
