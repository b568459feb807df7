"""The map of a Cluster: which node has which slot, by the word of one of them; and keys that lie in a slot."""

import binascii
import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache

from genops_extauth.redis_link import connected
from genops_extauth.store_address import Host, Target

SLOTS = 16_384


async def told_by(target: Target, host: Host) -> list[tuple[int, int, Host]]:
    """First slot, last slot, and primary, as this node knows them. Raises ValueError where it knows no primary."""
    connection = await connected(target, host)
    try:
        await connection.send_command("CLUSTER", "SLOTS")
        told = await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)
    found = [(int(start), int(end), _host(primary, host)) for start, end, primary, *_ in told]
    if not found:
        raise ValueError("a node without a cluster")
    return found


def _host(told: Sequence[bytes | int | None], asked: Host) -> Host:
    """A node's address; one that it does not know itself (empty, null or ?) is that at which it was asked."""
    name = told[0].decode() if isinstance(told[0], bytes) else ""
    return Host(asked.name if name in ("", "?") else name, int(told[1] or 0))


@lru_cache(maxsize=1)
def _tags() -> list[bytes]:
    """For each slot the shortest text of digits and letters that lies in it: 30 ms of work."""
    found: dict[int, bytes] = {}
    for text in _texts():
        found.setdefault(binascii.crc_hqx(text, 0) % SLOTS, text)
        if len(found) == SLOTS:
            break
    return [found[slot] for slot in range(SLOTS)]


def _texts() -> Iterator[bytes]:
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    rows = (itertools.product(letters, repeat=length) for length in itertools.count(1))
    return ("".join(each).encode() for row in rows for each in row)


def place(slot: int) -> bytes:
    """What a key must end with, if it has no other braces, to lie in this slot."""
    return b":{%s}" % _tags()[slot]
