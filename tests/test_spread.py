import asyncio
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buckets import NOW, Wanted, as_hits, groups, meters
from genops_extauth.bucket import bucket
from genops_extauth.hits import Answer, Book, Hit, Level, Meter, Origin, Role
from genops_extauth.model import StoreUnavailable
from genops_extauth.spread import Part, Spread

TEN = bucket(10, 10**6)


class Place:
    """A place of its own, kept by the reference; a `broken` one makes charges later, and nothing else."""

    def __init__(self, *, broken: bool = False) -> None:
        self.book, self.broken, self.asked = Book(), broken, 0
        self.within: list[float | None] = []
        self.heard: list[Hit] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, hits: Sequence[Hit], within: float | None) -> Answer:
        self.asked += 1
        self.within.append(within)
        self.heard += hits
        await self.gate.wait()
        if not self.broken:
            return self.book.transact(hits, NOW)
        self.book.transact([hit for hit in hits if hit.role >= Role.CHARGE], NOW)
        if all(hit.role >= Role.CHARGE for hit in hits):
            return Answer(True, (Level(True, 0, 0),) * len(hits), Origin.ALLOWANCE)  # noqa: FBT003 - as their fields say
        raise StoreUnavailable("broken: of itself")

    def left(self, key: bytes, meter: Meter = TEN) -> int:
        return meter.level(self.book.states.get(key), NOW) // meter.part  # type: ignore[arg-type] # of its kind


def parts(hits: Sequence[Hit], places: Mapping[bytes, Place]) -> list[Part]:
    """Each key in the place that has it."""
    found: dict[int, tuple[Place, list[int]]] = {}
    for number, hit in enumerate(hits):
        place = places[hit.key]
        found.setdefault(id(place), (place, []))[1].append(number)
    return [Part(place.ask, numbers) for place, numbers in found.values()]


@given(meters, st.lists(groups, max_size=4), st.lists(st.integers(0, 2), min_size=5, max_size=5))
async def test_spread_group_ends_as_a_group_in_one_place(
    made: dict[bytes, Meter], asked: list[list[Wanted]], where: list[int]
) -> None:
    """Undisturbed, a group over several places is granted, and leaves the levels, as one in a single place."""
    several, one, spread = [Place() for _ in range(3)], Book(), Spread()
    places = {key: several[where[number]] for number, key in enumerate(sorted(made))}
    for group in asked:
        hits = as_hits(group, made)
        expected = one.transact(hits, NOW)
        answer = await spread.ask(hits, parts(hits, places), None)
        assert answer.granted == expected.granted
        assert len(answer.levels) == len(hits)
        if answer.granted:
            assert answer == expected
        for key, meter in made.items():
            state, other = places[key].book.states.get(key), one.states.get(key)
            assert meter.level(state, NOW) == meter.level(other, NOW)  # type: ignore[arg-type] # of its kind


async def test_refused_group_takes_nothing_and_tells_what_is_left() -> None:
    """Once a place refuses, the others are only looked at, and what was taken before is given back, and told so."""
    first, second, third = Place(), Place(), Place()
    places = {b"a": first, b"b": second, b"c": third}
    hits = [Hit(b"a", TEN, 4), Hit(b"b", TEN, 11), Hit(b"c", TEN, 2)]
    answer = await Spread().ask(hits, parts(hits, places), None)
    assert not answer.granted
    assert [(level.fits, level.remaining) for level in answer.levels] == [(True, 10), (False, 10), (True, 10)]
    assert [place.book.states for place in (first, second, third)] == [{}, {}, {}]


@pytest.mark.parametrize("broken", [0, 1, 2])
async def test_place_that_fails_fails_the_group(broken: int) -> None:
    """Where a place cannot be asked the group fails, takes nothing elsewhere, and is charged everywhere."""
    several = [Place(broken=number == broken) for number in range(3)]
    places = {key: several[number] for keys in (b"abc", b"xyz") for number, key in enumerate(_each(keys))}
    hits = [Hit(key, TEN, 1) for key in _each(b"abc")] + [Hit(key, TEN, 2, Role.CHARGE) for key in _each(b"xyz")]
    with pytest.raises(StoreUnavailable, match=r"^broken: "):
        await Spread().ask(hits, parts(hits, places), None)
    assert [places[key].left(key) for key in _each(b"abc")] == [10, 10, 10]
    assert [places[key].left(key) for key in _each(b"xyz")] == [8, 8, 8]


async def test_after_a_failure_nobody_is_asked_but_to_charge() -> None:
    """Once a place failed the others are asked for their charges alone, and the failure is the group's."""
    first, second, third = Place(broken=True), Place(broken=True), Place()
    places = {b"a": first, b"x": second, b"b": third, b"y": third}
    hits = [Hit(b"a", TEN, 1), Hit(b"x", TEN, 2, Role.CHARGE), Hit(b"b", TEN, 1), Hit(b"y", TEN, 2, Role.CHARGE)]
    hits.append(Hit(b"y", TEN, 1, Role.CHARGE, look=True))
    with pytest.raises(StoreUnavailable, match=r"^broken: "):
        await Spread().ask(hits, parts(hits, places), None)
    assert (second.heard, third.heard) == ([hits[1]], [hits[3]])


