"""What operators do with API keys: issue, rotate, revoke; each safe to repeat after a crash at any moment.

A key is delivered (printed, or written to a file and synced) before it works: what a crash leaves behind is a key that
does not work yet, never one that works and nobody has.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from genops_extauth.apikeys import NewKey, digest_of, minted, presented
from genops_extauth.key_lifecycle import Record, begun, completed, revoked

Randomness = Callable[[int], bytes]


class OperationError(Exception):
    """Raised where what is asked for cannot be done; the message says what to do."""


class ConflictError(Exception):
    """Raised where a record was changed by somebody else in the meantime; the message says what to do."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"the record of {key_id} was changed by somebody else just now: look at it, and try again")


class Keeper(Protocol):
    """Where records are kept: `key_store.KeyStore`, or `key_files.FileKeys`, which say what else they raise."""

    async def get(self, key_id: str) -> Record | None:
        """The record of a key, None where there is none."""

    async def put(self, record: Record) -> None:
        """Write a record in the place of its version before. Raises `ConflictError`."""

    async def all(self) -> tuple[list[Record], list[str]]:
        """All records, by id, and what is wrong with others."""

    async def used(self, key_ids: Sequence[str]) -> dict[str, int]:
        """When keys were last used, in seconds since the epoch, as far as that is known."""


class Delivery(Protocol):
    """How whoever asked for a key gets it. `name` is what messages call it."""

    name: str

    async def held(self) -> bytes | None:
        """The key that an earlier attempt delivered, if one did, and it can be read again."""

    async def deliver(self, key: NewKey) -> None:
        """Hand over a key. Once this returns, it cannot be lost any more. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """A rotation that is complete. `changed`: by this attempt."""

    record: Record
    changed: bool


async def issue(
    keeper: Keeper,
    delivery: Delivery,
    digest_key: bytes,
    randomness: Randomness,
    draft: Callable[[NewKey, bytes], Record],
) -> Record:
    """Make a key, whose record `draft` writes, given the key and its digest. Raises `OperationError`."""
    if (held := await delivery.held()) is not None:
        raise OperationError(await _occupied(keeper, delivery, held, digest_key))
    key = minted(randomness)
    record = draft(key, digest_of(key.text.encode(), digest_key))
    await delivery.deliver(key)
    await keeper.put(record)
    return record


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation to be made. `named`: by whoever asks for it, who can ask for the same again.

    It begins at `now`, the old secret ends `overlap` seconds later, and the key at `expires`, or as before.
    """

    key_id: str
    name: str
    named: bool
    now: int
    overlap: int
    expires: int | None = None


async def rotate(
    keeper: Keeper, delivery: Delivery, digest_key: bytes, randomness: Randomness, asked: Rotation
) -> Rotated:
    """Give a key another secret, or complete that which was interrupted, or change nothing where it is complete.

    Raises `OperationError`, and `key_lifecycle.LifecycleError`.
    """
    record = await existing(keeper, asked.key_id)
    held = await delivery.held()
    if held is None:
        key = minted(randomness, record.id)
        record = begun(record, asked.name, digest_of(key.text.encode(), digest_key), asked.now)
        _completed(record, asked)  # what is refused there is refused before anything is done
        await keeper.put(record)
        await delivery.deliver(key)
    else:
        found = presented(held, digest_key)
        digest = b"" if found is None else found.digest
        if asked.named and asked.name == record.rotation and digest == record.secrets[-1].digest:
            return Rotated(record, changed=False)
        pending = record.pending
        # Nothing but what this rotation made: an old key that lies about must not be brought back by naming its file.
        if pending is None or digest != pending.digest or (asked.named and asked.name != pending.rotation):
            raise OperationError(f"{delivery.name} holds what this rotation did not make: name a new file")
    record = _completed(record, asked)
    await keeper.put(record)
    return Rotated(record, changed=True)


def _completed(record: Record, asked: Rotation) -> Record:
    return completed(record, asked.now, asked.overlap, asked.expires)


async def revoke(
    keeper: Keeper, key_id: str, reason: str, now: int, refuse_at_once: Callable[[], Awaitable[None]]
) -> Record:
    """Let a key hold no more. `refuse_at_once` is for whoever remembers its record; it comes first, for it works now.

    Raises `OperationError`.
    """
    record = await existing(keeper, key_id)
    await refuse_at_once()
    after = revoked(record, now, reason)
    if after is not record:
        await keeper.put(after)
    return after


async def take_over(keeper: Keeper, record: Record) -> str:
    """Keep a record of a key that was made elsewhere; tell what was done. One that is known stays as it is."""
    held = await keeper.get(record.id)
    if held is None:
        await keeper.put(record)
        return "imported"
    known = any(secret.digest == record.secrets[0].digest for secret in held.secrets)
    return "known already:" if known else "not imported, as there is another key"


async def existing(keeper: Keeper, key_id: str) -> Record:
    """The record of a key that is to be there. Raises `OperationError`."""
    record = await keeper.get(key_id)
    if record is None:
        raise OperationError(f"there is no key {key_id}: see genops-extauth keys list")
    return record


async def _occupied(keeper: Keeper, delivery: Delivery, held: bytes, digest_key: bytes) -> str:
    found = presented(held, digest_key)
    if found is None:
        return f"{delivery.name} is there already, and holds no key: name a new file"
    if await keeper.get(found.id) is None:
        return f"{delivery.name} holds a key that was made, but does not work: remove it, and try again"
    return f"{delivery.name} holds the key {found.id}: name a new file for another one"
