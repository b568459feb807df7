"""Every metric of the sidecar: its name, its labels, and where its value comes from.

Labels are bounded: reasons, codes, and names from the configuration (tiers, issuers). A customer, a path or a key id is
never one. What a part counts itself is read from it when Prometheus asks (`watch_keys` and the like).
"""

import platform
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from itertools import product
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from genops_extauth.cache import CacheStatistics
from genops_extauth.counting import Counter, Histogram, Reading, Series
from genops_extauth.limit_counters import LimitCounters
from genops_extauth.log_sink import LogStatistics
from genops_extauth.reasons import Reason
from genops_extauth.revocation_feed import FeedStatistics
from genops_extauth.tokens import Statistics

OTHER = "other"
"""The label of a name that the configuration does not know."""

_NO_TIER = "none"
_CODES = ("ok", "over_limit")
_RESULTS = ("ok", "failed")
_ALLOWED = ("allowed", "")
_DENIED = {reason: ("denied", reason.value) for reason in Reason}

# What a StoreUnavailable's text begins with, up to its colon.
_STORE_ERRORS = (
    "timeout",
    "unreachable",
    "refused",
    "tls",
    "loading",
    "full",
    "read_only",
    "cluster",
    "protocol",
    "error",
    "open",
    "overloaded",
    "closed",
    OTHER,
)

_Kind = type[CounterMetricFamily | GaugeMetricFamily]

STORE_READINGS: Mapping[str, tuple[_Kind, str]] = {
    "outage": (GaugeMetricFamily, "Whether the last request had no answer of the store."),
    "outage_granted": (CounterMetricFamily, "Requests granted without the store."),
    "outage_refused": (CounterMetricFamily, "Requests refused without the store."),
    "owed_tokens": (GaugeMetricFamily, "Tokens that are still to be charged or given back to the store."),
    "charges_lost_tokens": (CounterMetricFamily, "Tokens that could not be charged for want of memory."),
    "leased_tokens": (GaugeMetricFamily, "Tokens taken ahead and not used yet."),
    "denials_repeated": (CounterMetricFamily, "Refusals repeated without asking the store."),
}
"""What `storage.Storage.readings` holds, by the end of the metric's name, without a counter's ``_total``."""

# Decisions take from 30 us to a few ms. 20 ms and 200 ms are Envoy's default timeouts for rate limiting and ext_authz,
# 5 s is Emissary's: how many answers came too late can be read off a bucket.
_BOUNDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1.0, 5.0)

_BUILD = (version("genops-extauth"), platform.python_version())


class KeysNow(NamedTuple):
    """The keys of one issuer: how many, and the seconds since they were fetched, None when they never were."""

    keys: int
    age: float | None


