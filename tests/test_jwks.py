"""The keys of an issuer: when they are fetched, and how long they are good for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from faulty_issuer import (
    Fault,
    FaultyIssuer,
    answers,
    bomb,
    drips,
    faulty_issuer,
    html,
    key_set,
    public_jwk,
    redirects,
    streams,
)
from genops_extauth.jwks import Fetched, RemoteKeys, Settings, _pause
from genops_extauth.key_fetch import FetchError, KeysAt, Step, open_session
from genops_extauth.keyset import KeySet
from genops_extauth.model import KeysUnavailable

_ALGORITHMS = frozenset({"ES256"})
_OLD = public_jwk(ec.generate_private_key(ec.SECP256R1()), "old")
_NEW = public_jwk(ec.generate_private_key(ec.SECP256R1()), "new")
_MIB = 1024 * 1024


class World:
    """An issuer, a clock that stands still unless moved, and what was told of the fetches."""

    def __init__(self, issuer: FaultyIssuer, session: aiohttp.ClientSession) -> None:
        self.issuer = issuer
        self.now = 1000.0
        self.told: asyncio.Queue[Fetched] = asyncio.Queue()
        self._session = session
        self._made: list[RemoteKeys] = []

    def keys(self, **settings: Any) -> RemoteKeys:
        place = KeysAt(self._session, self.issuer.url, _ALGORITHMS)
        keys = RemoteKeys(place, Settings(**settings), observe=self.told.put_nowait, clock=lambda: self.now)
        self._made.append(keys)
        return keys

    async def loaded(self, **settings: Any) -> RemoteKeys:
        """Keys whose first fetch, a scheduled one, went well."""
        keys = self.keys(**settings)
        keys.start()
        assert await keys.refreshed()
        self.told.get_nowait()
        return keys

    async def scheduled(self, keys: RemoteKeys) -> Fetched:
        """Do what the background task does when its time has come."""
        await keys._take_off()
        return self.told.get_nowait()

    async def close(self) -> None:
        self.issuer.gate.set()
        for keys in self._made:
            await keys.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with faulty_issuer([_OLD]) as issuer, open_session() as session:
        world = World(issuer, session)
        yield world
        await world.close()


def kids(keys: RemoteKeys) -> set[str]:
    current = keys.current()
    return set() if current is None else set(current.by_kid)


def present(keys: RemoteKeys) -> KeySet:
    current = keys.current()
    assert current is not None
    return current


# Loading


async def test_nothing_before_the_first_fetch(world: World) -> None:
    """Before the first fetch there are no keys, and asking for them does not wait."""
    keys = world.keys()

    assert keys.current() is None
    assert not keys.status().loaded
    assert keys.status().age_seconds is None


async def test_start_fetches_once(world: World) -> None:
    """Starting fetches at once, and whoever wants the keys joins that fetch."""
    keys = world.keys()
    keys.start()

    assert await keys.refreshed()
    assert kids(keys) == {"old"}
    assert len(world.issuer.requests) == 1
    assert world.told.get_nowait() == Fetched(0.0, keys=1, changed=True)


async def test_reads_do_not_wait(world: World) -> None:
    """While a fetch hangs, the keys at hand are read as ever."""
    keys = await world.loaded()
    world.issuer.gate.clear()
    waiter = asyncio.create_task(keys.refreshed())
    await world.issuer.asked(2)

    assert kids(keys) == {"old"}
    assert not waiter.done()


async def test_skipped_keys_are_told(world: World) -> None:
    """One bad key among good ones is skipped and told."""
    world.issuer.jwks.append({"kty": "oct", "k": "c2VjcmV0"})
    keys = world.keys()

    await keys.refreshed()

    assert kids(keys) == {"old"}
    assert len(world.told.get_nowait().skipped) == 1


def test_settings_that_would_flap() -> None:
    """Keys that would expire between two fetches are refused as a setting."""
    with pytest.raises(ValueError, match="max_stale"):
        Settings(refresh_interval=300, timeout=5, max_stale=300)


# Unknown kids


async def test_new_key_used_at_once(world: World) -> None:
    """A key that is published and used immediately is found by exactly one fetch (case A16)."""
    keys = await world.loaded()
    world.issuer.jwks.append(_NEW)

    assert await keys.refreshed()
    assert kids(keys) == {"old", "new"}
    assert len(world.issuer.requests) == 2


async def test_thundering_unknown_kids(world: World) -> None:
    """A hundred unknown kids at once cause one fetch, and every one of them learns what it brought."""
    keys = await world.loaded()
    world.issuer.jwks.append(_NEW)

    assert all(await asyncio.gather(*(keys.refreshed() for _ in range(100))))
    assert len(world.issuer.requests) == 2


async def test_a_thousand_unknown_kids_keep_nobody_waiting(world: World) -> None:
    """While a thousand wait for one fetch, the keys at hand are read as ever."""
    keys = await world.loaded()
    world.issuer.gate.clear()
    waiters = [asyncio.create_task(keys.refreshed()) for _ in range(1000)]
    await world.issuer.asked(2)

    assert kids(keys) == {"old"}
    assert not any(waiter.done() for waiter in waiters)
    world.issuer.gate.set()

    assert not any(await asyncio.gather(*waiters))
    assert len(world.issuer.requests) == 2


async def test_flood_of_unknown_kids(world: World) -> None:
    """A flood of unknown kids causes one fetch in each cooldown, and the keys at hand go on (case B39)."""
    keys = await world.loaded(cooldown=30.0)

    for second in range(60):
        world.now = 1000.0 + second
        assert not any(await asyncio.gather(*(keys.refreshed() for _ in range(10))))

    assert kids(keys) == {"old"}
    assert len(world.issuer.requests) == 1 + 2


async def test_nothing_new(world: World) -> None:
    """An unknown kid that the issuer does not know either is told that nothing changed."""
    keys = await world.loaded()

    assert not await keys.refreshed()


async def test_cooldown_after_failure(world: World) -> None:
    """After a failed fetch unknown kids cause none for a cooldown, and are told that newer keys cannot be had."""
    keys = await world.loaded(cooldown=30.0)
    world.issuer.fault = answers(status=500)
    await world.scheduled(keys)

    world.now += 29.9
    with pytest.raises(KeysUnavailable, match="status"):
        await keys.refreshed()
    assert len(world.issuer.requests) == 2

    world.now += 0.1
    with pytest.raises(KeysUnavailable, match="status"):
        await keys.refreshed()
    assert len(world.issuer.requests) == 3


async def test_recovery_ends_the_cooldown_of_failure(world: World) -> None:
    """When the issuer is back, a key that it then publishes is found at once, whatever failed before."""
    keys = await world.loaded()
    world.issuer.fault = answers(status=500)
    await world.scheduled(keys)
    world.issuer.fault = None
    await world.scheduled(keys)
    world.issuer.jwks.append(_NEW)

    assert await keys.refreshed()


async def test_schedule_does_not_end_the_cooldown_of_a_flood(world: World) -> None:
    """A scheduled fetch gives a flood of unknown kids no further one."""
    keys = await world.loaded()
    await keys.refreshed()
    await world.scheduled(keys)

    await keys.refreshed()

    assert len(world.issuer.requests) == 3


async def test_cancelled_waiter(world: World) -> None:
    """A caller that gives up ends neither the fetch nor the waiting of others."""
    keys = await world.loaded()
    world.issuer.jwks.append(_NEW)
    world.issuer.gate.clear()
    impatient, patient = (asyncio.create_task(keys.refreshed()) for _ in range(2))
    await world.issuer.asked(2)

    impatient.cancel()
    await asyncio.wait([impatient])
    world.issuer.gate.set()

    assert impatient.cancelled()
    assert await patient
    assert len(world.issuer.requests) == 2


async def test_all_waiters_cancelled(world: World) -> None:
    """A fetch that nobody waits for any more still brings its keys."""
    keys = await world.loaded()
    world.issuer.jwks.append(_NEW)
    world.issuer.gate.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await keys.refreshed()
    world.issuer.gate.set()

    assert (await world.told.get()).changed
    assert kids(keys) == {"old", "new"}


# Failures


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (html(), FetchError.NOT_A_KEY_SET),
        (answers(b"[]"), FetchError.NOT_A_KEY_SET),
        (answers(key_set([])), FetchError.NOT_A_KEY_SET),
        (answers(key_set([_NEW] * 10_000)), FetchError.TOO_LARGE),
        (answers(key_set([{}] * 10_000)), FetchError.NOT_A_KEY_SET),
        (answers(key_set([_NEW]), status=500), FetchError.STATUS),
        (redirects("https://evil.example/jwks"), FetchError.REDIRECT),
        (streams(50 * _MIB), FetchError.TOO_LARGE),
        (bomb(50 * _MIB), FetchError.TOO_LARGE),
        (drips(), FetchError.TIMEOUT),
    ],
)
async def test_bad_answers_keep_the_keys(world: World, fault: Fault, code: FetchError) -> None:
    """Whatever comes instead of a key set, the keys at hand stay, and the failure is told (cases E48 to E54)."""
    keys = await world.loaded(timeout=0.2 if code is FetchError.TIMEOUT else 5.0)
    before = keys.current()
    world.issuer.fault = fault

    told = await world.scheduled(keys)

    assert keys.current() is before
    assert told.error is code
    status = keys.status()
    assert (status.failures, status.failed_step, status.last_error) == (1, Step.KEYS, code)


async def test_success_clears_the_failure(world: World) -> None:
    """The status speaks of failures since the last success."""
    keys = await world.loaded()
    world.issuer.fault = html()
    await world.scheduled(keys)
    await world.scheduled(keys)
    assert keys.status().failures == 2

    world.issuer.fault = None
    await world.scheduled(keys)

    status = keys.status()
    assert (status.failures, status.failed_step, status.last_error) == (0, None, None)


async def test_stale_keys_then_none(world: World) -> None:
    """While the issuer is down its keys are good until `max_stale` after the last success, and no longer (E45, E46)."""
    keys = await world.loaded(max_stale=86_400.0)
    await world.issuer.down()

    world.now += 86_400.0
    told = await world.scheduled(keys)
    assert told.error is FetchError.CONNECT
    assert kids(keys) == {"old"}

    world.now += 0.1
    assert keys.current() is None
    assert not keys.status().loaded
    assert keys.status().keys == 0


async def test_recovery_after_expiry(world: World) -> None:
    """When the issuer comes back after its keys expired, they are good again, and that counts as a change."""
    keys = await world.loaded(max_stale=86_400.0)
    before = keys.current()
    world.now += 90_000.0
    assert keys.current() is None

    assert await keys.refreshed()
    assert keys.current() is before


# Renewal


async def test_same_content_same_object(world: World) -> None:
    """Equal content, in whatever order, keeps the same object, for caches hold on to it; its age starts anew."""
    world.issuer.jwks.append(_NEW)
    keys = await world.loaded()
    before = keys.current()
    world.issuer.jwks.reverse()
    world.now += 300.0
    assert keys.status().age_seconds == 300.0

    told = await world.scheduled(keys)

    assert keys.current() is before
    assert not told.changed
    assert keys.status().age_seconds == 0.0


async def test_age_counts_from_the_question(world: World) -> None:
    """An answer that took long is as old as its question: what it says was true then at the earliest."""
    keys = await world.loaded()
    world.issuer.gate.clear()
    waiter = asyncio.create_task(keys.refreshed())
    await world.issuer.asked(2)
    world.now += 4.0
    world.issuer.gate.set()
    await waiter

    assert keys.status().age_seconds == 4.0
    assert world.told.get_nowait().seconds == 4.0


async def test_withdrawal(world: World) -> None:
    """A key that its issuer withdrew is gone with the next fetch."""
    world.issuer.jwks.append(_NEW)
    keys = await world.loaded()
    before = present(keys)
    world.issuer.jwks.remove(_OLD)

    told = await world.scheduled(keys)

    assert told.changed
    assert kids(keys) == {"new"}
    assert present(keys).fingerprint != before.fingerprint


async def test_background_renewal(world: World) -> None:
    """In the background keys are fetched again and again, through failures of any kind, without being asked."""
    keys = world.keys(refresh_interval=0.01)
    keys.start()
    await world.issuer.asked(3)
    world.issuer.fault = html()
    while (await world.told.get()).error is None:
        pass
    await world.issuer.down()
    while (await world.told.get()).error is not FetchError.CONNECT:
        pass
    world.issuer.fault = None
    world.issuer.jwks = [_NEW]
    await world.issuer.up()
    while not (await world.told.get()).changed:
        pass

    assert kids(keys) == {"new"}


async def test_failing_observer(world: World) -> None:
    """An observer that raises ends nothing: its failure goes to the event loop's exception handler."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    keys = world.keys(refresh_interval=0.01)

    def fail(_: Fetched) -> None:
        raise RuntimeError("telemetry")

    keys._observe = fail
    keys.start()

    assert await keys.refreshed()
    await world.issuer.asked(3)
    assert all(str(context["exception"]) == "telemetry" for context in reported)
    assert len(reported) >= 2


