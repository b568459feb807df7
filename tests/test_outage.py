import asyncio
import gc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets import SECOND
from genops_extauth.bucket import bucket
from genops_extauth.denials import Denials
from genops_extauth.hits import Answer, Hit, Meter, Origin, Role, Terms
from genops_extauth.leases import Leases
from genops_extauth.model import StoreUnavailable
from genops_extauth.outage import Outage, Statistics
from genops_extauth.window import FixedWindow
from memory_store import Clock, MemoryStore, away, back

THREE = Terms(allowance=3)
OPEN = Terms(open_after=True)
HUNDRED = bucket(100, 100)
LIMITS: dict[bytes, tuple[Meter, Terms]] = {
    b"bucket": (HUNDRED, THREE),
    b"window": (FixedWindow(100, 100 * SECOND), THREE),
    b"strict": (HUNDRED, Terms()),
    b"open": (HUNDRED, OPEN),
}


def hit(cost: int = 1, key: bytes = b"bucket", **more: Any) -> Hit:
    meter, terms = LIMITS.get(key, LIMITS[b"bucket"])
    return Hit(key, **({"meter": meter, "cost": cost, "terms": terms} | more))


@pytest.fixture
def failures() -> list[StoreUnavailable]:
    return []


@pytest.fixture
def outage(store: MemoryStore, clock: Clock, failures: list[StoreUnavailable]) -> Outage:
    return Outage(store, clock, failed=failures.append)


async def granted(outage: Outage, *hits: Hit, times: int = 1) -> list[bool]:
    return [(await outage.transact(hits)).granted for _ in range(times)]


def net(store: MemoryStore) -> int:
    """What the store was charged, and what it keeps to be charged."""
    made = sum(store.made(key, Role.CHARGE) - store.made(key, Role.REFUND) for key in LIMITS)
    return made + sum(hit.cost if hit.role is Role.CHARGE else -hit.cost for hit in store.owed)


def failing_from(count: int) -> Callable[[Sequence[Hit]], bool]:
    """A store that answers so many groups, and no more."""
    left = iter(range(count))
    return lambda _: next(left, None) is None


moves = st.one_of(st.just(0), st.integers(0, SECOND), st.integers(0, 60 * SECOND))
roles = st.sampled_from([Role.MUST, Role.MUST, Role.MUST, Role.QUOTA, Role.MAY, Role.CHARGE, Role.REFUND])
groups = st.lists(
    st.builds(hit, st.integers(0, 4), st.sampled_from(sorted(LIMITS)), role=roles, look=st.booleans()),
    min_size=1,
    max_size=3,
)
answers = st.one_of(st.just(0), st.integers(0, 4), st.just(10**6))
"""How many groups the store answers before it is away."""
steps = st.lists(st.tuples(moves, answers, groups), min_size=1, max_size=20)


@given(steps)
def test_nothing_is_lost_and_nothing_is_charged_twice(steps: list[tuple[int, int, list[Hit]]]) -> None:
    """However the store comes and goes, it was charged or is owed what was granted without it, and all charges."""

    async def go() -> None:
        clock = Clock()
        store = MemoryStore(clock)
        outage, expected = Outage(store, clock, failed=lambda _: None), 0
        for move, count, group in steps:
            clock.us += move
            store.fails = failing_from(count)
            answer = await outage.transact(group)
            signs = {Role.CHARGE: 1, Role.REFUND: -1}
            expected += sum(hit.cost * signs.get(hit.role, 0) for hit in group if not hit.look)
            if answer.origin is Origin.ALLOWANCE and answer.granted:
                taken = zip(group, answer.levels, strict=True)
                expected += sum(
                    hit.cost for hit, level in taken if hit.role < Role.CHARGE and level.fits and not hit.look
                )
            await outage.settle()
            assert net(store) == expected

    asyncio.run(go())


