import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from genops_extauth.apikeys import NewKey, digest_of, foreign_id, minted
from genops_extauth.key_guesses import Guesses, Pace
from genops_extauth.key_lifecycle import Record, Secret, begun, completed, revoked
from genops_extauth.key_lookup import FRESH, ApiKeys, Lookup
from genops_extauth.key_places import Places
from genops_extauth.key_records import RecordError
from genops_extauth.key_store import KeyStore
from genops_extauth.key_usage import Usage
from genops_extauth.model import Denied, Identity, Peer, Request, StoreUnavailable
from genops_extauth.reasons import Reason
from genops_extauth.store_address import target
from genops_extauth.store_client import open_client
from memory_store import Clock
from stores import VALKEY, running, until

DIGEST_KEY = b"d" * 32
NOW = 1_000_000
SECOND = 1_000_000  # microseconds
HERE = "192.0.2.1"


def made(key_id: str | None = None) -> NewKey:
    return minted(os.urandom, key_id)


def record_of(key: NewKey, **changes: Any) -> Record:
    secret = Secret(digest_of(key.text.encode(), DIGEST_KEY), NOW)
    attributes = {"team": "ml", "customer_tier": "free"}
    return replace(Record(key.id, "a key", (secret,), NOW, attributes=attributes), **changes)


class Records:
    """What a store has. It fails while `away`, and answers only once it is `open`; `asked` counts questions."""

    def __init__(self, *records: Record) -> None:
        self.kept = {record.id: record for record in records}
        self.away = self.broken = False
        self.open = asyncio.Event()
        self.open.set()
        self.asked: list[str] = []

    async def find(self, key_id: str) -> Record | None:
        self.asked.append(key_id)
        await self.open.wait()
        if self.away:
            raise StoreUnavailable("unreachable: the test says so")
        if self.broken:
            raise RecordError("secrets: is no list")
        return self.kept.get(key_id)


class Asking:
    """API keys over a store, with a clock that tests move."""

    def __init__(self, *records: Record, held: tuple[Record, ...] = (), max_stale: float = 3600.0) -> None:
        self.clock = Clock()
        self.store = Records(*records)
        self.lookup = Lookup(self.store.find, self.clock, max_stale=max_stale)
        self.used: list[str] = []
        self.usage = Usage(self._write)
        self.guesses = Guesses(self.clock, of_address=Pace(3, 1), of_all=Pace(100, 100))
        self.keys = ApiKeys(
            Places(),
            DIGEST_KEY,
            tiers=frozenset({"free"}),
            guesses=self.guesses,
            held=held,
            lookup=self.lookup,
            usage=self.usage,
        )

    async def _write(self, uses: Any) -> None:
        self.used += uses

    async def ask(self, key: NewKey | str, address: str = HERE) -> Identity | Denied | None:
        text = key if isinstance(key, str) else key.text
        request = Request("GET", "/", "host", {"x-api-key": text.encode()}, peer=Peer(address))
        return await self.keys.authenticate(request, lambda: NOW + self.clock(), lambda: None)

    async def reason(self, key: NewKey | str, address: str = HERE) -> Reason | str:
        """Why it was refused, or its id."""
        found = await self.ask(key, address)
        assert found is not None
        return found.reason if isinstance(found, Denied) else found.subject

    def later(self, seconds: float) -> None:
        self.clock.us += int(seconds * SECOND)


async def test_a_good_key_is_its_owner() -> None:
    """A good key is the identity of its record, and the very same one until the record changes."""
    key = made()
    asking = Asking(record_of(key))
    identity = await asking.ask(key)
    assert isinstance(identity, Identity)
    assert (identity.subject, identity.attributes) == (key.id, {"team": "ml", "customer_tier": "free"})
    asking.later(FRESH + 1)
    assert await asking.ask(key) is identity
    assert len(asking.store.asked) == 2


async def test_no_key_is_somebody_else_s_question() -> None:
    """Of a request without an API key nothing is said, and nobody asked."""
    asking = Asking()
    request = Request("GET", "/", "host", {"authorization": b"Bearer eyJ.e30.x"})
    assert await asking.keys.authenticate(request, lambda: NOW, lambda: None) is None
    assert not asking.keys.presented(request)
    assert asking.store.asked == []


