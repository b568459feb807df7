from collections.abc import Mapping, Sequence

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from buckets import NOW, Wanted, as_hits, costs, gaps, groups, meters, takes, wanted
from genops_extauth.bucket import EXACT, bucket
from genops_extauth.hits import NOTHING_ASKED, Answer, Book, Hit, Level, Meter, Origin, Role, answer, parts
from genops_extauth.window import SlidingWindow

Made = Mapping[bytes, Meter]
TEN = bucket(10, 36_000)


def levels(book: Book, made: Made, now: int) -> dict[bytes, int]:
    return {key: meter.level(book.states.get(key), now) for key, meter in made.items()}  # type: ignore[arg-type] # of its kind


def top(book: Book, meter: Meter, key: bytes, now: int) -> int:
    if isinstance(meter, SlidingWindow):
        return meter.top(meter.previous(book.states.get(key), now), now)  # type: ignore[arg-type] # of its kind
    return meter.capacity


def used(made: Made, steps: Sequence[tuple[int, Sequence[Wanted]]]) -> tuple[Book, int]:
    """A book that has been in use, and its time."""
    book, now = Book(), NOW
    for gap, group in steps:
        now += gap
        book.transact(as_hits(group, made), now)
    return book, now


steps = st.lists(st.tuples(gaps, groups), max_size=4)