@given(st.lists(st.tuples(moves, answers, st.integers(1, 3)), min_size=1, max_size=30))
@pytest.mark.parametrize("key", [b"bucket", b"window"])
def test_flapping_does_not_renew_allowances(key: bytes, steps: list[tuple[int, int, int]]) -> None:
    """One outage costs an allowance, and any number of them over any interval t at most rate * t more."""

    async def go() -> None:
        clock = Clock()
        store = MemoryStore(clock)
        outage, total, in_this_one = Outage(store, clock, failed=lambda _: None), 0, 0
        starts: list[tuple[int, int]] = []
        for move, count, cost in steps:
            clock.us += move
            store.fails = failing_from(count)
            starts.append((clock.us, total))
            if not outage.statistics().away:
                in_this_one = 0
            answer = await outage.transact((hit(cost, key),))
            if answer.origin is Origin.ALLOWANCE and answer.granted:
                total, in_this_one = total + cost, in_this_one + cost
            assert in_this_one <= THREE.allowance
            for began, before in starts:
                assert (total - before - THREE.allowance) * SECOND <= clock.us - began  # one token per second

    asyncio.run(go())


@given(st.lists(st.tuples(moves, answers, st.integers(0, 6), st.booleans()), max_size=25), st.integers(0, 8))
def test_all_that_stands_before_a_store_together(steps: list[tuple[int, int, int, bool]], lease: int) -> None:
    """Through denials, leases and outages all that is granted is charged once, and hardly more than the limit admits.

    Over any interval t of a flapping store that is at most ``burst + rate * t``, an allowance, and what was leased.
    """

    async def go() -> None:
        clock = Clock()
        store = MemoryStore(clock)
        outage = Outage(store, clock, failed=lambda _: None)
        leases = Leases(outage, clock)
        denials = Denials(leases, clock)
        each, total = hit(meter=bucket(10, 10), terms=Terms(allowance=3, lease=lease)), 0
        starts: list[tuple[int, int]] = []
        for move, count, requests, settles in steps:
            clock.us += move
            store.fails = failing_from(count)
            if settles:
                await leases.expire()
            await outage.settle()
            starts.append((clock.us, total + leases.statistics().stranded))
            total += sum(
                told.granted for told in await asyncio.gather(*(denials.transact((each,)) for _ in range(requests)))
            )
            for began, before in starts:
                assert (total - before - 10 - 3) * SECOND <= clock.us - began
        store.fails = back
        await leases.close()
        await outage.settle()
        await store.transact((hit(look=True),))
        made = {role: store.made(each.key, role) for role in Role}
        assert made[Role.MUST] + made[Role.CHARGE] - made[Role.REFUND] == total

    asyncio.run(go())


async def test_healthy_store_decides(outage: Outage, store: MemoryStore, failures: list[StoreUnavailable]) -> None:
    """While the store answers its answers pass as they are."""
    answer = await outage.transact((hit(),))
    assert (answer, store.done) == (answer._replace(origin=Origin.STORE), [((hit(),), answer)])
    assert not outage.statistics().away
    assert failures == []


async def test_policy_decides_after_the_allowance(outage: Outage, store: MemoryStore) -> None:
    """Without a store the allowance is granted, then a closed limit refuses and an open one grants."""
    store.fails = away
    assert await granted(outage, hit(), times=4) == [True, True, True, False]
    assert await granted(outage, hit(key=b"open"), times=4) == [True] * 4
    assert await granted(outage, hit(key=b"strict")) == [False]
    told = await outage.transact((hit(),))
    assert (told.origin, told.levels[0].reset) == (Origin.ALLOWANCE, 1)
    assert outage.statistics() == Statistics(away=True, granted=7, refused=3, buckets=1, crowded=0)


async def test_debts_are_paid_when_the_store_returns(outage: Outage, store: MemoryStore) -> None:
    """What was granted without the store is charged to it, even into debt, and the limit holds again."""
    await granted(outage, hit(99))
    store.fails = away
    assert await granted(outage, hit(3)) == [True]
    await outage.settle()
    store.fails = back
    assert (await outage.transact((hit(look=True),))).levels[0].wait == 3 * SECOND  # 100 - 99 - 3, and 1 more
    assert store.made(b"bucket", Role.CHARGE) == 3


async def test_allowance_comes_back_when_the_store_does(outage: Outage, store: MemoryStore, clock: Clock) -> None:
    """No time counts before the store's first answer; from then on the allowance comes back as its limit does."""
    store.fails = away
    assert await granted(outage, hit(3)) == [True]
    clock.us += 10 * SECOND
    assert await granted(outage, hit()) == [False]
    store.fails = back
    assert await granted(outage, hit()) == [True]
    assert not outage.statistics().away
    clock.us += 2 * SECOND
    store.fails = away
    assert await granted(outage, hit(), times=3) == [True, True, False]


