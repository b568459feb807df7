from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.word_sets import WordSets


@given(st.lists(st.frozensets(st.text(max_size=3), max_size=4), max_size=30), st.integers(0, 3_000))
def test_equal_sets_are_one(brought: list[frozenset[str]], capacity: int) -> None:
    """A set comes back equal; who brings it first is charged for it, who gets another's is not, within the capacity."""
    sets, seen = WordSets(capacity), dict[int, frozenset[str]]()
    for words in brought:
        shared, size = sets.share(words)

        assert shared == words
        assert (size == 0) == (not words or id(shared) in seen)
        seen[id(shared)] = shared
        assert sets._sets.statistics().size <= capacity


def test_sets_are_kept_while_there_is_room() -> None:
    """With room enough the same words, in any order, are one object."""
    sets = WordSets()
    first, _ = sets.share(frozenset(["read", "write"]))

    assert sets.share(frozenset(["write", "read"])) == (first, 0)
    assert sets.share(frozenset(["read write"]))[0] != first