async def test_slips_cost_no_lookup() -> None:
    """What is no key by its form is refused without a question, and costs no guess, however often."""
    asking = Asking()
    for _ in range(20):
        assert await asking.reason(made().text[:-1] + "!") is Reason.API_KEY_MALFORMED
    assert asking.store.asked == []
    assert asking.guesses.allowed(HERE)


async def test_wrong_keys_are_refused_alike() -> None:
    """A key with an unknown id, and one with the id of a good key and another secret, are refused for one reason."""
    key = made()
    asking = Asking(record_of(key))
    assert await asking.reason(made()) is Reason.API_KEY_UNKNOWN
    assert await asking.reason(made(key.id)) is Reason.API_KEY_UNKNOWN
    assert await asking.reason(key) == key.id
    assert await asking.reason(made(key.id)) is Reason.API_KEY_UNKNOWN


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"expires": NOW}, Reason.API_KEY_EXPIRED),
        ({"not_before": NOW + 1}, Reason.API_KEY_NOT_YET_VALID),
        ({"attributes": {"customer_tier": "gold"}}, Reason.TIER_NOT_GRANTED),
    ],
)
@pytest.mark.parametrize("held", [True, False])
async def test_a_record_is_judged_each_time(change: dict[str, Any], reason: Reason, *, held: bool) -> None:
    """A key that does not hold now is refused for what its record says, from a file as from the store."""
    key = made()
    record = record_of(key, **change)
    asking = Asking(held=(record,)) if held else Asking(record)
    assert [await asking.reason(key) for _ in range(2)] == [reason] * 2


async def test_time_is_looked_at_each_time() -> None:
    """A key that was good a moment ago is refused the moment that it ends: what is remembered is no verdict."""
    key = made()
    asking = Asking(record_of(key, expires=NOW + 5))
    assert await asking.reason(key) == key.id
    asking.later(5)
    assert await asking.reason(key) is Reason.API_KEY_EXPIRED
    assert len(asking.store.asked) == 1


async def test_files_come_first() -> None:
    """A record in a file counts, and not that of the same id in the store, which is not even asked."""
    key, other = made(), made()
    asking = Asking(record_of(made(key.id)), record_of(other), held=(record_of(key),))
    assert await asking.reason(key) == key.id
    assert await asking.reason(made(key.id)) is Reason.API_KEY_UNKNOWN
    assert asking.store.asked == []
    assert await asking.reason(other) == other.id


async def test_a_lookup_lasts_for_half_a_minute() -> None:
    """A record counts for 30 seconds; then a change of it is known, also to who uses the key all the time."""
    key = made()
    asking = Asking(record_of(key))
    await asking.ask(key)
    asking.store.kept[key.id] = revoked(asking.store.kept[key.id], NOW, "leaked")
    for _ in range(3):
        asking.later(FRESH / 3 - 0.01)
        assert await asking.reason(key) == key.id
    asking.later(0.1)
    assert await asking.reason(key) is Reason.API_KEY_REVOKED


async def test_a_key_in_use_is_never_waited_for() -> None:
    """While a key is used its record is asked for before it is too old, and no request waits for the answer."""
    key = made()
    asking = Asking(record_of(key))
    await asking.ask(key)
    for question in (2, 3):
        asking.later(FRESH - 5)
        asking.store.open.clear()
        assert await asking.reason(key) == key.id
        await until(lambda count=question: len(asking.store.asked) == count)  # type: ignore[misc] # a default
        asking.store.open.set()
        await until(lambda: not asking.lookup._flights)


async def test_a_rotated_key_works_at_once() -> None:
    """A new secret is good the moment it works in the store, though an older record is remembered; so is the old."""
    key = made()
    asking = Asking(record_of(key))
    await asking.ask(key)
    new = made(key.id)
    asking.later(2)
    begun_ = begun(asking.store.kept[key.id], "r1", digest_of(new.text.encode(), DIGEST_KEY), NOW)
    asking.store.kept[key.id] = completed(begun_, NOW, 3600)
    assert [await asking.reason(each) for each in (new, key)] == [key.id] * 2


