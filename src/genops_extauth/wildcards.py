"""Wildcards of descriptors, as in envoyproxy/ratelimit: ``*`` is zero or more bytes, and there is no escape.

The first literal part stands at the start, the last at the end, those between in order. Each part is looked for once,
from where the one before it ended, so the time is linear in what a client sent: there is nothing to backtrack over
(regular expressions of such patterns have been a way to stop servers: CWE-1333).
"""

from collections.abc import Iterable, Iterator
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
    return Glob(first, tuple(part for part in middle if part), last)


class Wildcards(Generic[_T]):
    """Patterns of (key, value), each with what it leads to, in the order of their declaration.

    Where the key has no star it must be equal, and the pattern is of the value. A star in the key is envoyproxy's
    accident, kept: the pattern is then of ``key_value``, joined, or of the key alone where no value was declared.
    """

    __slots__ = ("_by_key", "_loose")

    def __init__(self, patterns: Iterable[tuple[bytes, bytes, _T]]) -> None:
        # By key, so that a hundred keys with patterns cost an entry no more than one does.
        self._by_key: dict[bytes, list[tuple[bytes | None, Glob, _T]]] = {}
        self._loose: list[tuple[bytes | None, Glob, _T]] = []
        for key, value, target in patterns:
            row = _row(key, value, target)
            if row[0] is None:
                for rows in (self._loose, *self._by_key.values()):
                    rows.append(row)
            else:
                self._by_key.setdefault(key, [*self._loose]).append(row)

    def each(self, key: bytes, value: bytes) -> Iterator[_T]:
        """Yield what the patterns that match an entry lead to."""
        for exact, pattern, target in self._by_key.get(key, self._loose):
            if pattern.matches(value if exact is not None else b"%b_%b" % (key, value)):
                yield target


def _row(key: bytes, value: bytes, target: _T) -> tuple[bytes | None, Glob, _T]:
    if STAR in key:
        return None, glob(b"%b_%b" % (key, value) if value else key), target
    return key, glob(value), target
