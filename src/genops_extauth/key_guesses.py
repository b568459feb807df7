"""How often keys may be tried that turn out to be none: a token bucket for each address, and one for all of them.

A guess is paid for when it has failed, so that good keys cost nothing; what fails at the same moment goes into debt. Of
256 random bits nobody guesses one: this spares the store the questions, and makes whoever asks them visible.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network

_MAX_ADDRESSES = 10_000
"""Remembered at once, the latest: 2 MB. Who has more of them is limited by the bucket of all."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`burst` guesses at once, and `rate` a second from then on."""

    burst: float
    rate: float


OF_ADDRESS = Pace(burst=10, rate=1)
"""A deployment with an old key in ten replicas is told what is wrong; from then on each is a request in vain."""

OF_ALL = Pace(burst=200, rate=50)
"""A lookup costs a store some 20 us: 50 a second are a thousandth of it."""


class _Bucket:
    __slots__ = ("_at", "_left", "_pace")

    def __init__(self, pace: Pace, now: float) -> None:
        self._pace, self._left, self._at = pace, pace.burst, now

    def left(self, now: float) -> float:
        """How many guesses there may be now; below zero are those that failed at the same moment."""
        return min(self._pace.burst, self._left + (now - self._at) * self._pace.rate)

    def spend(self, now: float) -> None:
        # Debts end at a burst: a crowd behind one address is not to wait for hours for what one of it did.
        self._left, self._at = max(self.left(now) - 1, -self._pace.burst), now


class Guesses:
    """Counts failed guesses. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float], *, of_address: Pace = OF_ADDRESS, of_all: Pace = OF_ALL) -> None:
        self._clock = clock
        self._of_address = of_address
        self._all = _Bucket(of_all, clock())
        self._addresses: OrderedDict[str, _Bucket] = OrderedDict()

    def allowed(self, address: str) -> bool:
        """Whether another key from this address may be tried."""
        now = self._clock()
        bucket = self._addresses.get(_network(address))
        return self._all.left(now) >= 1 and (bucket is None or bucket.left(now) >= 1)

    def failed(self, address: str) -> None:
        """Take note of a key that was none."""
        now, network = self._clock(), _network(address)
        self._all.spend(now)
        bucket = self._addresses.pop(network, None) or _Bucket(self._of_address, now)
        bucket.spend(now)
        self._addresses[network] = bucket
        if len(self._addresses) > _MAX_ADDRESSES:
            self._addresses.popitem(last=False)


def _network(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 address: who has one has all of it."""
    if ":" not in address:
        return address
    try:
        return str(ip_network(f"{address.partition('%')[0]}/64", strict=False).network_address)
    except ValueError:
        return address
