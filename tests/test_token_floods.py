"""What a `tokens.Verifier` remembers, under floods of distinct tokens: bounded in bytes, and what is good stays."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth import word_sets
from genops_extauth.model import Denied, Identity
from genops_extauth.tokens import Verifier
from minting import NOW, Shared, claims, token, trusted

SHARED = Shared()  # signs in microseconds: a flood is soon made


def distinct(number: int, **changes: Any) -> bytes:
    return token(SHARED, claims(jti=f"{number:06}", **changes))


def bad_tokens(count: int) -> Iterator[bytes]:
    """Distinct tokens that are refused before, and after, a look at their signature."""
    header, payload, _ = distinct(0).split(b".")
    forged = header + b"." + payload + b"."
    for number in range(count):
        yield b"%d.%s.%s" % (number, payload, payload) if number % 10 else forged + b"%043d" % (number * 4)


def test_a_flood_of_bad_tokens_pushes_out_no_good_one() -> None:
    """A good token is still known, as the very same identity, after 100,000 distinct bad ones, within fixed memory."""
    verifier = Verifier([trusted(SHARED)], cache_bytes=4_000, refused_bytes=100_000)
    known = verifier.verify(distinct(0), NOW)
    for hostile in bad_tokens(100_000):
        assert isinstance(verifier.verify(hostile, NOW), Denied)

    assert verifier.verify(distinct(0), NOW) is known
    assert verifier.statistics().refused.size <= 100_000
    assert verifier.statistics().refused.entries == 250


def test_a_flood_of_good_tokens_stays_within_its_bytes() -> None:
    """However many distinct good tokens come, the memory of them is bounded; those asked for lately stay."""
    verifier = Verifier([trusted(SHARED)], cache_bytes=40_000)
    known = verifier.verify(distinct(0), NOW)
    for number in range(1, 2_000):
        verifier.verify(distinct(number), NOW)
        assert verifier.verify(distinct(0), NOW) is known

    assert verifier.statistics().verified.size <= 40_000
    assert 30 < verifier.statistics().verified.entries < 60


@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["good", "forged", "expired", "junk"])), max_size=200))
def test_no_order_of_tokens_breaks_the_bounds(steps: list[tuple[int, str]]) -> None:
    """In whatever order good and bad tokens come, each gets its own answer, and neither memory outgrows its bound."""
    verifier = Verifier([trusted(SHARED)], cache_bytes=3_000, refused_bytes=2_000)
    for number, kind in steps:
        hostile = {
            "good": distinct(number),
            "forged": distinct(number)[:-3] + b"AAA",
            "expired": distinct(number, exp=1),
            "junk": b"%d" % number,
        }[kind]
        found = verifier.verify(hostile, NOW)

        assert isinstance(found, Identity) == (kind == "good")
        assert not isinstance(found, Identity) or found.credential_id == f"{number:06}"
        assert verifier.statistics().verified.size <= 3_000
        assert verifier.statistics().refused.size <= 2_000


@pytest.mark.parametrize(
    "scopes",
    [
        lambda _: None,
        lambda number: f"read write chat:{number % 5}",
        lambda number: f"scope:{number:05} scope:{number:05}:x",
        lambda number: [f"{number:05}:{each}" for each in range(30)],
    ],
    ids=["none", "few", "each its own", "many"],
)
def test_the_bytes_are_counted_right(scopes: Callable[[int], object]) -> None:
    """What identities are said to cost is what Python says, to 10%, whether they share their scopes or not."""
    minted = [distinct(number, scope=scopes(number)) for number in range(2_000)]
    verifier = Verifier([trusted(SHARED)])
    verifier.verify(distinct(1_000_000), NOW)  # once, for what is made at the first
    gc.collect()
    tracemalloc.start()
    for each in minted:
        verifier.verify(each, NOW)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    told = verifier.statistics().verified.size + verifier._words._sets.statistics().entries * word_sets._ENTRY_BYTES
    assert taken * 0.98 <= told <= taken * 1.10
