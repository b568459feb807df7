"""What a process may grant by itself: of each bucket an allowance, and then what the limit says.

The allowance of a bucket is a token bucket of its own. It comes back as its limit does, but only while the store can be
used: its clock (`now`) stands still in an outage. So one outage costs at most the allowance, however long it is, and
over any interval t that ends and starts outages at will, a process grants at most ``allowance + rate * t`` itself.

A limit that is open after its allowance grants all that its bucket could ever hold: the allowance decides nothing.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from genops_extauth.bucket import SECOND, Bucket, State
from genops_extauth.hits import Answer, Book, Hit, Level, Meter, Origin, Role
from genops_extauth.window import CalendarWindow, Used

RETRY = 1
"""Seconds. Nobody knows when the store returns; a client that asks each second notices soon, and does no harm."""

_NOTHING = Bucket(capacity=0, part=1, refill=1, tick=1)
_SWEPT = 1_000  # entries looked at in one go: a millisecond


class _Spent(NamedTuple):
    allowance: Bucket
    state: State


class Allowances:
    """Allowances in memory, of at most `most` buckets: those that nothing is missing from need none."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._spent: OrderedDict[bytes, _Spent] = OrderedDict()
        self.crowded = 0
        """Hits for which there was no room: their limits' policy decided at once."""

    def __len__(self) -> int:
        return len(self._spent)

    def transact(self, hits: Sequence[Hit], now: int) -> Answer:
        """Decide a group of hits, and take it from the allowances.

        `now` is in microseconds that the store was usable so far. Charges and refunds always fit. A charge takes, into
        debt where it must: who asks by looks, as the cost comes later, would otherwise pass for ever. A refund changes
        no allowance: it may be of what was taken before.
        """
        local = [self._local(hit) for hit in hits]
        spent = {hit.key: self._spent.get(hit.key) for hit in hits if not hit.terms.open_after}
        book = Book({key: each.state for key, each in spent.items() if each is not None})
        answer = book.transact(local, now)
        for hit in local:
            if not hit.look and isinstance(hit.meter, Bucket):
                self._keep(hit.key, hit.meter, book.states.get(hit.key))
        return Answer(answer.granted, tuple([_told(level) for level in answer.levels]), Origin.ALLOWANCE)

    def sweep(self, now: int) -> None:
        """Forget allowances that are whole again: of the next few, as all may be many."""
        for _ in range(min(len(self._spent), _SWEPT)):
            key, spent = self._spent.popitem(last=False)
            if spent.allowance.level(spent.state, now) < spent.allowance.capacity:
                self._spent[key] = spent

    def _local(self, hit: Hit) -> Hit:
        """What is asked of the allowance in place of the bucket."""
        if hit.terms.open_after:
            return hit._replace(look=True)  # on a bucket that nobody keeps, and so is full
        allowance = _allowance(hit.meter, hit.terms.allowance)
        if hit.role is Role.REFUND:
            return hit._replace(meter=allowance, look=True)
        if allowance.capacity and hit.key not in self._spent and len(self._spent) >= self._most:
            self.crowded += 1
            allowance = _NOTHING
        return hit._replace(meter=allowance)

    def _keep(self, key: bytes, allowance: Bucket, state: State | Used | None) -> None:
        if isinstance(state, State):
            self._spent[key] = _Spent(allowance, state)
        else:
            self._spent.pop(key, None)


@lru_cache(maxsize=1_024)
def _allowance(meter: Meter, tokens: int) -> Bucket:
    """A bucket of `tokens`, at most those that `meter` has; they come back as its own do."""
    if isinstance(meter, Bucket):
        return Bucket(min(tokens * meter.part, meter.capacity), meter.part, meter.refill, meter.tick)
    if not meter.capacity:
        return _NOTHING
    length = meter.finish - meter.start if isinstance(meter, CalendarWindow) else meter.length
    divisor = math.gcd(meter.capacity, length)
    part = length // divisor
    # Too large for a double, maybe, but these never leave Python.
    return Bucket(min(tokens, meter.capacity) * part, part, meter.capacity // divisor, 1)


def _told(level: Level) -> Level:
    if level.fits:
        return level._replace(reset=RETRY)  # Until then nobody knows better.
    return level._replace(reset=RETRY, wait=RETRY * SECOND)
