"""The keys of an issuer, over HTTP: when they are fetched, and how long they are good for.

The rules:

* Reading never waits. A token is checked with the keys at hand, whatever a fetch is doing.
* One fetch at a time; whoever wants newer keys meanwhile joins it. Giving up waiting does not end it.
* An unknown kid may cause a fetch, for a key may be used the moment it is published. But anybody can make tokens with
  unknown kids (GHSA-2gx3-rcp4-g85q: a fetch for each): at most one such fetch in `cooldown`, and none within `cooldown`
  after a failure.
* A failed fetch changes nothing (GHSA-fhv5-28vv-h8m8: an outage emptied the cache). But keys older than `max_stale` are
  gone: whoever cuts us off from the issuer must not keep a stolen key alive.
* Equal content keeps the same `KeySet` object, so that what is cached by it stays warm; only its age starts anew.

What is left: a flood of unknown kids delays a key that is used the moment it is published, by up to `cooldown`.
An issuer that publishes its keys longer than `refresh_interval` before their use is not affected.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from genops_extauth.key_fetch import FetchError, FetchFailed, Found, Step
from genops_extauth.keyset import KeySet
from genops_extauth.model import KeysUnavailable

_FIRST_RETRY = 1.0
"""Seconds. A mesh's proxy that starts beside us takes about as long until it lets us out."""
_LAST_RETRY = 30.0
"""Seconds. What recovery waits for at most; an issuer that is down notices nothing of it."""
_JITTER = 0.2
"""Replicas that were started together must not ask together for ever: up to a fifth earlier, never later."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How keys are fetched and kept; times in seconds.

    A withdrawn key works for `refresh_interval` more at most, or, while its issuer is down, for `max_stale`. For
    `cooldown` unknown kids cause no fetch, after one that they caused and after one that failed. `timeout` is for a
    whole fetch, discovery included, `max_bytes` for the key set as decompressed.

    Raises `ValueError` where keys would expire before they are renewed.
    """

    refresh_interval: float = 300.0  # as PyJWKClient; Envoy's remote_jwks takes 600, Oathkeeper 30
    cooldown: float = 30.0  # as PyJWKClient
    max_stale: float = 86_400.0  # a day: somebody has time to repair the issuer
    timeout: float = 5.0  # outlasts two lost SYNs, sent again after 1 and 3 seconds (RFC 6298)
    max_bytes: int = 512 * 1024  # 100 keys with their certificate chains

    def __post_init__(self) -> None:
        if self.max_stale < self.refresh_interval + self.timeout:
            raise ValueError(
                f"keys would expire before they are renewed: set max_stale ({self.max_stale:g} s) to at least "
                f"refresh_interval + timeout ({self.refresh_interval + self.timeout:g} s)"
            )


class Place(Protocol):
    """Where an issuer's keys are: at a configured URI (`key_fetch.KeysAt`), or where it says itself (`Discovered`)."""

    async def fetch(self, *, seconds: float, max_bytes: int) -> Found:
        """Fetch once, in at most `seconds`. Raises `key_fetch.FetchFailed`."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """How one fetch went. Without an `error` it went well; with one, it failed at `step`.

    `detail` says more of the error, in words that are not the server's. `keys` counts the usable keys that came,
    `skipped` says why for each other one, and `remarks` are warnings although it went well. `changed`: `current`
    answers something else than before.
    """

    seconds: float
    error: FetchError | None = None
    step: Step = Step.KEYS
    detail: str = ""
    keys: int = 0
    changed: bool = False
    skipped: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What can be said of an issuer's keys. `failures` counts those since the last success.

    `loaded`: there are keys to check tokens with. `age_seconds` is since the last success, None before the first.
    `last_error` is the last fetch's, and `failed_step` where it occurred; None where it went well.
    """

    loaded: bool
    age_seconds: float | None
    keys: int
    last_error: FetchError | None
    failed_step: Step | None
    failures: int


