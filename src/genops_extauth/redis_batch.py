"""Requests packed for one call of ``bucket.lua``, and its reply taken apart; the script's header has the layout."""

import asyncio
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from redis.exceptions import InvalidResponse

from genops_extauth.hits import Answer, Found, Hit, Level, Meter, Origin, Role, answer, parts
from genops_extauth.redis_link import Call

_COUNT = struct.Struct(">H")
_METER = struct.Struct(">Bddd")
_HIT = "HHBd"
_LOOK, _LAST = 8, 16


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


_Known = tuple[int, int, Meter]
"""Of a key: its place among the keys, that of its present meter among the meters, and that meter."""


@lru_cache(maxsize=256)
def _layout(hits: int) -> struct.Struct:
    return struct.Struct(">" + hits * _HIT)


@dataclass(slots=True, eq=False)
class Batch:
    """Groups of hits in the order in which the script takes them.

    A group knows one meter per key, that of the first hit; later hits are read in it. Each group has its own: two meet
    around a reload, at the edge of a calendar's window, and where requests bring limits along. With a `mark` its
    charges and refunds are made once at most, however often it is sent; `sent` counts that.
    """

    asked: list[Asked] = field(default_factory=list)
    hits: int = 0
    charging: bool = False
    mark: Mark | None = None
    sent: int = 0
    _known: dict[bytes, _Known] = field(default_factory=dict)
    _meters: list[Meter] = field(default_factory=list)
    _places: dict[int, int] = field(default_factory=dict)
    _wide: bool = False
    _numbers: list[int] = field(default_factory=list)

    def add(self, asked: Asked) -> None:
        """Put one more group at the end."""
        hits = asked.hits = list(asked.hits)
        numbers = self._numbers
        for at, hit in enumerate(hits):
            known = self._known.get(hit.key) or self._know(hit)
            meter = known[2]
            if meter is not hit.meter and meter != hit.meter:
                if any(each.key == hit.key for each in hits[:at]):
                    hits[at] = hit = hit._replace(meter=meter)  # noqa: PLW2901 - the same hit
                else:
                    known = self._know(hit)
            numbers += known[0], known[1], hit.role | _LOOK if hit.look else hit.role, parts(hit)
        if hits:
            numbers[-2] |= _LAST
        self.asked.append(asked)
        self.hits += len(hits)
        self.charging = self.charging or asked.charging

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
        return list(self._known)

    def numbers(self) -> bytes:
        """The script's ARGV[1]."""
        meters = [_METER.pack(meter.kind, *meter.numbers) for meter in self._meters]
        return b"".join([_COUNT.pack(len(meters)), *meters, _layout(self.hits).pack(*self._numbers)])

    def call(self) -> Call:
        """The run of the script that this is."""
        asking = self.asked[0].asking
        if self.mark is None:
            return Call(self.keys(), (self.numbers(),), asking)
        return Call([*self._known, self.mark.key], (self.numbers(), b"%d" % self.mark.number), asking)

    def resolve(self, reply: bytes) -> None:
        """Answer all who still wait. Raises InvalidResponse for a reply that cannot be this script's."""
        doubles = 1 + (sum(hit.meter.width for hit in self.all()) if self._wide else self.hits)
        if len(reply) != 8 * doubles:
            raise InvalidResponse(f"{len(reply)} bytes came where {8 * doubles} were due")
        *numbers, now = map(int, struct.unpack(f">{doubles}d", reply))
        found = self._found(iter(numbers))
        for asked in self.asked:
            here = list(islice(found, len(asked.hits)))
            if not asked.answer.done():
                asked.answer.set_result(answer(asked.hits, here, now))

    def _found(self, numbers: Iterator[int]) -> Iterator[Found]:
        if not self._wide:
            return zip(numbers, strict=False)
        return (tuple(islice(numbers, hit.meter.width)) for hit in self.all())

    def _know(self, hit: Hit) -> _Known:
        key, meter = hit.key, hit.meter
        place = self._places.get(id(meter))
        if place is None:
            self._meters.append(meter)
            place = self._places[id(meter)] = len(self._meters)
            self._wide = self._wide or meter.width > 1
        number = self._known[key][0] if key in self._known else len(self._known) + 1
        known = self._known[key] = (number, place, meter)
        return known
