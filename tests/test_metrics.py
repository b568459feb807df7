import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from genops_extauth.cache import CacheStatistics
from genops_extauth.counting import Counter, Histogram
from genops_extauth.limit_exposition import exposition
from genops_extauth.log_sink import LogStatistics
from genops_extauth.metrics import STORE_READINGS, KeysNow, Metrics
from genops_extauth.redis_faults import FAULTS
from genops_extauth.tokens import Statistics

ISSUER = "https://auth.example.com"


class Scraped:
    """Metrics, and what a scrape of them says."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.metrics.configured(["free", "premium"], [ISSUER])

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def test_new_names_after_reload(scraped: Scraped) -> None:
    """After a reload new tiers and issuers have series of their own, and former counts stay."""
    scraped.metrics.limited("free", 0.001, over=False)
    scraped.metrics.configured(["gold"], ["https://new"])
    scraped.metrics.limited("gold", 0.001, over=False)
    scraped.metrics.limited("free", 0.001, over=False)
    assert scraped.value("genops_rate_limit_total", code="ok", tier="gold") == 1
    assert scraped.value("genops_rate_limit_total", code="ok", tier="free") == 1
    assert scraped.value("genops_rate_limit_total", code="ok", tier="other") == 1
    assert scraped.value("genops_jwks_fetch_total", issuer="https://new", result="ok") == 0


def test_readings(scraped: Scraped) -> None:
    """Keys, caches, losses, the certificate's end are read when Prometheus asks; what nobody knows is not exported."""
    keys = {ISSUER: KeysNow(2, 12.5), "https://down": KeysNow(0, None)}
    scraped.metrics.watch_keys(lambda: keys)
    scraped.metrics.watch_token_caches(lambda: Statistics(CacheStatistics(3, 900, 7, 5), CacheStatistics(1, 400, 0, 2)))
    scraped.metrics.watch_log(lambda: LogStatistics(queued=1, dropped=4))
    scraped.metrics.watch_certificate(lambda: 1.9e9)
    assert scraped.value("genops_jwks_keys", issuer="https://down") == 0
    assert scraped.value("genops_jwks_age_seconds", issuer="https://down") is None
    assert scraped.value("genops_jwks_age_seconds", issuer=ISSUER) == 12.5
    assert scraped.value("genops_token_cache_entries", cache="verified") == 3
    assert scraped.value("genops_token_cache_bytes", cache="refused") == 400
    assert scraped.value("genops_token_cache_hits_total", cache="verified") == 7
    assert scraped.value("genops_token_cache_misses_total", cache="refused") == 2
    assert scraped.value("genops_log_dropped_total") == 4
    assert scraped.value("genops_certificate_expiry_timestamp_seconds") == 1.9e9
    keys[ISSUER] = KeysNow(3, 0.5)
    assert scraped.value("genops_jwks_keys", issuer=ISSUER) == 3


def test_what_stands_before_the_store(scraped: Scraped) -> None:
    """Each figure of what stands before the store has its gauge, read when Prometheus asks."""
    figures = dict.fromkeys(STORE_READINGS, 0.0)
    scraped.metrics.watch_store(lambda: figures)
    figures |= {name: float(place) for place, name in enumerate(STORE_READINGS, 1)}
    for name, (kind, _) in STORE_READINGS.items():
        total = "_total" if kind is CounterMetricFamily else ""
        assert scraped.value(f"genops_store_{name}{total}") == figures[name]


@pytest.mark.parametrize("kind", sorted({"open", "overloaded", "closed", *(kind for _, kind, _ in FAULTS)}))
def test_every_fault_of_a_store_has_its_kind(scraped: Scraped, kind: str) -> None:
    """Whatever a store can fail with counts under its own kind, and what it never was under another."""
    scraped.metrics.store_failed(kind)
    scraped.metrics.store_failed("never heard of")
    assert scraped.value("genops_store_errors_total", kind=kind) == 1
    assert scraped.value("genops_store_errors_total", kind="other") == 1


@pytest.mark.parametrize("openmetrics", [True, False])
def test_what_an_outage_may_cost(scraped: Scraped, *, openmetrics: bool) -> None:
    """Each limit's worst case is exported under its name as it is now; infinite where it is open."""
    worst = {'d.a_"x"': 20.0}
    scraped.metrics.watch_exposure(lambda: worst)
    worst["d.b"] = math.inf
    parse = parse_openmetrics if openmetrics else text_string_to_metric_families
    text = "".join(exposition(scraped.metrics.limits, openmetrics=openmetrics)) + "# EOF\n" * openmetrics
    (family,) = (each for each in parse(text) if each.name == "genops_rate_limit_outage_exposure")
    assert {sample.labels["limit"]: sample.value for sample in family.samples} == worst


def test_folded_series_are_told(scraped: Scraped) -> None:
    """How often a limit was met that has no series of its own is told."""
    scraped.metrics.limits.folded = 3
    assert scraped.value("genops_rate_limit_series_folded_total") == 3


def test_what_prometheus_reads(scraped: Scraped) -> None:
    """Every metric is ours or the process's, documented, and bounded: no label but those of a short list."""
    scraped.metrics.allowed(0.001)
    families = list(text_string_to_metric_families(generate_latest(scraped.registry).decode()))
    assert {family.name for family in families} >= {"genops_check", "genops_build_info", "process_open_fds"}
    for family in families:
        assert family.name.startswith(("genops_", "process_"))
        assert family.documentation
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels == {"verdict", "reason", "code", "tier", "kind", "issuer", "result", "le", "version", "python"}


@given(st.lists(st.floats(0, 10)))
def test_histogram(durations: list[float]) -> None:
    """Each bucket counts the durations up to its bound, the bound included, and the last one counts all."""
    bounds = (0.0, 0.5, 1.0, 5.0)
    histogram = Histogram("h", "h.", bounds)
    for seconds in durations:
        histogram.observe(seconds)
    samples = {(s.name, s.labels.get("le")): s.value for family in histogram.collect() for s in family.samples}
    for bound in bounds:
        assert samples["h_bucket", str(bound)] == sum(seconds <= bound for seconds in durations)
    assert samples["h_bucket", "+Inf"] == samples["h_count", None] == len(durations)
    assert samples["h_sum", None] == pytest.approx(sum(durations))


def test_labels_are_bounded() -> None:
    """A counter refuses a series that nobody has declared."""
    counter = Counter("c", "c.", ("kind",))
    counter.expect([("known",)])
    counter.add(("known",))
    with pytest.raises(KeyError):
        counter.add(("chosen by a client",))
