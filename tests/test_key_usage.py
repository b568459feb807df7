import asyncio
from collections.abc import Mapping

import pytest

from genops_extauth import key_usage
from genops_extauth.key_usage import Usage
from genops_extauth.model import StoreUnavailable
from stores import until


class Written:
    """What was written; it fails for as long as it is `away`."""

    def __init__(self) -> None:
        self.uses: list[dict[str, int]] = []
        self.away = False

    async def __call__(self, uses: Mapping[str, int]) -> None:
        if self.away:
            raise StoreUnavailable("unreachable: the test says so")
        self.uses.append(dict(uses))


async def test_uses_are_written_together() -> None:
    """Each key is written once, with its latest use, and not again before it is used again."""
    usage = Usage(written := Written())
    for now in (1.5, 2.5, 3.5):
        usage.note("a", now)
    usage.note("b", 1.0)
    await usage.flush()
    await usage.flush()
    assert written.uses == [{"a": 3, "b": 1}]


async def test_uses_outlast_an_outage() -> None:
    """What could not be written is written the next time, unless there was a later use."""
    usage = Usage(written := Written())
    written.away = True
    usage.note("a", 1.0)
    usage.note("b", 1.0)
    await usage.flush()
    usage.note("a", 2.0)
    written.away = False
    await usage.flush()
    assert written.uses == [{"a": 2, "b": 1}]


async def test_uses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more keys are noted than the bound until they are written."""
    monkeypatch.setattr(key_usage, "_MAX_KEYS", 2)
    usage = Usage(written := Written())
    for number, name in enumerate("abca"):
        usage.note(name, number)
    await usage.flush()
    assert written.uses == [{"a": 3, "b": 1}]


async def test_uses_are_written_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written after each period."""
    monkeypatch.setattr(key_usage, "PERIOD", 0.001)
    usage = Usage(written := Written())
    tending = asyncio.ensure_future(usage.tend(lambda error: pytest.fail(str(error))))
    for now in (1, 2):
        usage.note("a", now)
        await until(lambda latest={"a": now}: latest in written.uses)  # type: ignore[misc] # mypy infers no default
    tending.cancel()
    await asyncio.wait([tending])


async def test_uses_are_written_at_the_end() -> None:
    """What was noted since the last time is written when it is stopped."""
    usage = Usage(written := Written())
    tending = asyncio.ensure_future(usage.tend(lambda error: pytest.fail(str(error))))
    await asyncio.sleep(0)
    usage.note("a", 2.0)
    tending.cancel()
    await asyncio.wait([tending])
    assert written.uses == [{"a": 2}]
