"""API keys as a way to say who one is: found, looked up, compared, judged; each time, whatever is remembered.

What is remembered are records, never verdicts. A record of the store counts for 30 seconds, and is asked for anew,
while it is used, before they end: nobody waits. A change of a record takes that long to be known everywhere; what must
not wait that long, a revocation, is told by `revocation` besides. While the store is away keys that are known go on for
`max_stale`; of one never seen nobody can tell, and that is an outage.

A new secret is not to wait for 30 seconds: what does not fit the record is asked for at once, but once a second for a
key at the most, and only while its sender has guesses left.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from genops_extauth.apikeys import Presented, matches, presented
from genops_extauth.cache import Cache, CacheStatistics
from genops_extauth.key_guesses import Guesses
from genops_extauth.key_lifecycle import Record, identities, refusal
from genops_extauth.key_places import Places
from genops_extauth.key_records import RecordError
from genops_extauth.key_usage import Usage
from genops_extauth.model import Denied, Identity, Request, StoreUnavailable
from genops_extauth.reasons import Reason

FRESH = 30.0
"""Seconds for which a record counts. A key is looked up twice a minute by each process: nothing for a store."""

_AHEAD = 15.0
"""Seconds after which a record that is used is asked for anew, while it still counts."""

_AGAIN = 1.0
"""Seconds before the same question is asked again: of a key that is not there or has another secret, and of a store
that did not answer."""

_KNOWN_BYTES = 64 * 1024 * 1024
"""Of records: 30,000 keys in use at once."""

_UNKNOWN_BYTES = 1024 * 1024
"""Of ids that are not there: apart, for whoever makes them up must not push out those that are."""

_UNKNOWN_SIZE = 200

# Envoy's clients hang up at their deadline; the answer must be on the wire before it. Its default is 200 ms.
_ANSWER_MARGIN = 0.02  # seconds
_PATIENCE = 0.2  # seconds


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A record, and what comparing and answering takes: its digests, and who shows it, by secret."""

    record: Record
    digests: tuple[bytes, ...]
    identities: tuple[Identity, ...]

    @classmethod
    def of(cls, record: Record) -> "Known":
        """Prepare a record."""
        return cls(record, tuple(secret.digest for secret in record.secrets), identities(record))


class _Remembered(NamedTuple):
    known: Known
    at: float