async def test_a_new_key_works_at_once() -> None:
    """A key that was asked for a second before it was issued works: that it was unknown is soon forgotten."""
    key = made()
    asking = Asking()
    assert await asking.reason(key) is Reason.API_KEY_UNKNOWN
    asking.store.kept[key.id] = record_of(key)
    asking.later(1)
    assert await asking.reason(key) == key.id


async def test_a_deleted_key_is_forgotten() -> None:
    """A record that is in the store no more is forgotten, with its key."""
    key = made()
    asking = Asking(record_of(key))
    await asking.ask(key)
    asking.store.kept.clear()
    asking.later(FRESH + 1)
    assert await asking.reason(key) is Reason.API_KEY_UNKNOWN
    assert asking.lookup.statistics().entries == 0


async def test_one_question_answers_all_who_ask() -> None:
    """However many requests show one key at once, known or not, the store is asked once."""
    key, unknown = made(), made()
    asking = Asking(record_of(key))
    asking.store.open.clear()
    waiting = [asyncio.ensure_future(asking.reason(each)) for each in [key] * 50 + [unknown] * 3]
    await until(lambda: len(asking.store.asked) == 2)
    asking.store.open.set()
    assert await asyncio.gather(*waiting) == [key.id] * 50 + [Reason.API_KEY_UNKNOWN] * 3
    assert sorted(asking.store.asked) == sorted([key.id, unknown.id])


async def test_guesses_run_out() -> None:
    """Who fails too often is refused without a lookup; keys known to be good pass, from there as from elsewhere."""
    known, unseen = made(), made()
    asking = Asking(record_of(known), record_of(unseen))
    await asking.ask(known)
    assert [await asking.reason(made()) for _ in range(4)] == [Reason.API_KEY_UNKNOWN] * 3 + [Reason.API_KEY_GUESSED]
    asked = len(asking.store.asked)
    assert await asking.reason(made(known.id)) is Reason.API_KEY_GUESSED
    assert await asking.reason(unseen) is Reason.API_KEY_GUESSED
    assert len(asking.store.asked) == asked
    assert await asking.reason(known) == known.id
    assert await asking.reason(unseen, address="192.0.2.2") == unseen.id
    assert await asking.reason(unseen) == unseen.id
    asking.later(1)
    assert await asking.reason(made()) is Reason.API_KEY_UNKNOWN


async def test_known_keys_are_renewed_though_guesses_ran_out() -> None:
    """A good key whose record is too old is asked for, however many bad ones came from its address."""
    key = made()
    asking = Asking(record_of(key))
    await asking.ask(key)
    asking.later(FRESH + 1)
    for _ in range(4):
        await asking.ask(made())
    assert await asking.reason(key) == key.id


async def test_known_keys_outlast_an_outage() -> None:
    """While the store is away known keys go on for max_stale; of others nobody can tell, and that is an outage."""
    key, unseen = made(), made()
    asking = Asking(record_of(key), record_of(unseen), max_stale=100.0)
    await asking.ask(key)
    asking.store.away = True
    for seconds in (FRESH + 1, 30, 30):
        asking.later(seconds)
        assert await asking.reason(key) == key.id
        with pytest.raises(StoreUnavailable):
            await asking.ask(unseen)
    asking.later(30)
    with pytest.raises(StoreUnavailable):
        await asking.ask(key)
    asking.store.away = False
    asking.later(1)
    assert [await asking.reason(each) for each in (key, unseen)] == [key.id, unseen.id]


async def test_an_outage_is_asked_about_once_a_second() -> None:
    """A store that did not answer is asked again after a second, by one request, and nobody else waits for it."""
    key = made()
    asking = Asking(record_of(key))
    await asking.ask(key)
    asking.later(FRESH + 1)
    asking.store.away = True
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await asking.ask(made())
        assert await asking.reason(key) == key.id
    assert len(asking.store.asked) == 2
    asking.later(1)
    asking.store.open.clear()
    for _ in range(5):
        assert await asking.reason(key) == key.id  # it does not wait for what it caused
    with pytest.raises(StoreUnavailable, match="is asked again soon"):
        await asking.ask(made())
    await until(lambda: len(asking.store.asked) == 3)
    asking.store.open.set()
    await asking.lookup.close()


