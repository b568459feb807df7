"""Wildcards of descriptors, as in envoyproxy/ratelimit: ``*`` is zero or more bytes, and there is no escape.

The first literal part stands at the start, the last at the end, those between in order. Each part is looked for once,
from where the one before it ended, so the time is linear in what a client sent: there is nothing to backtrack over
(regular expressions of such patterns have been a way to stop servers: CWE-1333).
"""

from collections.abc import Iterable, Iterator
from heapq import merge
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

STAR = b"*"

_T = TypeVar("_T")


class Glob(NamedTuple):
    """A pattern with at least one ``*``, cut at them."""

    first: bytes
    middle: tuple[bytes, ...]
    last: bytes

    def matches(self, text: bytes) -> bool:
        """Whether the whole of `text` is of this pattern."""
        at, end = len(self.first), len(text) - len(self.last)
        if at > end or not text.startswith(self.first) or not text.endswith(self.last):
            return False
        for part in self.middle:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True


def glob(pattern: bytes) -> Glob:
    """Cut `pattern` at its stars. It must have one."""
    first, *middle, last = pattern.split(STAR)
    return Glob(first, tuple(middle), last)


class Wildcards(Generic[_T]):
    """Patterns of (key, value), each with what it leads to, in the order of their declaration.

    Where the key has no star it must be equal, and the pattern is of the value. A star in the key is envoyproxy's
    accident, kept: the pattern is then of ``key_value``, joined, or of the key alone where no value was declared.
    """

    __slots__ = ("_by_key", "_loose")

    def __init__(self, patterns: Iterable[tuple[bytes, bytes, _T]]) -> None:
        # By key, so that a hundred keys with patterns cost an entry no more than one does. Those of any key are kept
        # once: repeated at each key, the 2 MB of a hostile file (20,000 of either kind) became 4 GB.
        self._by_key: dict[bytes, list[_Row[_T]]] = {}
        self._loose: list[_Row[_T]] = []
        for place, (key, value, target) in enumerate(patterns):
            if STAR in key:
                self._loose.append(_Row(place, glob(b"%b_%b" % (key, value) if value else key), target))
            else:
                self._by_key.setdefault(key, []).append(_Row(place, glob(value), target))

    def each(self, key: bytes, value: bytes) -> Iterator[_T]:
        """Yield what the patterns that match an entry lead to."""
        own = (row for row in self._by_key.get(key, ()) if row.pattern.matches(value))
        if self._loose:
            joined = b"%b_%b" % (key, value)
            own = merge(own, (row for row in self._loose if row.pattern.matches(joined)), key=_place)
        for row in own:
            yield row.target


class _Row(NamedTuple, Generic[_T]):
    """One pattern: its `place` in the order of declaration, and what it leads to."""

    place: int
    pattern: Glob
    target: _T


_place = attrgetter("place")
