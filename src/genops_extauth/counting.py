"""Counters and histograms for the request path, and readings taken at scrape time.

They are collectors of prometheus_client, which does names, escaping and formats; only the counting is ours. Its own
``Counter.inc`` and ``Histogram.observe`` take locks and cost 1 us together, these cost 0.2 us: the event loop's thread
is the only one that counts, and the one that is scraped, so there is nothing to lock.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Series = tuple[str, ...]
"""The values of a metric's labels, in the order of their names."""


class Counter(Collector):
    """A count per series. Each is known beforehand and exported from 0, so that ``rate()`` misses no first event.

    `name` goes without its ``_total``. Without labels there is one series.
    """

    def __init__(self, name: str, documentation: str, labels: Series) -> None:
        self._family = (name, documentation, labels)
        self._counts: dict[Series, int] = {} if labels else {(): 0}

    def expect(self, series: Iterable[Series]) -> None:
        """Know these series too."""
        for one in series:
            self._counts.setdefault(one, 0)

    def add(self, series: Series = ()) -> None:
        """Count one. Raises KeyError for an unknown series: what a client sent must never become a label."""
        self._counts[series] += 1

    def collect(self) -> Iterator[Metric]:
        """Prometheus's families."""
        name, documentation, labels = self._family
        family = CounterMetricFamily(name, documentation, labels=labels)
        for series, count in self._counts.items():
            family.add_metric(series, count)
        yield family


class Histogram(Collector):
    """Durations in seconds, counted by `bounds`: upper limits that belong to their bucket."""

    def __init__(self, name: str, documentation: str, bounds: tuple[float, ...]) -> None:
        self._family = (name, documentation)
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        """Prometheus's families."""
        family = HistogramMetricFamily(*self._family)
        family.add_metric([], list(self._cumulative()), self._sum)
        yield family

    def _cumulative(self) -> Iterator[tuple[str, float]]:
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            yield ("+Inf" if bound == float("inf") else str(bound), total)


class Reading(Collector):
    """Values that somebody else keeps, read when Prometheus asks: he knows no metrics, and pays nothing for them."""

    def __init__(
        self,
        kind: type[CounterMetricFamily | GaugeMetricFamily],
        name: str,
        documentation: str,
        labels: Series,
        read: Callable[[], Mapping[Series, float]],
    ) -> None:
        self._kind = kind
        self._family = (name, documentation, labels)
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Prometheus's families."""
        name, documentation, labels = self._family
        family = self._kind(name, documentation, labels=labels)
        for series, value in self._read().items():
            family.add_metric(series, value)
        yield family
