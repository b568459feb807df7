import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets import NOW, SECOND, Wanted, as_hits, gaps, groups, meters
from genops_extauth.bucket import Bucket, bucket
from genops_extauth.denials import LONGEST, Denials, Statistics
from genops_extauth.hits import Answer, Book, Hit, Meter, Origin, Role, Terms
from genops_extauth.model import StoreUnavailable
from genops_extauth.window import FixedWindow
from memory_store import Clock, MemoryStore, away, back

KEPT = Terms()
ONE_A_SECOND = bucket(1, 1)
ONE_A_MINUTE = bucket(1, 60)


def hit(key: bytes = b"k", cost: int = 1, meter: Meter = ONE_A_SECOND, **more: Any) -> Hit:
    return Hit(key, meter, cost, **({"terms": KEPT} | more))


@pytest.fixture
def denials(store: MemoryStore, clock: Clock) -> Denials:
    return Denials(store, clock)


async def origins(denials: Denials, *questions: Sequence[Hit]) -> list[tuple[bool, Origin]]:
    answers = [await denials.transact(question) for question in questions]
    return [(answer.granted, answer.origin) for answer in answers]


STORE_GRANTS, STORE_REFUSES, REPEATED = (True, Origin.STORE), (False, Origin.STORE), (False, Origin.MEMORY)

edges = st.integers(-2, 2)
steps = st.lists(st.tuples(st.integers(0, 2), st.one_of(gaps, st.tuples(edges))), min_size=1, max_size=12)


@given(meters, st.lists(groups, min_size=3, max_size=3), steps)
def test_memory_changes_no_verdict(
    made: Mapping[bytes, Meter], asked: list[list[Wanted]], steps: list[tuple[int, int | tuple[int]]]
) -> None:
    """With a memory of refusals every group has the verdict that it has without: also at the edge of what was told."""

    async def go() -> None:
        clock = Clock()
        denials, book, wait = Denials(MemoryStore(clock), clock), Book(), 0
        for which, gap in steps:
            clock.us += gap if isinstance(gap, int) else max(0, wait + gap[0])
            group = [each._replace(terms=KEPT) for each in as_hits(asked[which], made)]
            told, expected = await denials.transact(group), book.transact(group, clock.store)
            assert told.granted == expected.granted
            wait = min((level.wait for level in expected.levels if not level.fits), default=0)

    asyncio.run(go())


@given(st.integers(1, 10), st.sampled_from([1, 7, 60]), st.lists(st.integers(0, 2 * SECOND), min_size=1, max_size=10))
def test_repeated_refusal_counts_down(limit: int, period: int, moves: list[int]) -> None:
    """A refusal from memory tells of one bucket the reset and the wait that the store would tell."""

    async def go() -> None:
        clock = Clock()
        store = MemoryStore(clock)
        denials = Denials(store, clock)
        question = [hit(meter=bucket(limit, period), cost=limit)]
        await denials.transact(question)
        for move in moves:
            clock.us += move
            looked = store.book.transact([question[0]._replace(look=True)], clock.store).levels[0]
            told = (await denials.transact(question)).levels[0]
            assert looked.fits or (told.fits, told.reset, told.wait) == (False, looked.reset, looked.wait)

    asyncio.run(go())


async def test_refusal_is_repeated_until_it_could_be_otherwise(denials: Denials, store: MemoryStore) -> None:
    """After a refusal the store is asked again when the time that it told has passed, and not before."""
    question = [hit()]
    assert await origins(denials, question, question, question) == [STORE_GRANTS, STORE_REFUSES, REPEATED]
    store.clock.us += SECOND - 2
    assert await origins(denials, question) == [REPEATED]
    store.clock.us += 2
    assert await origins(denials, question) == [STORE_GRANTS]
    assert len(store.done) == 3
    assert denials.statistics() == Statistics(remembered=0, repeated=2)


async def test_nobody_is_refused_from_memory_for_long(denials: Denials, store: MemoryStore) -> None:
    """A refusal for a minute is repeated for ten seconds, and then the store is asked, which may have been emptied."""
    question = [hit(meter=ONE_A_MINUTE)]
    await denials.transact(question)
    await denials.transact(question)
    store.book.states.clear()
    store.clock.us += int(LONGEST * SECOND) - 1
    assert await origins(denials, question) == [REPEATED]
    store.clock.us += 1
    assert await origins(denials, question) == [STORE_GRANTS]


