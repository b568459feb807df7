import itertools

from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.breaker import LONGEST, Breaker, pauses


@given(st.lists(st.booleans(), max_size=40))
def test_circuit_is_open_after_failures_in_a_row(answers: list[bool]) -> None:
    """It opens with the third failure in a row, once, and closes with the first answer."""
    breaker, row, times = Breaker(), 0, 0
    for answered in answers:
        was_open = not breaker.closed
        row = 0 if answered else row + 1
        if answered:
            assert breaker.succeeded() == was_open
        else:
            opens = breaker.failed()
            assert opens == (row == 3)
            times += opens
        assert breaker.closed == (row < 3)
    assert breaker.times == times


def test_probes_come_ever_more_slowly() -> None:
    """The first probe comes after 50 ms, later ones after twice the time, up to a second."""
    first = list(itertools.islice(pauses(), 8))
    assert first == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert next(itertools.islice(pauses(), 10_000, None)) == LONGEST
