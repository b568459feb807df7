import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets import SECOND
from genops_extauth.bucket import bucket
from genops_extauth.hits import Answer, Book, Hit, Meter, Origin, Role, Terms
from genops_extauth.leases import LIFE, SHARE, Leases
from genops_extauth.model import StoreUnavailable
from genops_extauth.window import FixedWindow
from memory_store import Clock, MemoryStore, away, back

LEASED = Terms(lease=20)
THOUSAND = bucket(1000, 3600)


def hit(cost: int = 1, key: bytes = b"k", meter: Meter = THOUSAND, **more: Any) -> Hit:
    return Hit(key, meter, cost, **({"terms": LEASED} | more))


@pytest.fixture
def leases(store: MemoryStore, clock: Clock) -> Leases:
    return Leases(store, clock)


async def ask(leases: Leases, *hits: Hit) -> Answer:
    return await leases.transact(hits or (hit(),))


async def warm(leases: Leases, requests: int = 60, key: bytes = b"k", meter: Meter = THOUSAND) -> int:
    """Make a bucket hot. Returns the tokens granted."""
    answers = [await ask(leases, hit(key=key, meter=meter)) for _ in range(requests)]
    return sum(answer.granted for answer in answers)


async def half_spent(leases: Leases) -> None:
    """Make a bucket hot, of which the next request fills the lease."""
    await warm(leases)
    while leases.statistics().stranded > LEASED.lease // 2:
        await ask(leases)


def taken(store: MemoryStore, key: bytes = b"k") -> int:
    """What the bucket has paid for."""
    return store.made(key, Role.MUST) - store.made(key, Role.REFUND)


moves = st.one_of(st.integers(0, SECOND // 10), st.integers(0, 3 * SECOND))
bursts = st.lists(st.tuples(st.sampled_from([b"k", b"l"]), st.integers(1, 5)), max_size=15)
steps = st.lists(st.tuples(moves, bursts, st.booleans()), min_size=1, max_size=12)


@given(steps, st.integers(1, 200), st.integers(1, 40))
def test_what_is_served_was_taken_before(
    steps: list[tuple[int, list[tuple[bytes, int]], bool]], size: int, lease: int
) -> None:
    """What was granted is what the store granted, less what came back and what is held; in the end all is back."""

    async def go() -> None:
        clock = Clock()
        store = MemoryStore(clock)
        leases, meter, terms = Leases(store, clock), bucket(size, 10), Terms(lease=lease)
        granted = 0
        for move, burst, expires in steps:
            clock.us += move
            asked = [hit(cost, key, meter, terms=terms) for key, cost in burst]
            answers = await asyncio.gather(*(ask(leases, each) for each in asked))
            granted += sum(each.cost for each, answer in zip(asked, answers, strict=True) if answer.granted)
            if expires:
                await leases.expire()
            held = leases.statistics().stranded
            assert taken(store, b"k") + taken(store, b"l") == granted + held
            assert held <= 2 * lease or not expires
        await leases.close()
        assert taken(store, b"k") + taken(store, b"l") == granted
        assert leases.statistics().stranded == 0

    asyncio.run(go())


@given(st.lists(st.tuples(moves, st.integers(0, 15)), min_size=1, max_size=15), st.integers(1, 60), st.integers(1, 40))
def test_lease_moves_no_more_than_it_holds(steps: list[tuple[int, int]], size: int, lease: int) -> None:
    """Over any interval t no more is granted than ``burst + rate * t`` and what was held at its start."""

    async def go() -> None:
        clock = Clock()
        leases, meter, terms = Leases(MemoryStore(clock), clock), bucket(size, 10), Terms(lease=lease)
        starts: list[tuple[int, int, int]] = []
        granted = 0
        for move, requests in steps:
            clock.us += move
            await leases.expire()
            starts.append((clock.us, granted, leases.statistics().stranded))
            answers = await asyncio.gather(*(ask(leases, hit(1, meter=meter, terms=terms)) for _ in range(requests)))
            granted += sum(answer.granted for answer in answers)
            for began, before, held in starts:
                assert (granted - before - held - size) * 10 * SECOND <= size * (clock.us - began)

    asyncio.run(go())


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 100))
def test_last_token_can_be_had(size: int, lease: int, requests: int) -> None:
    """Whoever asks alone is granted exactly what he would be without leases: near the limit each token is asked for."""

    async def go() -> None:
        clock = Clock()
        leases, meter, terms = Leases(MemoryStore(clock), clock), bucket(size, 3600), Terms(lease=lease)
        book = Book()
        for _ in range(requests):
            each = hit(meter=meter, terms=terms)
            assert (await ask(leases, each)).granted == book.transact((each,), clock.store).granted

    asyncio.run(go())


async def test_hot_bucket_is_hardly_asked(leases: Leases, store: MemoryStore) -> None:
    """Of many requests for one bucket a few take for the others, who are told that they were served from a lease."""
    assert await warm(leases, 200) == 200
    assert len(store.done) < 40
    answer = await ask(leases)
    assert answer.origin is Origin.LEASE
    assert answer.levels[0][:2] == (True, 1000 - 201)
    assert leases.statistics().served == 201 - len(store.done)


