from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.cache import Cache


def test_the_least_recently_used_goes_first() -> None:
    """Whoever was asked for lately stays; what could never fit pushes nobody out."""
    cache: Cache[str] = Cache(3)
    for key in (b"a", b"b", b"c"):
        cache.put(key, "kept", 1)
    assert cache.get(b"a") == "kept"
    cache.put(b"d", "kept", 1)
    cache.put(b"e", "too large", 4)
    assert [key for key in (b"a", b"b", b"c", b"d", b"e") if cache.get(key)] == [b"a", b"c", b"d"]


@given(st.lists(st.tuples(st.binary(max_size=1), st.integers(0, 120), st.booleans())), st.integers(0, 250))
def test_a_cache_keeps_its_books(steps: list[tuple[bytes, int, bool]], capacity: int) -> None:
    """Whatever is put in and dropped, a cache holds what its sizes sum to, within its capacity, the latest first."""
    cache: Cache[int] = Cache(capacity)
    latest: dict[bytes, int] = {}
    for key, size, dropped in steps:
        cache.put(key, size, size)
        if size <= capacity:
            latest[key] = size
            assert cache.get(key) == size
        if dropped and cache.get(key) is not None:
            cache.forget(key)
            latest.pop(key)
    kept = {key: value for key in latest if (value := cache.get(key)) is not None}
    assert cache.statistics().size == sum(kept.values()) <= capacity
    assert cache.statistics().entries == len(kept)
    assert kept.items() <= latest.items()
