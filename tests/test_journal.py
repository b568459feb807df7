from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.bucket import Bucket, bucket
from genops_extauth.hits import Book, Hit, Role
from genops_extauth.journal import Journal, Owed
from genops_extauth.window import FixedWindow

NOW = 10**15
HUNDRED = bucket(100, 10**6)

rows = st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.booleans(), st.integers(0, 60)), max_size=12)


def as_hits(row: list[tuple[bytes, bool, int]]) -> list[Hit]:
    return [Hit(key, HUNDRED, cost, Role.CHARGE if charge else Role.REFUND) for key, charge, cost in row]


def levels(book: Book) -> dict[bytes, int]:
    return {key: HUNDRED.level(book.states.get(key), NOW) for key in (b"a", b"b")}  # type: ignore[arg-type] # of its kind


@given(rows, rows)
def test_journal_comes_to_the_same(before: list[tuple[bytes, bool, int]], row: list[tuple[bytes, bool, int]]) -> None:
    """What a journal gives out leaves each bucket as the charges and refunds themselves, one by one, would have."""
    one_by_one, at_once, journal = Book(), Book(), Journal()
    for hit in as_hits(before):
        one_by_one.transact([hit], NOW)
        at_once.transact([hit], NOW)
    for hit in as_hits(row):
        one_by_one.transact([hit], NOW)
        assert journal.add([hit]) == []
    owed = journal.owed()
    taken = journal.take(100)
    at_once.transact(taken, NOW)

    assert levels(at_once) == levels(one_by_one)
    assert len(taken) <= 2 * owed.keys <= 4
    assert not journal
    assert owed.charges == sum(hit.cost for hit in taken if hit.role is Role.CHARGE)
    assert owed.refunds == sum(hit.cost for hit in taken if hit.role is Role.REFUND)
    assert journal.owed() == Owed()


def test_full_journal_takes_known_keys_only() -> None:
    """A journal has room for so many keys; a key that it knows is added up."""
    journal = Journal(largest=2)
    charges = [Hit(key, HUNDRED, 1, Role.CHARGE) for key in (b"a", b"b", b"c", b"a")]
    assert journal.add(charges) == [charges[2]]
    assert journal.owed() == Owed(keys=2, charges=3)


def test_oldest_keys_are_taken_first() -> None:
    """What waits longest is taken first, and in parts where there is much."""
    journal = Journal()
    journal.add(Hit(b"%d" % number, HUNDRED, 1, Role.CHARGE) for number in range(5))
    assert [hit.key for hit in journal.take(3)] == [b"0", b"1", b"2"]
    assert [hit.key for hit in journal.take(3)] == [b"3", b"4"]
    assert journal.take(3) == []


def test_newest_limit_counts() -> None:
    """Where a limit changed meanwhile, what is owed is charged under the newest."""
    journal = Journal()
    old: Bucket = HUNDRED
    new = FixedWindow(5, 60)
    journal.add([Hit(b"a", old, 1, Role.CHARGE), Hit(b"a", new, 1, Role.CHARGE)])
    assert journal.take(1) == [Hit(b"a", new, 2, Role.CHARGE)]


def test_owed_adds_up() -> None:
    """What is owed in two places adds up; nothing owed is false."""
    assert Owed(1, 2, 3).plus(Owed(10, 20, 30)) == Owed(11, 22, 33)
    assert not Owed()
    assert Owed(keys=1)


def test_owed_counts_charges_and_refunds_apart() -> None:
    """Of hits that are owed each is a key, and its cost a charge's or a refund's."""
    owed = Owed(1, 2, 3)
    owed.add(
        [Hit(b"a", HUNDRED, 10, Role.CHARGE), Hit(b"a", HUNDRED, 20, Role.CHARGE), Hit(b"b", HUNDRED, 5, Role.REFUND)]
    )
    assert owed == Owed(4, 32, 8)
