"""Token buckets for tests: the shared vectors, strategies for Hypothesis, and buckets kept by the reference."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from hypothesis import assume
from hypothesis import strategies as st

from genops_extauth.bucket import Answer, Hit, Shape, State, acquire, peek, shape

SECOND = 1_000_000
VECTORS = yaml.safe_load((Path(__file__).parent / "vectors" / "bucket.yaml").read_text())


@dataclass
class Book:
    """Buckets kept by the reference."""

    states: dict[bytes, State] = field(default_factory=dict)

    def acquire(self, hits: Sequence[Hit], now: int) -> Answer:
        told, changed = acquire(self.states, hits, now)
        self.states |= changed
        return told

    def peek(self, hits: Sequence[Hit], now: int) -> Answer:
        return peek(self.states, hits, now)


def sizes() -> st.SearchStrategy[tuple[int, int, int]]:
    """Limits of every size, with periods of every unit and odd ones."""
    limits = st.one_of(st.integers(1, 20), st.integers(1, 2**32), st.sampled_from([2**32 - 1, 999_983, 10**9 + 7]))
    periods = st.sampled_from([1, 7, 60, 3600, 86_400, 604_800, 2_592_000, 31_536_000])
    bursts = st.one_of(st.integers(0, 20), st.integers(1, 2**32))
    return st.tuples(limits, periods, bursts)


def shaped(size: tuple[int, int, int]) -> Shape:
    try:
        return shape(*size)
    except ValueError:
        assume(condition=False)
        raise


shapes = sizes().map(shaped)
gaps = st.one_of(st.just(0), st.integers(0, 2 * SECOND), st.integers(0, 10**14))
costs = st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1), st.just(2**64 - 1))

hits = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), costs), min_size=1, max_size=4)
three = st.fixed_dictionaries({b"a": shapes, b"b": shapes, b"c": shapes})
