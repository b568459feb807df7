"""Requests packed for one call of ``bucket.lua``, and its reply taken apart; the script's header has the layout."""

import asyncio
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from redis.exceptions import InvalidResponse

from genops_extauth.hits import Answer, Found, Hit, Level, Meter, Origin, Role, answer, parts
from genops_extauth.redis_link import Call

_METER = struct.Struct(">Bddd")
_GROUP = struct.Struct(">H")
_HIT = struct.Struct(">HBd")
_LOOK = 8


class Mark(NamedTuple):
    """Where the script remembers that charges were made: the number of the last ones, under a key."""

    key: bytes
    number: int


@dataclass(slots=True, eq=False)
class Asked:
    """A group of hits that waits for its answer, at most until `deadline` on the event loop's clock.

    `charging`: some of them are charges or refunds, which are made even where nobody waits any more. In a Cluster it is
    for a `slot`, goes `alone` in a script where keys of that slot are being moved, is `asking` where they are moved to,
    and was sent elsewhere `moves` times.
    """

    hits: Sequence[Hit]
    deadline: float
    answer: asyncio.Future[Answer]
    charging: bool = False
    slot: int = 0
    alone: bool = False
    asking: bool = False
    moves: int = 0

    def owing(self) -> list[Hit]:
        """Its charges and refunds."""
        return charges(self.hits) if self.charging else []

    def fail(self, error: Exception, *, lost: bool = False) -> bool:
        """Answer it without the store. False where nobody waits any more.

        Nobody can refuse a charge: a group of nothing else is granted, as it is going to be made; unless it is `lost`.
        """
        if self.answer.done():
            return False
        if self.hits and not lost and all(hit.role >= Role.CHARGE for hit in self.hits):
            self.answer.set_result(Answer(True, (_OWED,) * len(self.hits), Origin.ALLOWANCE))  # noqa: FBT003 - as its first field says
        else:
            self.answer.set_exception(error)
        return True


_OWED = Level(fits=True, remaining=0, reset=0)


def charges(hits: Sequence[Hit]) -> list[Hit]:
    """Those that must be made whatever happens."""
    return [hit for hit in hits if hit.role >= Role.CHARGE and not hit.look]


@dataclass(slots=True, eq=False)
class Batch:
    """Groups of hits in the order in which the script takes them.

    A batch knows one meter per key, that of the first hit; later hits are read in it. Two meters meet only around a
    reload, at the edge of a calendar's window, or where one request overrides a limit twice. With a `mark` its charges
    and refunds are made once at most, however often it is sent; `sent` counts that.
    """

    asked: list[Asked] = field(default_factory=list)
    hits: int = 0
    charging: bool = False
    mark: Mark | None = None
    sent: int = 0
    _doubles: int = 1
    _indices: dict[bytes, int] = field(default_factory=dict)
    _meters: list[Meter] = field(default_factory=list)
    _groups: list[bytes] = field(default_factory=list)

    def add(self, asked: Asked) -> None:
        """Put one more group at the end."""
        hits = asked.hits = [self._agreed(hit) for hit in asked.hits]
        self.asked.append(asked)
        self.hits += len(hits)
        self.charging = self.charging or asked.charging
        self._groups.append(_GROUP.pack(len(hits)))
        for hit in hits:
            self._doubles += hit.meter.width
            role = hit.role | _LOOK if hit.look else hit.role
            self._groups.append(_HIT.pack(self._indices[hit.key], role, parts(hit)))

    def all(self) -> Iterator[Hit]:
        """Its hits, in order."""
        return (hit for asked in self.asked for hit in asked.hits)

    def owing(self) -> "Batch | None":
        """The same charges and refunds under the same mark, to be sent again; None where there are none."""
        batch = Batch(mark=self.mark, sent=self.sent)
        for asked in self.asked:
            if owing := asked.owing():
                batch.add(replace(asked, hits=owing))
        return batch if batch.hits else None

    def keys(self) -> list[bytes]:
        """The script's KEYS, but for the mark."""
        return list(self._indices)

    def numbers(self) -> bytes:
        """The script's ARGV[1]."""
        return b"".join([*(_METER.pack(meter.kind, *meter.numbers) for meter in self._meters), *self._groups])

    def call(self) -> Call:
        """The run of the script that this is."""
        asking = self.asked[0].asking
        if self.mark is None:
            return Call(self.keys(), (self.numbers(),), asking)
        return Call([*self._indices, self.mark.key], (self.numbers(), b"%d" % self.mark.number), asking)

    def resolve(self, reply: bytes) -> None:
        """Answer all who still wait. Raises InvalidResponse for a reply that cannot be this script's."""
        if len(reply) != 8 * self._doubles:
            raise InvalidResponse(f"{len(reply)} bytes came where {8 * self._doubles} were due")
        numbers = list(map(int, struct.unpack(f">{self._doubles}d", reply)))
        now, end = numbers[-1], 0
        for asked in self.asked:
            found: list[Found] = []
            for hit in asked.hits:
                start, end = end, end + hit.meter.width
                found.append(tuple(numbers[start:end]))
            if not asked.answer.done():
                asked.answer.set_result(answer(asked.hits, found, now))

    def _agreed(self, hit: Hit) -> Hit:
        index = self._indices.setdefault(hit.key, len(self._indices) + 1)
        if index > len(self._meters):
            self._meters.append(hit.meter)
            return hit
        known = self._meters[index - 1]
        return hit if known is hit.meter or known == hit.meter else hit._replace(meter=known)