async def test_what_was_only_looked_at_is_not_given_back() -> None:
    """A look takes nothing: a group that is refused later gives back what it took, and no more."""
    first, second = Place(), Place()
    places = {b"a": first, b"b": first, b"c": second}
    first.book.transact([Hit(b"a", TEN, 5), Hit(b"b", TEN, 5)], NOW)
    hits = [Hit(b"a", TEN, 2, look=True), Hit(b"b", TEN, 3), Hit(b"c", TEN, 11)]
    assert not (await Spread().ask(hits, parts(hits, places), None)).granted
    assert (first.left(b"a"), first.left(b"b")) == (5, 5)


async def test_what_refused_is_not_given_back() -> None:
    """Where one place refuses, nothing was taken there, nor where others were looked at after it."""
    first, second, third = Place(), Place(), Place()
    places = {b"a": first, b"b": first, b"c": second, b"d": third}
    for place, key in ((first, b"a"), (second, b"c")):
        place.book.transact([Hit(key, TEN, 5)], NOW)
    hits = [Hit(b"a", TEN, 2), Hit(b"b", TEN, 11), Hit(b"c", TEN, 2), Hit(b"d", TEN, 11)]
    assert not (await Spread().ask(hits, parts(hits, places), None)).granted
    assert (first.left(b"a"), second.left(b"c")) == (5, 5)


async def test_all_places_share_the_time() -> None:
    """Each place has what is left of the caller's time, and the refunds too; without an end none has one."""
    several = [Place() for _ in range(2)]
    places = dict(zip((b"a", b"b"), several, strict=True))
    hits = [Hit(b"a", TEN, 1), Hit(b"b", TEN, 11)]
    await Spread().ask(hits, parts(hits, places), 30.0)
    given = [within for within in (several[0].within[0], several[1].within[0], several[0].within[1]) if within]
    assert 29.0 < given[2] <= given[1] <= given[0] <= 30.0
    await Spread().ask(hits, parts(hits, places), -1.0)
    assert several[1].within[1] == 0.0
    await Spread().ask(hits, parts(hits, places), None)
    assert several[1].within[2] is None


async def test_who_answered_is_told() -> None:
    """Where one place was not the store itself, as with charges that will be made, that is the group's origin."""
    first, second = Place(), Place(broken=True)
    places = {b"a": first, b"x": second}
    hits = [Hit(b"a", TEN, 1), Hit(b"x", TEN, 2, Role.CHARGE)]
    assert (await Spread().ask(hits, parts(hits, places), None)).origin is Origin.ALLOWANCE
    second.broken = False
    assert (await Spread().ask(hits, parts(hits, places), None)).origin is Origin.STORE


def _each(keys: bytes) -> list[bytes]:
    return [bytes([key]) for key in keys]


async def test_quotas_are_one_over_all_places() -> None:
    """A group is refused when the quotas of all places are exhausted, and then none is taken from."""
    first, second = Place(), Place()
    places = {b"a": first, b"b": second}
    for costs, granted in (((11, 4), True), ((11, 7), False), ((6, 6), True)):
        hits = [Hit(key, TEN, cost, Role.QUOTA) for key, cost in zip(places, costs, strict=True)]
        assert (await Spread().ask(hits, parts(hits, places), None)).granted is granted
    assert (first.left(b"a"), second.left(b"b")) == (4, 0)


async def test_caller_who_goes_away_changes_nothing() -> None:
    """A group whose caller has gone is completed in all places, or refunded in all; closing waits for it."""
    first, second, spread = Place(), Place(), Spread()
    places = {b"a": first, b"b": second}
    for cost, left in ((1, (9, 9)), (11, (9, 9))):
        hits = [Hit(b"a", TEN, 1), Hit(b"b", TEN, cost)]
        second.gate.clear()
        leaving = asyncio.ensure_future(spread.ask(hits, parts(hits, places), None))
        count = second.asked
        while second.asked == count:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        leaving.cancel()
        second.gate.set()
        await spread.close()
        assert leaving.cancelled()
        assert (first.left(b"a"), second.left(b"b")) == left


async def test_refund_that_comes_later_is_told_as_made() -> None:
    """Where what was taken can be given back only later, what will be left is told."""

    class Failing(Place):
        async def ask(self, hits: Sequence[Hit], within: float | None) -> Answer:
            answer = await super().ask(hits, within)
            self.broken = True
            return answer

    first, second = Failing(), Place()
    places = {b"a": first, b"b": second}
    hits = [Hit(b"a", TEN, 4), Hit(b"b", TEN, 11)]
    answer = await Spread().ask(hits, parts(hits, places), None)
    assert not answer.granted
    assert answer.levels[0].remaining == 10