async def test_slow_bucket_is_asked_exactly(leases: Leases, store: MemoryStore, clock: Clock) -> None:
    """Who asks once in two seconds takes what he needs, and leaves nothing behind."""
    for _ in range(20):
        await ask(leases)
        clock.us += 2 * SECOND
    assert [hits[0].cost for hits, _ in store.done] == [1] * 20


async def test_lease_is_no_larger_than_what_was_asked_lately(leases: Leases, store: MemoryStore) -> None:
    """A process takes as much at once as was asked of the bucket in the last second, and at most the limit's lease."""
    for _ in range(6):
        await ask(leases)
    assert max(hits[0].cost for hits, _ in store.done) <= 1 + 3
    await warm(leases, 100)
    assert LEASED.lease // 2 < max(hits[0].cost for hits, _ in store.done) <= 1 + LEASED.lease
    assert LEASED.lease // 2 - 1 <= leases.statistics().stranded <= LEASED.lease


async def test_lease_is_a_share_of_what_is_left(leases: Leases, store: MemoryStore) -> None:
    """With fewer tokens left than ten leases, a process takes a tenth of them."""
    meter = bucket(100, 3600)
    await warm(leases, 100, meter=meter)
    for hits, answer in store.done:
        left = answer.levels[0].remaining + hits[0].cost
        assert hits[0].cost - 1 <= (left + hits[0].cost + 20) // SHARE
    assert not (await ask(leases, hit(meter=meter))).granted


async def test_others_are_served_while_one_asks(clock: Clock) -> None:
    """While a lease is filled others go on with its rest, and who finds nothing left asks for himself; nobody waits."""
    go = asyncio.Event()

    class Slow(MemoryStore):
        async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
            if slow and hits[0].cost > 1:
                await go.wait()
            return await super().transact(hits, within)

    slow = False
    store = Slow(clock)
    leases = Leases(store, clock)
    await half_spent(leases)
    held, slow = leases.statistics().stranded, True
    first = asyncio.create_task(ask(leases))
    await asyncio.sleep(0)
    assert [(await ask(leases)).origin for _ in range(held + 2)] == [Origin.LEASE] * held + [Origin.STORE] * 2
    go.set()
    assert (await first).granted


async def test_many_at_once_take_one_lease(leases: Leases, store: MemoryStore) -> None:
    """Of requests in one moment one takes for the others: leases do not add up."""
    await warm(leases)
    asked = len(store.done)
    answers = await asyncio.gather(*(ask(leases) for _ in range(100)))
    assert all(answer.granted for answer in answers)
    assert [hits[0].cost > 1 for hits, _ in store.done[asked:]].count(True) == 1
    assert leases.statistics().stranded <= LEASED.lease


async def test_lease_ends_after_a_second(leases: Leases, store: MemoryStore, clock: Clock) -> None:
    """A lease that was held for a second is served no more, and given back; an idle bucket is forgotten."""
    granted = await warm(leases)
    held = leases.statistics().stranded
    clock.us += int(LIFE * SECOND) - 1
    await leases.expire()
    assert leases.statistics().stranded == held > 0
    clock.us += 1
    assert (await ask(leases)).origin is Origin.STORE
    await leases.expire()
    assert leases.statistics().returned == held
    clock.us += 3 * SECOND
    await leases.expire()
    assert taken(store) == granted + 1
    assert (leases.statistics().leased, leases.statistics().stranded) == (0, 0)


async def test_drain_gives_all_back(leases: Leases, store: MemoryStore) -> None:
    """At the end all that is unspent goes back, also what is being asked for; afterwards each hit is asked for."""
    granted = await warm(leases)
    async with asyncio.TaskGroup() as group:
        under_way = [group.create_task(ask(leases)) for _ in range(30)]
        await asyncio.sleep(0)
        await leases.close()
    granted += sum(each.result().granted for each in under_way)
    assert taken(store) == granted
    assert (await ask(leases)).origin is Origin.STORE
    assert (await warm(leases), leases.statistics().stranded) == (60, 0)


async def test_caller_who_hangs_up_leaves_nothing_behind(leases: Leases, store: MemoryStore) -> None:
    """Where the one who asks for a lease is gone before the answer, the lease is there for the others."""
    await half_spent(leases)
    before = leases.statistics().stranded
    left = before + (await store.transact((hit(look=True),))).levels[0].remaining
    asking = asyncio.create_task(ask(leases))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait(leases._filling)
    assert leases.statistics().stranded > before
    served = [(await ask(leases)).origin for _ in range(before)]
    assert served == [Origin.LEASE] * before
    await leases.close()
    assert taken(store) == 1000 - left + before + 1  # his own token is spent


@pytest.mark.parametrize(("cost", "origin"), [(1, Origin.LEASE), (11, Origin.STORE)], ids=["fits the rest", "does not"])
async def test_refused_lease_is_no_refusal(leases: Leases, store: MemoryStore, cost: int, origin: Origin) -> None:
    """Where a lease cannot be had, as others took the tokens, the rest serves the hit, or it is asked for by itself."""
    await half_spent(leases)
    left = (await store.transact((hit(look=True),))).levels[0].remaining
    await store.transact((hit(left - cost),))
    asked = len(store.done)
    answer = await leases.transact((hit(cost),), 0.5)
    assert (answer.granted, answer.origin) == (True, origin)
    assert [told.granted for _, told in store.done[asked:]] == ([False] if origin is Origin.LEASE else [False, True])


