"""Requests packed for one call of ``bucket.lua``, and its reply taken apart; the script's header has the layout."""

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from redis.exceptions import InvalidResponse

from genops_extauth.bucket import Answer, Hit, Operation, Shape, answer, cost

_SHAPE = struct.Struct(">ddd")
_GROUP = struct.Struct(">BH")
_HIT = struct.Struct(">Hd")


@dataclass(slots=True, eq=False)
class Asked:
    """A group of hits that waits for its answer, at most until `deadline` on the event loop's clock."""

    operation: Operation
    hits: Sequence[Hit]
    deadline: float
    answer: asyncio.Future[Answer]


@dataclass(slots=True, eq=False)
class Batch:
    """Groups of hits in the order in which the script takes them.

    A batch knows one shape per key, that of the first hit; later hits are read in it. Two shapes meet only around a
    reload, or where one request overrides a limit twice.
    """

    asked: list[Asked] = field(default_factory=list)
    hits: int = 0
    _indices: dict[bytes, int] = field(default_factory=dict)
    _shapes: list[Shape] = field(default_factory=list)
    _groups: list[bytes] = field(default_factory=list)

    def add(self, asked: Asked) -> None:
        """Put one more group at the end."""
        asked.hits = [self._agreed(hit) for hit in asked.hits]
        self.asked.append(asked)
        self.hits += len(asked.hits)
        self._groups.append(_GROUP.pack(asked.operation, len(asked.hits)))
        self._groups += [_HIT.pack(self._indices[hit.key], cost(hit)) for hit in asked.hits]

    def keys(self) -> list[bytes]:
        """The script's KEYS."""
        return list(self._indices)

    def numbers(self) -> bytes:
        """The script's ARGV[1]."""
        shapes = [_SHAPE.pack(each.capacity, each.refill, each.tick) for each in self._shapes]
        return b"".join(shapes + self._groups)

    def resolve(self, reply: bytes) -> None:
        """Answer all who still wait. Raises InvalidResponse for a reply that cannot be this script's."""
        if len(reply) != 8 * self.hits:
            raise InvalidResponse(f"{len(reply)} bytes came where {8 * self.hits} were due")
        found = list(map(int, struct.unpack(f">{self.hits}d", reply)))
        end = 0
        for asked in self.asked:
            start, end = end, end + len(asked.hits)
            if not asked.answer.done():
                asked.answer.set_result(answer(asked.operation, asked.hits, found[start:end]))

    def _agreed(self, hit: Hit) -> Hit:
        index = self._indices.setdefault(hit.key, len(self._indices) + 1)
        if index > len(self._shapes):
            self._shapes.append(hit.shape)
            return hit
        known = self._shapes[index - 1]
        return hit if known == hit.shape else replace(hit, shape=known)