async def test_wait_in_whole_ticks_is_not_taken_for_longer_than_it_is(denials: Denials, clock: Clock) -> None:
    """In a bucket that counts in seconds the last one may be nearly over when the store tells of it."""
    question = [hit(cost=2, meter=Bucket(capacity=2, part=1, refill=1, tick=SECOND))]
    clock.us = SECOND - 10 - NOW % SECOND
    assert await origins(denials, question, question, question) == [STORE_GRANTS, STORE_REFUSES, REPEATED]
    clock.us += 10 + SECOND
    assert await origins(denials, question) == [STORE_GRANTS]


@pytest.mark.parametrize(("role", "then"), [(Role.MUST, STORE_REFUSES), (Role.MAY, STORE_GRANTS)])
async def test_group_is_asked_when_the_first_could_fit(
    denials: Denials, clock: Clock, role: Role, then: tuple[bool, Origin]
) -> None:
    """Where several hits did not fit, the group is asked again as soon as one of them could."""
    group = [hit(b"slow", meter=ONE_A_MINUTE, role=role), hit()]
    assert await origins(denials, group, group, group) == [STORE_GRANTS, STORE_REFUSES, REPEATED]
    clock.us += SECOND
    assert await origins(denials, group) == [then]


async def test_groups_are_remembered_as_a_whole(denials: Denials) -> None:
    """A group of several is repeated with the levels that it had, the other costs and the other roles are asked."""
    full = hit(b"other", meter=bucket(9, 9))
    group = [hit(), full]
    await denials.transact(group)
    refused = await denials.transact(group)
    repeated = await denials.transact(group)
    assert repeated == refused._replace(origin=Origin.MEMORY)
    others = [hit(), full._replace(cost=2)], [hit(role=Role.MAY), full], [full, hit()]
    assert await origins(denials, *others) == [STORE_REFUSES, STORE_GRANTS, STORE_REFUSES]


async def test_store_that_answers_late_is_believed_from_the_question_on(clock: Clock) -> None:
    """What the store tells counts from when it was asked, so that no way back is added to it."""

    class Late(MemoryStore):
        async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
            answer = await super().transact(hits, within)
            clock.us += SECOND // 2
            return answer

    denials = Denials(Late(clock), clock)
    assert await origins(denials, [hit()], [hit()]) == [STORE_GRANTS, STORE_REFUSES]  # at 0.5 s, where 0.5 s are left
    clock.us = SECOND - 2
    assert await origins(denials, [hit()]) == [REPEATED]
    clock.us = SECOND
    assert await origins(denials, [hit()]) == [STORE_GRANTS]


@pytest.mark.parametrize(
    "terms", [Terms(remembered=False), Terms(lease=5)], ids=["refundable or charged later", "leased"]
)
async def test_what_more_than_time_gives_back_is_asked_each_time(denials: Denials, terms: Terms) -> None:
    """Refusals of limits that may be refunded, charged later or leased are not remembered, nor of groups with one."""
    question = [hit(terms=terms)]
    assert await origins(denials, question, question, question) == [STORE_GRANTS, STORE_REFUSES, STORE_REFUSES]
    group = [*question, hit(b"other", meter=ONE_A_MINUTE)]
    assert await origins(denials, group, group) == [STORE_REFUSES, STORE_REFUSES]


async def test_charges_pass(denials: Denials, store: MemoryStore) -> None:
    """A charge on a bucket that is refused from memory reaches the store, alone and in a group that is refused."""
    question, charge = [hit()], hit(role=Role.CHARGE)
    assert await origins(denials, question, question, question) == [STORE_GRANTS, STORE_REFUSES, REPEATED]
    assert await origins(denials, [charge], [*question, charge], [*question, charge]) == [
        STORE_GRANTS,
        STORE_REFUSES,
        STORE_REFUSES,
    ]
    assert store.made(b"k", Role.CHARGE) == 3