class RemoteKeys:
    """The keys at `place`; a `tokens.KeySource`. Between `start` and `close` they are renewed in the background.

    The caller owns the session of `place` and closes it after this. `observe` is told of every fetch; it must not
    block. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        place: Place,
        settings: Settings,
        *,
        observe: Callable[[Fetched], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._settings = settings
        self._observe = observe
        self._clock = clock
        self._keys: KeySet | None = None
        self._renewed_at = -math.inf
        self._asked_until = -math.inf
        self._failed_until = -math.inf
        self._failures = 0
        self._failed: tuple[Step, FetchError] | None = None
        self._flight: asyncio.Task[bool] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._closed = False

    def current(self) -> KeySet | None:
        """The keys to check tokens with; None when there are none yet, or none younger than `max_stale`."""
        fresh = self._clock() - self._renewed_at <= self._settings.max_stale
        return self._keys if fresh else None

    async def refreshed(self) -> bool:
        """Ask for newer keys, for an unknown kid: join the fetch under way, or cause one unless cooling down.

        True when the keys changed. Raises `KeysUnavailable` where nobody can tell, for the last fetch failed.
        Cancelling this ends the waiting only: put any time limit around it.
        """
        flight = self._under_way()
        if flight is None and not self._closed and self._clock() >= max(self._asked_until, self._failed_until):
            self._asked_until = self._clock() + self._settings.cooldown
            flight = self._take_off()
        changed = flight is not None and await _landed(flight)
        if self._closed and not changed:
            raise KeysUnavailable("the configuration was just replaced; try again")
        if self._failed is not None:
            raise KeysUnavailable(f"the latest keys could not be fetched: {': '.join(self._failed)}")
        return changed

    def status(self) -> KeyStatus:
        """What metrics, readiness and the admin API say of these keys."""
        keys = self.current()
        step, error = self._failed or (None, None)
        return KeyStatus(
            loaded=keys is not None,
            age_seconds=None if self._keys is None else self._clock() - self._renewed_at,
            keys=len(keys.keys) if keys else 0,
            last_error=error,
            failed_step=step,
            failures=self._failures,
        )

    def adopt(self, settings: Settings) -> None:
        """Fetch and keep in another way from now on; a pause under way ends as it began."""
        self._settings = settings

    def start(self) -> None:
        """Begin the first fetch, which `refreshed` then joins, and go on in the background."""
        if self._under_way() is None:
            self._take_off()
        self._renewal = asyncio.create_task(self._renew())

    async def close(self) -> None:
        """End the background task and the fetch under way: who waits is told to try again. Keys can be read."""
        self._closed = True
        tasks = [task for task in (self._renewal, self._flight) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await _landed(self._under_way() or self._take_off())
            await asyncio.sleep(_pause(self._settings.refresh_interval, self._failures, random.random()))  # noqa: S311 - jitter

    def _under_way(self) -> asyncio.Task[bool] | None:
        return self._flight if self._flight is not None and not self._flight.done() else None

    def _take_off(self) -> asyncio.Task[bool]:
        self._flight = asyncio.create_task(self._fetch())
        return self._flight

    async def _fetch(self) -> bool:
        """Fetch once, keep what came, tell; True when the keys changed. Raises nothing."""
        started = self._clock()
        limits = self._settings
        try:
            found = await self._place.fetch(seconds=limits.timeout, max_bytes=limits.max_bytes)
        except FetchFailed as failure:
            self._fail(failure)
            self._tell(Fetched(self._clock() - started, failure.code, failure.step, failure.detail))
            return False
        changed = self._keep(found.keys, started)
        seconds, count = self._clock() - started, len(found.keys.keys)
        self._tell(Fetched(seconds, keys=count, changed=changed, skipped=found.skipped, remarks=found.remarks))
        return changed

    def _fail(self, failure: FetchFailed) -> None:
        self._failures += 1
        self._failed = (failure.step, failure.code)
        self._failed_until = self._clock() + self._settings.cooldown

    def _keep(self, keys: KeySet, asked_at: float) -> bool:
        before = self.current()
        if self._keys is None or self._keys.fingerprint != keys.fingerprint:
            self._keys = keys
        # What the answer says was true when it was asked for at the earliest: its age counts from there.
        self._renewed_at = asked_at
        self._failures = 0
        self._failed = None
        self._failed_until = -math.inf
        return self.current() is not before

    def _tell(self, fetched: Fetched) -> None:
        try:
            self._observe(fetched)
        except Exception as error:  # noqa: BLE001 - were telemetry to end the renewal, no token would pass tomorrow
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the observer of key fetches failed", "exception": error}
            )


async def _landed(flight: asyncio.Task[bool]) -> bool:
    """Wait for a fetch. Unlike `asyncio.shield`, a fetch that `close` cancels does not look as if we were cancelled."""
    await asyncio.wait([flight])
    return not flight.cancelled() and flight.result()


def _pause(refresh_interval: float, failures: int, chance: float) -> float:
    """Seconds until the next fetch: while fetches fail doubling from `_FIRST_RETRY`. `chance` is in [0, 1)."""
    # The exponent is capped because 2.0 ** 1024 raises: renewal would end after nine hours of outage.
    retry = _FIRST_RETRY * 2.0 ** min(failures - 1, 16)
    longest = refresh_interval if failures == 0 else min(refresh_interval, _LAST_RETRY, retry)
    return longest * (1 - _JITTER * chance)
