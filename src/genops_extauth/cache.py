"""A cache bounded in bytes: the least recently used entry goes first.

Not for threads: it belongs to one event loop.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """How a cache does. `size` is in bytes, as told to `Cache.put`; `hits` and `misses` count since the start."""

    entries: int
    size: int
    hits: int
    misses: int


class Cache(Generic[Value]):
    """At most `capacity` bytes of values by digest. 0 keeps nothing."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[bytes, tuple[Value, int]] = OrderedDict()
        self._size = 0
        self._hits = 0
        self._misses = 0

    def get(self, key: bytes) -> Value | None:
        """Return the value under `key`, now the most recently used, or None."""
        entry = self._entries.get(key)
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return entry[0]

    def forget(self, key: bytes) -> None:
        """Drop the value that `get` just returned, for it holds no longer: the hit was a miss."""
        self._size -= self._entries.pop(key)[1]
        self._hits -= 1
        self._misses += 1

    def put(self, key: bytes, value: Value, size: int) -> None:
        """Keep `value`, which with its key costs `size` bytes; what does not fit at all is not kept."""
        if size > self._capacity:
            return
        replaced = self._entries.pop(key, None)
        self._size += size - (0 if replaced is None else replaced[1])
        self._entries[key] = (value, size)
        while self._size > self._capacity:
            _, (_, freed) = self._entries.popitem(last=False)
            self._size -= freed

    def statistics(self) -> CacheStatistics:
        """Return the present figures."""
        return CacheStatistics(len(self._entries), self._size, self._hits, self._misses)