async def test_refund_ends_what_is_remembered(denials: Denials, clock: Clock) -> None:
    """After a refund on one of its buckets no group is refused from memory: it may pass now."""
    alone, group = [hit()], [hit(b"other", meter=ONE_A_MINUTE), hit()]
    refund = [hit(role=Role.REFUND)]
    assert await origins(denials, alone, alone, group) == [STORE_GRANTS, STORE_REFUSES, STORE_REFUSES]
    assert await origins(denials, alone, group) == [REPEATED, REPEATED]
    assert await origins(denials, refund) == [STORE_GRANTS]
    clock.us += 1
    assert await origins(denials, group) == [STORE_GRANTS]
    assert await origins(denials, alone) == [STORE_REFUSES]


async def test_refund_ends_what_was_asked_before_it(clock: Clock) -> None:
    """A refusal that is older than a refund, but comes later, is not remembered."""
    arrived, go = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
            answer = await super().transact(hits, within)
            if not answer.granted:
                arrived.set()
                await go.wait()
            return answer

    denials = Denials(Slow(clock), clock)
    await denials.transact([hit()])
    refused = asyncio.create_task(denials.transact([hit()]))
    await arrived.wait()
    await denials.transact([hit(role=Role.REFUND)])
    go.set()
    assert not (await refused).granted
    clock.us += 1
    assert await origins(denials, [hit()]) == [STORE_GRANTS]


async def test_many_refunds_are_taken_note_of_in_little_memory(store: MemoryStore, clock: Clock) -> None:
    """Where more buckets are refunded than there is memory for, all that is remembered ends."""
    denials = Denials(store, clock, most=2)
    assert await origins(denials, [hit()], [hit()], [hit()]) == [STORE_GRANTS, STORE_REFUSES, REPEATED]
    for key in (b"a", b"b", b"c"):
        await denials.transact([hit(key, role=Role.REFUND)])
    assert await origins(denials, [hit()]) == [STORE_REFUSES]


async def test_reload_that_changes_the_limit_is_asked(denials: Denials) -> None:
    """A refusal says nothing of the same bucket under another limit."""
    assert await origins(denials, [hit()], [hit()], [hit()]) == [STORE_GRANTS, STORE_REFUSES, REPEATED]
    assert await origins(denials, [hit(meter=bucket(10, 1))]) == [STORE_REFUSES]  # of which a tenth is there: none


async def test_look_is_answered_where_that_is_exact(denials: Denials) -> None:
    """A look is refused from memory after a look, and asked after a hit that took nothing."""
    look = [hit(look=True)]
    assert await origins(denials, [hit()], [hit()], look, look) == [
        STORE_GRANTS,
        STORE_REFUSES,
        STORE_REFUSES,
        REPEATED,
    ]


async def test_only_the_store_is_believed(clock: Clock) -> None:
    """A refusal that did not come from the store is not remembered: it ends with the outage."""

    class Elsewhere(MemoryStore):
        async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
            return (await super().transact(hits, within))._replace(origin=Origin.ALLOWANCE)

    denials = Denials(Elsewhere(clock), clock)
    assert await origins(denials, [hit()], [hit()], [hit()]) == [
        (True, Origin.ALLOWANCE),
        (False, Origin.ALLOWANCE),
        (False, Origin.ALLOWANCE),
    ]


async def test_outage_passes_through(denials: Denials, store: MemoryStore) -> None:
    """Where the store cannot be used, that is what the caller is told, and nothing is remembered of it."""
    store.fails = away
    with pytest.raises(StoreUnavailable):
        await denials.transact([hit()])
    store.fails = back
    assert await origins(denials, [hit()]) == [STORE_GRANTS]


async def test_memory_is_bounded(store: MemoryStore, clock: Clock) -> None:
    """Of more refusals than there is room for, the oldest is forgotten."""
    denials = Denials(store, clock, most=2)
    empty = FixedWindow(0, SECOND)
    for key in (b"a", b"b", b"c"):
        await denials.transact([hit(key, meter=empty)])
    assert denials.statistics().remembered == 2
    assert await origins(denials, [hit(b"c", meter=empty)], [hit(b"b", meter=empty)], [hit(b"a", meter=empty)]) == [
        REPEATED,
        REPEATED,
        STORE_REFUSES,
    ]
