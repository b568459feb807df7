"""Charges and refunds that nobody could be told yet, added up by key until the store can be.

Of what is owed to a bucket two numbers are kept: a refund made first, and a charge made then. They are all that any
row of charges and refunds comes to, as a refund ends at the full bucket: after ``x -> min(x + R, full) - C`` a further
charge adds to C, and a further refund first takes away from C, and with the rest adds to R.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from genops_extauth.hits import Hit, Meter, Role

LARGEST = 100_000
"""Keys in a journal: about 30 MB. More customers than that within one outage, and the rest is dropped, and counted."""


@dataclass(slots=True)
class Owed:
    """Counts of what is owed: how many keys, how many tokens to charge, and how many to refund."""

    keys: int = 0
    charges: int = 0
    refunds: int = 0

    def __bool__(self) -> bool:
        return self.keys > 0

    def add(self, hits: Iterable[Hit]) -> None:
        """Count these hits too; a key that occurs twice counts twice."""
        for hit in hits:
            self.keys += 1
            if hit.role is Role.CHARGE:
                self.charges += hit.cost
            else:
                self.refunds += hit.cost

    def plus(self, other: "Owed") -> "Owed":
        """Both together."""
        return Owed(self.keys + other.keys, self.charges + other.charges, self.refunds + other.refunds)


@dataclass(slots=True)
class _Entry:
    meter: Meter
    refund: int = 0
    charge: int = 0


@dataclass(slots=True)
class Journal:
    """What is owed, by key, in order of arrival; of at most `largest` keys."""

    largest: int = LARGEST
    _entries: OrderedDict[bytes, _Entry] = field(default_factory=OrderedDict)
    _charges: int = 0
    _refunds: int = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, hits: Iterable[Hit]) -> list[Hit]:
        """Write down charges and refunds. Returns those for which there is no room."""
        return [hit for hit in hits if not self._add(hit)]

    def take(self, count: int) -> list[Hit]:
        """Take out what is owed to the oldest keys, as about `count` hits: two for a key with both."""
        taken: list[Hit] = []
        while self._entries and len(taken) < count:
            key, entry = self._entries.popitem(last=False)
            self._refunds -= entry.refund
            self._charges -= entry.charge
            amounts = ((entry.refund, Role.REFUND), (entry.charge, Role.CHARGE))
            taken += [Hit(key, entry.meter, cost, role) for cost, role in amounts if cost]
        return taken

    def owed(self) -> Owed:
        """What is written down."""
        return Owed(len(self._entries), self._charges, self._refunds)

    def _add(self, hit: Hit) -> bool:
        entry = self._entries.get(hit.key)
        if entry is None:
            if len(self._entries) >= self.largest:
                return False
            entry = self._entries[hit.key] = _Entry(hit.meter)
        entry.meter = hit.meter  # the newest limit's
        if hit.role is Role.CHARGE:
            entry.charge += hit.cost
            self._charges += hit.cost
            return True
        undone = min(hit.cost, entry.charge)
        entry.charge -= undone
        entry.refund += hit.cost - undone
        self._charges -= undone
        self._refunds += hit.cost - undone
        return True