class Lookup:
    """Records that `find` finds in the store, remembered. `clock` is monotonic, in seconds.

    It outlives a reload. `find` raises `StoreUnavailable`.
    """

    def __init__(
        self, find: Callable[[str], Awaitable[Record | None]], clock: Callable[[], float], *, max_stale: float = 3600.0
    ) -> None:
        self._find = find
        self._clock = clock
        self._max_stale = max_stale
        self._known: Cache[_Remembered] = Cache(_KNOWN_BYTES)
        self._unknown: Cache[float] = Cache(_UNKNOWN_BYTES)
        self._flights: dict[str, asyncio.Task[Known | StoreUnavailable | None]] = {}
        self._again_at = float("-inf")
        self.away = False
        """Whether the store did not answer the last time."""

    def adopt(self, max_stale: float) -> None:
        """Let known keys go on for as many seconds from now on, while the store is away."""
        self._max_stale = max_stale

    def statistics(self) -> CacheStatistics:
        """Return the figures of the remembered records."""
        return self._known.statistics()

    def remembered(self, key_id: str) -> tuple[Known, float] | None:
        """What is remembered of a key, and for how many seconds, unless that is too long; it is renewed in time."""
        found = self._known.get(key_id.encode())
        if found is None:
            return None
        age = self._clock() - found.at
        if age > max(FRESH, self._max_stale):
            return None
        if age > _AHEAD:
            self._fly(key_id)
        return found.known, age

    async def asked(self, key_id: str, patience: float) -> Known | None:
        """Ask the store, or take what it said within the last second; None where there is no such key.

        Waits for `patience` seconds at the most. Raises `StoreUnavailable`.
        """
        latest = self._latest(key_id)
        if latest is not None:
            return latest[0]
        flight = self._fly(key_id)
        if flight is None:
            raise StoreUnavailable("unreachable: the store did not answer a moment ago, and is asked again soon")
        await asyncio.wait([flight], timeout=max(0.0, patience))
        if not flight.done() or flight.cancelled():
            raise StoreUnavailable("timeout: the record of the key did not come in time")
        found = flight.result()
        if isinstance(found, StoreUnavailable):
            raise found
        return found

    async def close(self) -> None:
        """End what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _latest(self, key_id: str) -> tuple[Known | None] | None:
        now, name = self._clock(), key_id.encode()
        found = self._known.get(name)
        if found is not None and now - found.at < _AGAIN:
            return (found.known,)
        missed = self._unknown.get(name)
        return (None,) if missed is not None and now - missed < _AGAIN else None

    def _fly(self, key_id: str) -> asyncio.Task[Known | StoreUnavailable | None] | None:
        """The question under way, or a new one; None while the store is away, but for one question a second."""
        flight = self._flights.get(key_id)
        if flight is None and not (self.away and (self._flights or self._clock() < self._again_at)):
            flight = self._flights[key_id] = asyncio.create_task(self._ask(key_id))
        return flight

    async def _ask(self, key_id: str) -> Known | StoreUnavailable | None:
        asked_at = self._clock()
        try:
            record = await self._find(key_id)
        except StoreUnavailable as error:
            self.away, self._again_at = True, self._clock() + _AGAIN
            return error
        except RecordError as error:
            return StoreUnavailable(f"protocol: the record of {key_id} cannot be read: {error}")
        finally:
            del self._flights[key_id]
        self.away = False
        return self._keep(key_id, record, asked_at)

    def _keep(self, key_id: str, record: Record | None, asked_at: float) -> Known | None:
        name = key_id.encode()
        before = self._known.get(name)
        if record is None:
            if before is not None:
                self._known.forget(name)
            self._unknown.put(name, asked_at, _UNKNOWN_SIZE)
            return None
        # The same identity as before where nothing changed: what is prepared for it is found by that.
        known = before.known if before is not None and before.known.record == record else Known.of(record)
        self._known.put(name, _Remembered(known, asked_at), _size(record))
        return known


class ApiKeys:
    """A `gate.Authenticator` of API keys.

    `held` are records from files; `lookup` asks the store for others, where keys are kept there. `tiers` are those that
    keys may grant. `usage`, if any, is told of each key of the store that was used.
    """

    def __init__(
        self,
        places: Places,
        digest_key: bytes,
        *,
        tiers: frozenset[str],
        guesses: Guesses,
        held: Iterable[Record] = (),
        lookup: Lookup | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.places = places
        """Where a request holds its key."""
        self._digest_key = digest_key
        self._tiers = tiers
        self._guesses = guesses
        self._held: Mapping[str, Known] = {record.id: Known.of(record) for record in held}
        self._lookup = lookup
        self._usage = usage

    def presented(self, request: Request) -> bool:
        """Whether the request holds an API key, good or bad."""
        return self.places.presented(request)

    async def authenticate(
        self, request: Request, wall: Callable[[], float], remaining: Callable[[], float | None]
    ) -> Identity | Denied | None:
        """Tell whose key the request holds; None where it holds none. Raises `StoreUnavailable`."""
        text = self.places.key(request)
        if text is None or isinstance(text, Denied):
            return text
        key = presented(text, self._digest_key)
        if key is None:
            return Denied(Reason.API_KEY_MALFORMED)
        known = self._held.get(key.id)
        place = matches(known.digests if known is not None else (), key.digest)
        if known is not None and place is not None:
            return self._judged(known, place, wall())
        return await self._tried(key, request.peer.address, wall, remaining, elsewhere=known is None)

    async def _tried(
        self,
        key: Presented,
        address: str,
        wall: Callable[[], float],
        remaining: Callable[[], float | None],
        *,
        elsewhere: bool,
    ) -> Identity | Denied:
        """Look a key up that no file has; `elsewhere`: unless a file has one of its id."""
        lookup = self._lookup if elsewhere else None
        found = lookup.remembered(key.id) if lookup is not None else None
        place = matches(found[0].digests if found is not None else (), key.digest)
        known = found[0] if found is not None else None
        if lookup is not None and (found is None or place is None or (found[1] > FRESH and not lookup.away)):
            if place is None and not self._guesses.allowed(address):
                return Denied(Reason.API_KEY_GUESSED)
            try:
                known = await lookup.asked(key.id, _patience(remaining()))
                place = matches(known.digests if known is not None else (), key.digest)
            except StoreUnavailable:
                if place is None:
                    raise
        if known is None or place is None:
            return self._failed(address)
        now = wall()
        if self._usage is not None:
            self._usage.note(key.id, now)
        return self._judged(known, place, now)

    def _failed(self, address: str) -> Denied:
        if not self._guesses.allowed(address):
            return Denied(Reason.API_KEY_GUESSED)
        self._guesses.failed(address)
        return Denied(Reason.API_KEY_UNKNOWN)

    def _judged(self, known: Known, place: int, now: float) -> Identity | Denied:
        refused = refusal(known.record, place, now)
        if refused is not None:
            return refused
        tier = known.record.attributes.get("customer_tier")
        if tier is not None and tier not in self._tiers:
            return Denied(Reason.TIER_NOT_GRANTED)
        return known.identities[place]


def _patience(left: float | None) -> float:
    """Seconds to wait for the store, where the caller hangs up in so many; without a deadline, in Envoy's default."""
    return min(_PATIENCE if left is None else left, _PATIENCE) - _ANSWER_MARGIN


def _size(record: Record) -> int:
    """About what a record takes in memory, with its identities and its place in the cache."""
    words = sum(len(word) + 60 for word in (*record.scopes, *record.roles))
    facts = sum(len(value) + 60 for value in record.attributes.values())
    return 1500 + 600 * len(record.secrets) + len(record.name) + words + facts
