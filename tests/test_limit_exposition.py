from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from counted import Service, limit
from genops_extauth.limit_counters import COUNTS, LimitCounters
from genops_extauth.limit_exposition import dotted, exposition
from genops_extauth.quota import Modes

FORMATS = [(False, parse_text), (True, parse_openmetrics)]
PREFIX = "ratelimit_service_"

Parse = Callable[[str], Iterator[Metric]]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(counters: LimitCounters, parse: Parse, *, openmetrics: bool) -> dict[str, Metric]:
    text = "".join(exposition(counters, openmetrics=openmetrics)) + "# EOF\n" * openmetrics
    families = list(parse(text))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def samples(families: dict[str, Metric]) -> Samples:
    # The parser of the text format adds ``_total`` to every counter that lacks it.
    found = [
        ((sample.name.removesuffix("_total"), frozenset(sample.labels.items())), sample.value)
        for family in families.values()
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def labels(**named: str) -> frozenset[tuple[str, str]]:
    return frozenset(named.items())


@pytest.mark.parametrize(("openmetrics", "parse"), FORMATS)
def test_prometheus(*, openmetrics: bool, parse: Parse) -> None:
    """Both formats carry envoyproxy/ratelimit's names to the letter, with a label for each entry of a descriptor."""
    service = Service()
    service.ask((("d", "key1_value1", "key2", 'key3_"\\'), limit(20), 15))
    service.ask((("d", "key1_value1", "key2", 'key3_"\\'), limit(20), 7))
    service.ask((("d", "key1_value1"), limit(3, shadow=True), 4))
    deep = labels(domain="d", key1="key1_value1", key2="key2", key3='key3_"\\\\')
    shallow = labels(domain="d", key1="key1_value1")
    found = samples(scraped(service.counters, parse, openmetrics=openmetrics))
    expected = {"total_hits": 22, "within_limit": 15, "near_limit": 4, "over_limit": 2, "shadow_mode": 0, "limit": 20}
    assert {name: found[f"{PREFIX}rate_limit_{name}", deep] for name in expected} == expected
    assert found[f"{PREFIX}rate_limit_shadow_mode", shallow] == 4
    assert found[f"{PREFIX}rate_limit_over_limit_with_local_cache", shallow] == 0
    assert found[f"{PREFIX}rate_limit_total_negative_hits", shallow] == 0


@pytest.mark.parametrize(("openmetrics", "parse"), FORMATS)
def test_service(*, openmetrics: bool, parse: Parse) -> None:
    """The service's own counts are exported from 0, so that no first event is missed."""
    counters = LimitCounters()
    before = samples(scraped(counters, parse, openmetrics=openmetrics))
    redis = (f"{PREFIX}should_rate_limit_error", labels(err_type="redis_error"))
    refused = (f"{PREFIX}should_rate_limit_error", labels(err_type="service_error"))
    calls = (f"{PREFIX}total_requests", labels(grpc_method="ShouldRateLimit"))
    loads = [(f"{PREFIX}config_load_{result}", labels()) for result in ("success", "error")]
    shadowed = (f"{PREFIX}global_shadow_mode", labels())
    assert [before[name] for name in (redis, refused, calls, *loads, shadowed)] == [0] * 6
    counters.failed("redis_error")
    counters.answered(0.003)
    for good in (True, True, False):
        counters.loaded(good=good)
    Service(counters).strange(b"foo", 2)
    after = samples(scraped(counters, parse, openmetrics=openmetrics))
    assert [after[name] for name in (redis, refused, calls, *loads, shadowed)] == [1, 0, 1, 2, 1, 0]
    assert after[f"{PREFIX}rate_limit_domain_not_found", labels(domain="foo")] == 2


@pytest.mark.parametrize(("openmetrics", "parse"), FORMATS)
def test_types(*, openmetrics: bool, parse: Parse) -> None:
    """Counters are counters, in OpenMetrics of unknown type for their names; the histogram has cumulative buckets."""
    service = Service()
    service.ask((("d", "k"), limit(2), 1))
    for seconds in (0.0001, 0.003, 0.003, 99):
        service.counters.answered(seconds)
    families = scraped(service.counters, parse, openmetrics=openmetrics)
    counter = "unknown" if openmetrics else "counter"
    assert families[f"{PREFIX}rate_limit_total_hits"].type == counter
    assert families[f"{PREFIX}rate_limit_limit"].type == "gauge"
    histogram = families[f"{PREFIX}response_time_seconds"]
    assert histogram.type == "histogram"
    buckets = {sample.labels["le"]: sample.value for sample in histogram.samples if sample.name.endswith("_bucket")}
    assert (buckets["0.0025"], buckets["0.005"], buckets["10.0"], buckets["+Inf"]) == (1, 3, 3, 4)
    assert {sample.value for sample in histogram.samples if sample.name.endswith("_count")} == {4}


@pytest.mark.parametrize(("openmetrics", "parse"), FORMATS)
@given(names=st.lists(st.lists(st.text(max_size=8), min_size=1, max_size=4), max_size=10))
def test_any_names(names: list[list[str]], *, openmetrics: bool, parse: Parse) -> None:
    """Whatever clients send, a scrape is valid, no series stands in it twice, and none is missing."""
    service = Service()
    for keys in names:
        service.ask((("d", *keys), limit(5), 1))
    found = samples(scraped(service.counters, parse, openmetrics=openmetrics))
    totals = {named: value for (name, named), value in found.items() if name == f"{PREFIX}rate_limit_total_hits"}
    assert sum(totals.values()) == len(names)
    assert len(totals) == len({tuple(keys) for keys in names})


def test_pieces() -> None:
    """However many series there are, no piece has more than 500 lines: between two of them decisions are made."""
    counters = LimitCounters()
    counters.configured([b"d"], ((("d", f"k_{number}"), [limit(5)]) for number in range(1200)), Modes())
    pieces = list(exposition(counters, openmetrics=False))
    assert max(piece.count("\n") for piece in pieces) == 500
    assert sum(piece.count("\nratelimit_service_rate_limit_total_hits{") for piece in ["\n" + "".join(pieces)]) == 1200


def test_dotted() -> None:
    """The dotted names are statsd's, without its separators and the dots of addresses, sorted."""
    service = Service()
    service.counters.configured([b"d"], [], Modes())
    service.ask((("d", "path_/foo:bar|baz"), limit(9), 1))
    service.ask((("d", "remote_address_192.0.2.1", "host_a.b"), limit(9), 10))
    service.strange(b"foo:domain")
    service.counters.failed("service_error")
    service.counters.loaded(good=True)
    service.counters.answered(0.1)
    found = dotted(service.counters)
    assert list(found) == sorted(found)
    prefix = "ratelimit.service.rate_limit."
    assert {name.rpartition(".")[2] for name in found if name.startswith(f"{prefix}d.path_/foo_bar_baz.")} == {
        *COUNTS,
        "limit",
    }
    assert {name: count for name, count in found.items() if count} == {
        f"{prefix}d.path_/foo_bar_baz.total_hits": 1,
        f"{prefix}d.path_/foo_bar_baz.within_limit": 1,
        f"{prefix}d.path_/foo_bar_baz.limit": 9,
        f"{prefix}d.remote_address_192_0_2_1.host_a.b.total_hits": 10,
        f"{prefix}d.remote_address_192_0_2_1.host_a.b.over_limit": 1,
        f"{prefix}d.remote_address_192_0_2_1.host_a.b.near_limit": 2,
        f"{prefix}d.remote_address_192_0_2_1.host_a.b.limit": 9,
        f"{prefix}foo_domain.domain_not_found": 1,
        "ratelimit.service.call.should_rate_limit.service_error": 1,
        "ratelimit.service.config_load_success": 1,
        "ratelimit_server.ShouldRateLimit.total_requests": 1,
    }


def test_dotted_together() -> None:
    """Series of one dotted name are added up."""
    service = Service()
    service.ask((("d", "a.b"), limit(9), 1))
    service.ask((("d", "a", "b"), limit(9), 2))
    assert dotted(service.counters)["ratelimit.service.rate_limit.d.a.b.total_hits"] == 3