async def test_whoever_waits_hears_in_time() -> None:
    """A lookup that takes too long is an outage to who has never shown the key, in time for an answer."""
    key = made()
    asking = Asking(record_of(key))
    asking.store.open.clear()
    request = Request("GET", "/", "host", {"x-api-key": key.text.encode()})
    with pytest.raises(StoreUnavailable, match="did not come in time"):
        await asking.keys.authenticate(request, lambda: NOW, lambda: 0.03)
    asking.store.open.set()
    assert await asking.reason(key) == key.id
    assert asking.store.asked == [key.id]


async def test_a_record_that_cannot_be_read_is_an_outage() -> None:
    """Nobody is let in, nor told to be nobody, by a record that cannot be read."""
    asking = Asking()
    asking.store.broken = True
    with pytest.raises(StoreUnavailable, match="cannot be read: secrets"):
        await asking.ask(made())


async def test_unknown_ids_do_not_push_out_known_keys() -> None:
    """A flood of made-up ids leaves what is remembered of good keys where it is."""
    key = made()
    asking = Asking(record_of(key))
    asking.keys = ApiKeys(
        *(Places(), DIGEST_KEY),
        tiers=frozenset({"free"}),
        guesses=Guesses(asking.clock, of_address=Pace(10**6, 1), of_all=Pace(10**6, 1)),
        lookup=asking.lookup,
    )
    await asking.ask(key)
    for _ in range(6000):
        await asking.ask(made())
    asked = len(asking.store.asked)
    assert await asking.reason(key) == key.id
    assert len(asking.store.asked) == asked
    assert asking.lookup._unknown.statistics().size <= 1024 * 1024


async def test_uses_are_noted_of_keys_in_the_store() -> None:
    """When a key was used is noted, of those in the store that were shown with a good secret."""
    stored, filed = made(), made()
    asking = Asking(record_of(stored), held=(record_of(filed),))
    for key in (stored, filed, made(), made(stored.id)):
        await asking.ask(key)
    await asking.usage.flush()
    assert asking.used == [stored.id]


async def test_a_foreign_key_is_found_by_what_it_is() -> None:
    """A key that was made elsewhere and imported is as good as one of ours; one like it is not."""
    text = "sk-live-51H8xQe2eZvKYlo2C"
    key = NewKey(foreign_id(text.encode(), DIGEST_KEY), text)
    asking = Asking(record_of(key))
    assert await asking.reason(text) == key.id
    assert await asking.reason(text + "x") is Reason.API_KEY_UNKNOWN


async def test_the_digest_key_is_needed_to_be_known() -> None:
    """Under another digest key no key is known: records alone let nobody in."""
    key = made()
    asking = Asking(record_of(key))
    asking.keys = ApiKeys(Places(), b"e" * 32, tiers=frozenset({"free"}), guesses=asking.guesses, lookup=asking.lookup)
    assert await asking.reason(key) is Reason.API_KEY_UNKNOWN


@pytest.fixture
async def store() -> AsyncIterator[KeyStore]:
    with running(VALKEY) as server:
        client = open_client(target(server.url), 10.0)
        yield KeyStore(client, "genops")
        await client.aclose()


async def test_a_real_store_is_asked(store: KeyStore) -> None:
    """Keys in a real store are found, judged and noted as used."""
    key = made()
    await store.put(record_of(key))
    asking = Asking()
    usage = Usage(store.note)
    asking.keys = ApiKeys(
        *(Places(), DIGEST_KEY),
        tiers=frozenset({"free"}),
        guesses=asking.guesses,
        lookup=Lookup(store.get, asking.clock),
        usage=usage,
    )
    assert await asking.reason(key) == key.id
    assert await asking.reason(made()) is Reason.API_KEY_UNKNOWN
    await usage.flush()
    assert await store.used([key.id]) == {key.id: NOW}