async def test_charges_are_the_stores_matter(outage: Outage, store: MemoryStore) -> None:
    """Charges and refunds that come while the store is away are made once, alone and in groups that are refused."""
    store.fails = away
    await granted(outage, hit(key=b"strict"))
    assert await granted(outage, hit(7, role=Role.CHARGE)) == [True]
    assert outage.statistics().away  # A charge that is kept is no answer.
    assert await granted(outage, hit(key=b"strict"), hit(5, role=Role.CHARGE)) == [False]
    assert await granted(outage, hit(2, b"window"), hit(1, role=Role.REFUND)) == [True]
    await outage.settle()
    store.fails = back
    await outage.transact((hit(0, look=True),))
    assert (store.made(b"bucket", Role.CHARGE), store.made(b"bucket", Role.REFUND)) == (7 + 5, 1)
    assert store.made(b"window", Role.CHARGE) == 2


async def test_costs_that_come_later_spend_the_allowance(outage: Outage, store: MemoryStore) -> None:
    """Who asks by a look, and is charged afterwards, passes without a store until his charges have spent the allowance.

    Else the worst case of an outage would be no number for the limits that cost most.
    """
    store.fails = away
    asks, costs = hit(look=True), hit(2, role=Role.CHARGE)
    told = [await granted(outage, one) for _ in range(3) for one in (asks, costs)]
    assert told == [[True], [True], [True], [True], [False], [True]]
    store.fails = back
    await granted(outage, hit(0, look=True))
    assert net(store) == 3 * 2


async def test_lost_charge_is_told(clock: Clock) -> None:
    """Where the store cannot keep a charge, who made it hears of that; who was granted something does not."""
    forgotten: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: forgotten.append(context))
    outage = Outage(MemoryStore(clock, fails=away, keeps=False), clock, failed=lambda _: None)
    with pytest.raises(StoreUnavailable):
        await outage.transact((hit(role=Role.CHARGE),))
    assert await granted(outage, hit()) == [True]
    await outage.settle()
    gc.collect()
    assert forgotten == []


async def test_caller_does_not_wait_for_charges(clock: Clock) -> None:
    """A store that takes its time for a charge holds up nobody; settling waits for it."""
    go = asyncio.Event()

    class Slow(MemoryStore):
        async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
            if hits[0].role is Role.CHARGE:
                await go.wait()
            return await super().transact(hits, within)

    store = Slow(clock, fails=away)
    outage = Outage(store, clock, failed=lambda _: None)
    assert await granted(outage, hit(), times=2) == [True, True]
    settling = asyncio.create_task(outage.settle())
    await asyncio.sleep(0)
    store.fails = back
    go.set()
    await settling
    assert store.made(b"bucket", Role.CHARGE) == 2


async def test_every_failure_is_told(outage: Outage, store: MemoryStore, failures: list[StoreUnavailable]) -> None:
    """Whoever watches hears of each request that had to be decided without the store, and of the reason."""
    store.fails = away
    await granted(outage, hit(), times=2)
    assert [str(each) for each in failures] == ["unreachable: the test says so"] * 2


async def test_memory_is_bounded(store: MemoryStore, clock: Clock) -> None:
    """Of more buckets than there is room for, closed limits refuse and open ones grant at once; that is counted."""
    outage = Outage(store, clock, failed=lambda _: None, most=2)
    store.fails = away
    assert [await granted(outage, hit(key=key)) for key in (b"a", b"b", b"c")] == [[True], [True], [False]]
    assert await granted(outage, hit(5, key=b"d", terms=OPEN)) == [True]
    assert (outage.statistics().buckets, outage.statistics().crowded) == (2, 1)


async def test_whole_allowances_need_no_memory(outage: Outage, store: MemoryStore, clock: Clock) -> None:
    """When an outage is over and time has passed, nothing is kept of it."""
    store.fails = away
    await granted(outage, hit())
    store.fails = back
    await granted(outage, hit())
    await outage.settle()
    assert outage.statistics().buckets == 1
    clock.us += SECOND
    await outage.settle()
    assert outage.statistics().buckets == 0
