"""Records of API keys in the store: two hashes, of records and of when keys were last used, in one slot of a Cluster.

A record is written only over the version that its writer read, so that of two who change one at the same time one is
told to look again.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

from genops_extauth import key_records
from genops_extauth.key_lifecycle import Record
from genops_extauth.key_operations import ConflictError
from genops_extauth.model import StoreUnavailable
from genops_extauth.store_client import Client, Reply

_SCRIPT = (files("genops_extauth") / "key_store.lua").read_bytes()

_BATCH = 500
"""Ids in one call: Lua passes on some thousands of arguments at the most (LUAI_MAXCSTACK is 8000)."""


class KeyStore:
    """Records behind `client`, under keys that begin with `prefix`. All raise `StoreUnavailable`."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        # Not to be confused with a bucket's key, which ends with its algorithm (`limit_keys`).
        self._keys = tuple(f"{prefix}:{{api_keys}}:{name}".encode() for name in ("records", "used"))

    async def get(self, key_id: str) -> Record | None:
        """The record of a key, None where there is none. Raises `key_records.RecordError` too."""
        found = await self._do(b"get", key_id.encode())
        return key_records.read(found) if isinstance(found, bytes) else None

    async def put(self, record: Record) -> None:
        """Write a record in the place of its version before. Raises `ConflictError` where another is there."""
        if await self._do(b"put", record.id.encode(), record.version, key_records.written(record)) != 1:
            raise ConflictError(record.id)

    async def all(self) -> tuple[list[Record], list[str]]:
        """All records, by id, and what is wrong with those that cannot be read."""
        found: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:
            cursor, pairs = _page(await self._do(b"list", cursor))
            found |= zip(pairs[::2], pairs[1::2], strict=True)  # HSCAN may name one twice
            if cursor == b"0":
                break
        records, problems = [], []
        for key_id, data in sorted(found.items()):
            try:
                records.append(key_records.read(data))
            except key_records.RecordError as error:
                problems.append(f"{key_id.decode(errors='replace')}: {error}")
        return records, problems

    async def used(self, key_ids: Sequence[str]) -> dict[str, int]:
        """When keys were last used, in seconds since the epoch, of those that were; up to two minutes late."""
        found: dict[str, int] = {}
        for some in _batches(key_ids):
            times = await self._do(b"used", *(each.encode() for each in some))
            if not isinstance(times, list):
                raise StoreUnavailable("protocol: the store answered what is no list of times")
            found |= {key_id: int(at) for key_id, at in zip(some, times, strict=True) if isinstance(at, bytes)}
        return found

    async def note(self, uses: Mapping[str, int]) -> None:
        """Keep when keys were used."""
        for some in _batches(list(uses)):
            await self._do(b"note", *(part for each in some for part in (each.encode(), uses[each])))

    async def _do(self, *arguments: bytes | int) -> Reply:
        return await self._client.script(_SCRIPT, self._keys, arguments)


def _page(reply: Reply) -> tuple[bytes, list[bytes]]:
    match reply:
        case [bytes() as cursor, list() as pairs]:
            return cursor, [each for each in pairs if isinstance(each, bytes)]
    raise StoreUnavailable("protocol: the store answered what is no list of records")


def _batches(key_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (key_ids[start : start + _BATCH] for start in range(0, len(key_ids), _BATCH))
