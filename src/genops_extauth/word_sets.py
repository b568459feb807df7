"""Sets of words, the scopes and roles of tokens: thousands of tokens have the same few, which are kept once."""

import hashlib
import json
import sys

from genops_extauth.cache import Cache

_ENTRY_BYTES = 320
"""Of the cache, without the set: the key, the node of the OrderedDict, the pair in it (`tokens` measured the same)."""


class WordSets:
    """Up to `capacity` bytes of sets by their words."""

    def __init__(self, capacity: int = 2**20) -> None:
        self._sets: Cache[frozenset[str]] = Cache(capacity)

    def share(self, words: frozenset[str]) -> tuple[frozenset[str], int]:
        """Return the one set of these words, and how many bytes of it whoever holds it is to be charged with.

        Whoever brings a set first pays for it, the others nothing. So what nobody pays for is only what outlives who
        brought it, and no more than is shared while it is remembered here: about twice the capacity.
        """
        if not words:
            return words, 0  # Python has one empty set.
        key = hashlib.sha256(json.dumps(sorted(words)).encode()).digest()
        known = self._sets.get(key)
        if known is not None:
            return known, 0
        size = sys.getsizeof(words) + sum(map(sys.getsizeof, words))
        self._sets.put(key, words, size + _ENTRY_BYTES)
        return words, size
