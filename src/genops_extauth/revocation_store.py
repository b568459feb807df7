"""The list of what is revoked, in the store: one script, ``revocations.lua``, is all that reads and writes it."""

import json
import math
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import NamedTuple, TypeVar, cast

from genops_extauth.revocations import FOREVER, KINDS, Entry, Handle
from genops_extauth.store_client import Client, Reply

T = TypeVar("T")

_SCRIPT = (files("genops_extauth") / "revocations.lua").read_bytes()

PAGE = 200
"""Entries in one call, of some 150 bytes each: a millisecond of a server that serves nobody else meanwhile."""


class Changes(NamedTuple):
    """What changed, in order: a handle with when its entry ends, or with None where it is revoked no longer.

    `position` is where to read on; `whole`: there is no more at present.
    """

    position: int
    found: tuple[tuple[Handle, float | None], ...]
    whole: bool


class RevocationStore:
    """The list in the store that `client` asks, under keys that begin with `prefix`.

    Every method raises `StoreUnavailable`. What a call of `add` or `remove` was to do may then have been done; doing it
    again is right.
    """

    def __init__(self, client: Client, prefix: str = "genops", *, page: int = PAGE) -> None:
        self._client, self._page = client, page
        # One hash tag: a Cluster keeps them on one node, and a script may use all three.
        self._keys = [f"{prefix}:{{revocations}}:{name}".encode() for name in ("ends", "changes", "last")]

    async def add(self, *entries: Entry) -> None:
        """Revoke. What is revoked already stays so until the later of its ends."""
        for some in _pages(entries, self._page):
            await self._run(
                b"revoke", *(part for entry in some for part in (_written(entry.handle), _end(entry.until)))
            )

    async def remove(self, *handles: Handle) -> int:
        """Revoke no longer. Returns how many of them were revoked, or had been until lately."""
        known = 0
        for some in _pages(handles, self._page):
            known += cast("int", await self._run(b"restore", *map(_written, some)))
        return known

    async def changes(self, position: int) -> Changes:
        """Read the next page of what changed since `position`, which is 0 at first.

        Whoever is further than the list, because its data was lost, reads it from the beginning.
        """
        start, *rest = cast("list[bytes]", await self._run(b"changes", b"%d" % position, b"%d" % self._page))
        members, numbers, ends = rest[::3], rest[1::3], rest[2::3]
        found = ((_read(member), _ends(member, end)) for member, end in zip(members, ends, strict=True))
        return Changes(
            position=int(numbers[-1] if numbers else start),
            found=tuple((handle, end) for handle, end in found if handle is not None),
            whole=len(members) < self._page,
        )

    async def entries(self) -> list[Entry]:
        """All that is revoked, what was revoked last at the end."""
        known: dict[Handle, float] = {}
        position, whole = 0, False
        while not whole:
            position, found, whole = await self.changes(position)
            for handle, end in found:
                known.pop(handle, None)
                if end is not None:
                    known[handle] = end
        return [Entry(handle, end) for handle, end in known.items()]

    async def _run(self, *arguments: bytes) -> Reply:
        return await self._client.script(_SCRIPT, self._keys, arguments)


def _pages(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _written(handle: Handle) -> bytes:
    return json.dumps(handle, separators=(",", ":")).encode()


def _end(until: float) -> bytes:
    return b"inf" if until == FOREVER else b"%d" % math.ceil(until)


def _ends(member: bytes, end: bytes | None) -> float | None:
    if member.startswith(b"-"):
        return None
    return FOREVER if end is None else float(end)  # Without an end somebody else wrote here: better refused than not.


def _read(member: bytes) -> Handle | None:
    """The handle of a member. What nobody of us wrote is left out: it must not keep the rest from being known."""
    try:
        kind, issuer, value = json.loads(member[1:])
    except (ValueError, TypeError):
        return None
    ours = kind in KINDS and isinstance(issuer, str) and isinstance(value, str)
    return Handle(kind, issuer, value) if ours else None