async def test_caller_waits_no_longer_for_two_answers(clock: Clock) -> None:
    """Where the store is asked twice for one hit, it has for the second answer what is left of the caller's time."""

    class Late(MemoryStore):
        async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
            if within is not None:
                clock.us += 300_000
                patience.append(within)
            return await super().transact(hits, within)

    patience: list[float] = []
    store = Late(clock)
    leases = Leases(store, clock)
    await half_spent(leases)
    left = (await store.transact((hit(look=True),))).levels[0].remaining
    await store.transact((hit(left - 11),))
    assert (await leases.transact((hit(11),), 0.5)).granted
    assert patience == [0.5, pytest.approx(0.2)]


async def test_outage_is_the_callers(leases: Leases, store: MemoryStore) -> None:
    """Without a store a lease is served to its end, and then callers are told; the next answer fills it again."""
    await warm(leases)
    store.fails = away
    held = leases.statistics().stranded
    told = await asyncio.gather(*(ask(leases) for _ in range(held + 5)), return_exceptions=True)
    assert [isinstance(each, StoreUnavailable) for each in told].count(True) == 5
    store.fails = back
    assert (await ask(leases)).granted
    assert (await ask(leases)).origin is Origin.LEASE


async def test_what_cannot_be_given_back_is_lost(leases: Leases, store: MemoryStore, clock: Clock) -> None:
    """A return that the store cannot keep is not made again, for it may have been made; it is counted."""
    await warm(leases)
    held = leases.statistics().stranded
    store.fails, store.keeps = away, False
    clock.us += 2 * SECOND
    await leases.expire()
    store.fails = back
    await leases.close()
    assert store.made(b"k", Role.REFUND) == 0
    assert leases.statistics().lost == held > 0


async def test_nothing_is_leased_of_what_others_grant(clock: Clock) -> None:
    """While answers come from memory and not from the store, each hit is asked for."""

    class Elsewhere(MemoryStore):
        async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
            return (await super().transact(hits, within))._replace(origin=Origin.ALLOWANCE)

    store = Elsewhere(clock)
    leases = Leases(store, clock)
    await warm(leases)
    assert [hits[0].cost for hits, _ in store.done] == [1] * 60


async def test_reload_while_a_lease_is_filled(leases: Leases, store: MemoryStore) -> None:
    """A lease that was asked for under the old limit goes back when it comes."""
    await half_spent(leases)
    asking = asyncio.create_task(ask(leases))
    await asyncio.sleep(0)
    held = leases.statistics().stranded
    await ask(leases, hit(meter=bucket(500, 3600), terms=Terms(lease=1)))
    assert (await asking).granted
    await leases.expire()
    assert store.made(b"k", Role.REFUND) == held
    assert leases.statistics().stranded == 0


async def test_reload_that_changes_the_limit_ends_the_lease(leases: Leases, store: MemoryStore) -> None:
    """Tokens of the old limit are not served under the new one, and go back."""
    await warm(leases)
    held = leases.statistics().stranded
    assert (await ask(leases, hit(meter=bucket(500, 3600)))).origin is Origin.STORE
    await leases.expire()
    assert store.made(b"k", Role.REFUND) == held > 0


@pytest.mark.parametrize(
    "group",
    [
        (hit(terms=Terms()),),
        (hit(look=True),),
        (hit(0),),
        (hit(role=Role.MAY),),
        (hit(role=Role.QUOTA),),
        (hit(role=Role.CHARGE),),
        (hit(role=Role.REFUND),),
        (hit(meter=FixedWindow(1000, 3600 * SECOND)),),
        (hit(), hit(key=b"other")),
    ],
    ids=["not asked for", "look", "of nothing", "shadow", "quota", "charge", "refund", "window", "several"],
)
async def test_only_single_hits_on_buckets_are_leased(
    leases: Leases, store: MemoryStore, group: tuple[Hit, ...]
) -> None:
    """All but single hits that must fit, on token buckets whose limits allow it, goes to the store as it is."""
    for _ in range(10):
        await leases.transact(group)
    assert [hits for hits, _ in store.done] == [group] * 10


async def test_leased_buckets_are_bounded(store: MemoryStore, clock: Clock) -> None:
    """Of more hot buckets than there is room for, the others are asked exactly, until an idle one makes room."""
    leases = Leases(store, clock, most=1)
    await warm(leases)
    await warm(leases, key=b"other")
    assert leases.statistics().leased == 1
    assert {hits[0].cost for hits, _ in store.done if hits[0].key == b"other"} == {1}
    clock.us += 3 * SECOND
    await leases.expire()
    await leases.expire()
    await warm(leases, key=b"other")
    assert max(hits[0].cost for hits, _ in store.done if hits[0].key == b"other") > 1