@given(meters, steps, takes)
def test_groups_are_all_or_nothing(
    made: Made, before: list[tuple[int, list[Wanted]]], asked: list[tuple[bytes, int]]
) -> None:
    """A group that takes is granted where all fits: then it takes the sum of its costs, and else nothing."""
    book, now = used(made, before)
    group = [Hit(key, made[key], cost) for key, cost in asked]
    start = levels(book, made, now)
    told = book.transact(group, now)
    end = levels(book, made, now)
    taken = {key: sum(cost for of, cost in asked if of == key) * made[key].part for key in made}
    over = any(taken[key] > max(0, start[key]) for key in made) or any(start[hit.key] < 0 for hit in group)

    assert told.granted == all(each.fits for each in told.levels)
    assert told.granted == (not over)
    assert end == ({key: start[key] - taken[key] for key in made} if told.granted else start)
    assert [each.remaining for each in told.levels] == [max(0, end[hit.key]) // hit.meter.part for hit in group]


@given(meters, steps, groups)
def test_roles_decide_what_refuses(made: Made, before: list[tuple[int, list[Wanted]]], asked: list[Wanted]) -> None:
    """A group is refused where a MUST does not fit, or none of its quotas; MAY, charges and refunds refuse nothing."""
    book, now = used(made, before)
    told = book.transact(as_hits(asked, made), now)
    fits = {role: [each.fits for each, hit in zip(told.levels, asked, strict=True) if hit[2] is role] for role in Role}

    assert told.granted == (all(fits[Role.MUST]) and (not fits[Role.QUOTA] or any(fits[Role.QUOTA])))
    assert all(fits[Role.CHARGE] + fits[Role.REFUND])
    assert told.origin is Origin.STORE


@given(meters, steps, st.lists(wanted.filter(lambda each: each[2] is not Role.REFUND), min_size=1, max_size=5))
def test_charges_are_made_whatever_becomes_of_the_group(
    made: Made, before: list[tuple[int, list[Wanted]]], asked: list[Wanted]
) -> None:
    """Charges are made in full, into debt where they must, and what else a refused group asks for is not."""
    book, now = used(made, before)
    hits = as_hits(asked, made)
    start = levels(book, made, now)
    told = book.transact(hits, now)
    end = levels(book, made, now)

    for key, meter in made.items():
        due = sum(parts(hit) for hit in hits if hit.key == key and hit.role is Role.CHARGE and not hit.look)
        took = sum(
            parts(hit)
            for hit, level in zip(hits, told.levels, strict=True)
            if hit.key == key and hit.role < Role.CHARGE and level.fits and not hit.look
        )
        expected = start[key] - due - (took if told.granted else 0)
        if expected > meter.capacity - EXACT // 2:  # far from where debts end
            assert end[key] == expected


few = st.tuples(st.sampled_from([Role.MUST, Role.CHARGE, Role.REFUND]), st.integers(0, 10))


@given(st.integers(0, 10), st.lists(few, max_size=5))
@example(0, [(Role.MUST, 5), (Role.REFUND, 5), (Role.CHARGE, 3)])
@example(0, [(Role.CHARGE, 3), (Role.MUST, 5), (Role.REFUND, 5)])
def test_refused_group_leaves_its_charges_and_refunds_alone(spent: int, asked: list[tuple[Role, int]]) -> None:
    """A refused group leaves a bucket as its charges and refunds alone would have left it."""
    hits = [Hit(b"k", TEN, cost, role) for role, cost in [*asked, (Role.MUST, 11)]]
    books = Book(), Book()
    for book, group in zip(books, (hits, [hit for hit in hits if hit.role is not Role.MUST]), strict=True):
        book.transact([Hit(b"k", TEN, spent)], NOW)
        assert book.transact(group, NOW).granted == (book is books[1])
    refused, alone = books
    assert refused.states == alone.states


@given(meters, steps, costs)
def test_refund_fills_at_most_to_the_top(made: Made, before: list[tuple[int, list[Wanted]]], cost: int) -> None:
    """A refund gives back its cost, up to a full bucket or an unused window, and no more."""
    book, now = used(made, before)
    for key, meter in made.items():
        hit = Hit(key, meter, cost, Role.REFUND)
        start, highest = levels(book, made, now)[key], top(book, meter, key, now)
        assert book.transact([hit], now).granted
        assert levels(book, made, now)[key] == max(start, min(start + parts(hit), highest))


@given(meters, steps, groups)
def test_look_takes_nothing(made: Made, before: list[tuple[int, list[Wanted]]], asked: list[Wanted]) -> None:
    """A look leaves everything as it is, and a single one tells what the hit itself would be told."""
    book, now = used(made, before)
    start, states = levels(book, made, now), dict(book.states)
    book.transact([hit._replace(look=True) for hit in as_hits(asked, made)], now)
    assert (levels(book, made, now), book.states) == (start, states)

    hit = as_hits(asked, made)[0]
    seen = book.transact([hit._replace(look=True)], now)
    done = book.transact([hit._replace(look=False)], now)
    assert (seen.granted, seen.levels[0].fits, seen.levels[0].wait) == (
        done.granted,
        done.levels[0].fits,
        done.levels[0].wait,
    )


@given(meters, steps, wanted)
def test_single_hit_is_answered_as_a_group(made: Made, before: list[tuple[int, list[Wanted]]], one: Wanted) -> None:
    """The short way for a single hit answers as the long one does."""
    book, now = used(made, before)
    hit = as_hits([one], made)[0]
    assume(hit.role is Role.MUST)
    state = book.states.get(hit.key)
    level = hit.meter.level(state, now)  # type: ignore[arg-type] # of its kind
    previous = (hit.meter.previous(state, now),) if isinstance(hit.meter, SlidingWindow) else ()  # type: ignore[arg-type] # of its kind
    assert answer([hit], [(level, *previous)], now) == book.transact([hit], now)


@pytest.mark.parametrize(
    ("roles", "fitting", "granted"),
    [
        ((Role.MUST, Role.MUST), (True, False), False),
        ((Role.MUST, Role.MAY), (True, False), True),
        ((Role.QUOTA, Role.QUOTA), (True, False), True),
        ((Role.QUOTA, Role.QUOTA), (False, False), False),
        ((Role.QUOTA, Role.MAY), (False, True), False),
        ((Role.MUST, Role.QUOTA), (False, True), False),
        ((Role.MAY, Role.CHARGE), (False, True), True),
    ],
)
def test_roles_are_those_of_ratelimit(
    roles: tuple[Role, ...],
    fitting: tuple[bool, ...],
    granted: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """What does not fit refuses as its role says; a granted group takes what fits, a refused one nothing."""
    book = Book()
    hits = [
        Hit(f"{number}".encode(), TEN, 1 if fits else 11, role)
        for number, (role, fits) in enumerate(zip(roles, fitting, strict=True))
    ]
    told = book.transact(hits, NOW)
    assert told.granted is granted
    assert tuple(level.fits for level in told.levels) == fitting
    charged = [hit.role is Role.CHARGE for hit in hits]
    assert [hit.key in book.states for hit in hits] == [
        fits and (granted or charge) for fits, charge in zip(fitting, charged, strict=True)
    ]


def test_what_admits_nothing_has_no_debts() -> None:
    """A limit of 0 is charged nothing, so that a later limit begins unspent."""
    book, none = Book(), bucket(0, 60)
    assert book.transact([Hit(b"a", none, 5, Role.CHARGE)], NOW) == Answer(
        granted=True, levels=(Level(fits=True, remaining=0, reset=0),)
    )
    assert book.states == {}


def test_empty_group_is_granted() -> None:
    """A group without hits is granted."""
    assert Book().transact([], NOW) == NOTHING_ASKED