class Metrics:
    """The metrics of one sidecar, registered in `registry`. All of it belongs to the thread of the event loop.

    `wall` is in seconds since the epoch.
    """

    def __init__(
        self, registry: CollectorRegistry, wall: Callable[[], float] = time.time, *, series: int = 10_000
    ) -> None:
        self.limits = LimitCounters(series)
        """What each limit counted, under envoyproxy/ratelimit's names: `limit_exposition`, for it is no collector."""
        self._registry = registry
        self._wall = wall
        self._tiers = self._issuers = frozenset[str]()
        self._reload_good, self._loaded_at = True, wall()
        self._check_time = self._histogram("genops_check_seconds", "Time that a Check decision took.")
        self._checks = self._counter("genops_check", "Check decisions.", ("verdict", "reason"))
        self._checks.expect([_ALLOWED, *_DENIED.values()])
        self._limit_time = self._histogram("genops_rate_limit_seconds", "Time that a rate limit decision took.")
        self._limits = self._counter("genops_rate_limit", "Rate limit decisions.", ("code", "tier"))
        self._defaulted = self._counter(
            "genops_tier_defaulted", "Descriptors of an unknown or missing tier, limited as the default tier.", ()
        )
        self._store_errors = self._counter("genops_store_errors", "Decisions that the store could not make.", ("kind",))
        self._store_errors.expect((kind,) for kind in _STORE_ERRORS)
        self._defects = self._counter("genops_internal_errors", "Decisions that a defect prevented.", ())
        self._fetches = self._counter("genops_jwks_fetch", "Fetches of verification keys.", ("issuer", "result"))
        self._reloads = self._counter("genops_config_reload", "Reloads of the configuration.", ("result",))
        self._reloads.expect((result,) for result in _RESULTS)
        self._sampled = self._counter("genops_log_sampled", "Log lines left out: there were many of their kind.", ())
        self._registry.register(
            Reading(
                CounterMetricFamily,
                "genops_rate_limit_series_folded",
                "Hits counted under another name, as their limit has no series of its own.",
                (),
                lambda: {(): self.limits.folded},
            )
        )
        self._read_own()

    def watch_store(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Export what `read` says of what stands before the store: each of its numbers by name."""

        def export(name: str, kind: _Kind, documentation: str) -> None:
            self._registry.register(
                Reading(kind, f"genops_store_{name}", documentation, (), lambda: {(): read()[name]})
            )

        for name, (kind, documentation) in STORE_READINGS.items():
            export(name, kind, documentation)

    def watch_exposure(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Export what `read` says of each limit: the tokens that all processes may grant in one outage."""
        self.limits.exposure = read

    def configured(self, tiers: Iterable[str], issuers: Iterable[str]) -> None:
        """The names that the configuration knows now. Series of former names stay: a counter must not vanish."""
        self._tiers, self._issuers = frozenset(tiers), frozenset(issuers)
        self._limits.expect(product(_CODES, (*self._tiers, _NO_TIER, OTHER)))
        self._fetches.expect(product((*self._issuers, OTHER), _RESULTS))

    def allowed(self, seconds: float) -> None:
        """Count a Check that passed."""
        self._check_time.observe(seconds)
        self._checks.add(_ALLOWED)

    def denied(self, reason: Reason, seconds: float) -> None:
        """Count a Check that did not pass."""
        self._check_time.observe(seconds)
        self._checks.add(_DENIED[reason])

    def limited(self, tier: str | None, seconds: float, *, over: bool) -> None:
        """Count a rate limit decision; `tier` is None where no limit was met."""
        self._limit_time.observe(seconds)
        known = _NO_TIER if tier is None else tier if tier in self._tiers else OTHER
        self._limits.add((_CODES[over], known))

    def tier_defaulted(self) -> None:
        """Count a descriptor whose tier is unknown or missing."""
        self._defaulted.add()

    def store_failed(self, kind: str) -> None:
        """Count a decision that the store could not make."""
        self._store_errors.add((kind if kind in _STORE_ERRORS else OTHER,))

    def failed(self) -> None:
        """Count a decision that a defect prevented."""
        self._defects.add()

    def keys_fetched(self, issuer: str, *, good: bool) -> None:
        """Count a fetch of keys."""
        self._fetches.add((issuer if issuer in self._issuers else OTHER, _RESULTS[not good]))

    def reloaded(self, *, good: bool) -> None:
        """Count a reload; a bad one leaves the configuration in force."""
        self._reloads.add((_RESULTS[not good],))
        self._reload_good = good
        if good:
            self._loaded_at = self._wall()

    def line_left_out(self) -> None:
        """Count a log line that was left out."""
        self._sampled.add()

    def watch_keys(self, read: Callable[[], Mapping[str, KeysNow]]) -> None:
        """Export what `read` says of each issuer's keys."""
        self._gauge(
            "genops_jwks_keys",
            "Verification keys known.",
            ("issuer",),
            lambda: {(issuer,): now.keys for issuer, now in read().items()},
        )
        self._gauge(
            "genops_jwks_age_seconds",
            "Time since the keys were last fetched.",
            ("issuer",),
            lambda: {(issuer,): now.age for issuer, now in read().items() if now.age is not None},
        )

    def watch_token_caches(self, read: Callable[[], Statistics]) -> None:
        """Export what `read` says of the caches of verified and of refused tokens."""

        def export(kind: _Kind, name: str, documentation: str, value: Callable[[CacheStatistics], int]) -> None:
            def now() -> dict[Series, float]:
                both = read()
                return {("verified",): value(both.verified), ("refused",): value(both.refused)}

            self._registry.register(Reading(kind, f"genops_token_cache_{name}", documentation, ("cache",), now))

        export(GaugeMetricFamily, "entries", "Tokens remembered.", lambda cache: cache.entries)
        export(GaugeMetricFamily, "bytes", "Memory of the tokens remembered.", lambda cache: cache.size)
        export(CounterMetricFamily, "hits", "Tokens found in the cache.", lambda cache: cache.hits)
        export(CounterMetricFamily, "misses", "Tokens not found in the cache.", lambda cache: cache.misses)

    def watch_revocations(self, read: Callable[[], FeedStatistics | None]) -> None:
        """Export what `read` says of the list of what is revoked; nothing where nobody reads it."""

        def export(kind: _Kind, name: str, documentation: str, value: Callable[[FeedStatistics], float]) -> None:
            def now() -> dict[Series, float]:
                feed = read()
                return {} if feed is None else {(): value(feed)}

            self._registry.register(Reading(kind, name, documentation, (), now))

        export(GaugeMetricFamily, "genops_revocations", "Entries of the store's list.", lambda feed: feed.entries)
        export(
            GaugeMetricFamily,
            "genops_revocations_age_seconds",
            "Time since the list was last known to be complete, or since the start.",
            lambda feed: feed.age_seconds,
        )
        export(
            CounterMetricFamily,
            "genops_revocations_reads_failed",
            "Questions about the list without an answer.",
            lambda feed: feed.failures,
        )

    def watch_certificate(self, read: Callable[[], float | None]) -> None:
        """Export when, as `read` says, the certificate of the gRPC port expires; None where it has none."""

        def now() -> dict[Series, float]:
            expires = read()
            return {} if expires is None else {(): expires}

        self._gauge(
            "genops_certificate_expiry_timestamp_seconds",
            "When the certificate that the gRPC port shows expires, or the first of those above it.",
            (),
            now,
        )

    def watch_log(self, read: Callable[[], LogStatistics]) -> None:
        """Export what `read` says of the log's queue."""
        self._registry.register(
            Reading(
                CounterMetricFamily,
                "genops_log_dropped",
                "Log lines lost: the log's reader is too slow, or gone.",
                (),
                lambda: {(): read().dropped},
            )
        )

    def _read_own(self) -> None:
        self._gauge("genops_build_info", "The running version.", ("version", "python"), lambda: {_BUILD: 1.0})
        self._gauge(
            "genops_config_last_reload_successful",
            "Whether the configuration offered last is in force.",
            (),
            lambda: {(): float(self._reload_good)},
        )
        self._gauge(
            "genops_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was loaded.",
            (),
            lambda: {(): self._loaded_at},
        )
        ProcessCollector(registry=self._registry)

    def _counter(self, name: str, documentation: str, labels: Series) -> Counter:
        counter = Counter(name, documentation, labels)
        self._registry.register(counter)
        return counter

    def _histogram(self, name: str, documentation: str) -> Histogram:
        histogram = Histogram(name, documentation, _BOUNDS)
        self._registry.register(histogram)
        return histogram

    def _gauge(self, name: str, documentation: str, labels: Series, read: Callable[[], Mapping[Series, float]]) -> None:
        self._registry.register(Reading(GaugeMetricFamily, name, documentation, labels, read))