async def test_close_releases_waiters(world: World) -> None:
    """Closing ends the fetch under way: who waits for it is told to try again, and is not cancelled."""
    keys = await world.loaded()
    world.issuer.gate.clear()
    waiter = asyncio.create_task(keys.refreshed())
    await world.issuer.asked(2)

    await keys.close()

    with pytest.raises(KeysUnavailable, match="replaced"):
        await waiter


async def test_closed(world: World) -> None:
    """After closing nothing is fetched any more, and the keys can still be read: requests under way finish."""
    keys = await world.loaded(cooldown=0.0)
    await keys.close()

    with pytest.raises(KeysUnavailable, match="replaced"):
        await keys.refreshed()
    assert kids(keys) == {"old"}
    assert len(world.issuer.requests) == 1


@pytest.mark.parametrize(
    ("failures", "earliest", "latest"),
    [(0, 240.0, 300.0), (1, 0.8, 1.0), (2, 1.6, 2.0), (5, 12.8, 16.0), (6, 24.0, 30.0), (5000, 24.0, 30.0)],
)
def test_pauses(failures: int, earliest: float, latest: float) -> None:
    """A fetch that failed is tried again after 1, 2, 4 and at last every 30 seconds, each up to a fifth earlier."""
    assert _pause(300.0, failures, 0.0) == pytest.approx(latest)
    assert _pause(300.0, failures, 1.0) == pytest.approx(earliest)


@given(st.floats(0.01, 86_400.0), st.integers(0, 10**6), st.floats(0.0, 1.0, exclude_max=True))
def test_pause_is_never_longer_than_the_interval(interval: float, failures: int, chance: float) -> None:
    """Whatever fails, the next fetch comes no later than it would have, and never without a pause."""
    assert 0.0 < _pause(interval, failures, chance) <= interval
