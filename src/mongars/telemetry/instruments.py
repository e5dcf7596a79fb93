"""The process's instruments: OpenTelemetry counters, histograms and gauges, as Prometheus text."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from mongars.telemetry.names import METRICS, SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, Histogram, Meter

    from mongars.telemetry.names import Metric

    Reading = tuple[float, Mapping[str, Any]]

NAMESPACE = "mongars"


class Counter:
    """Sums by attributes, kept here and read when the page is rendered: adding is a dictionary update."""

    def __init__(self) -> None:
        self._sums: defaultdict[tuple[tuple[str, Any], ...], int] = defaultdict(int)

    def add(self, count: int, attributes: dict[str, Any]) -> None:
        """Add to the sum of these attributes; 0 makes the series exist."""
        self._sums[tuple(attributes.items())] += count

    def observations(self, _: CallbackOptions) -> list[Observation]:
        """All sums, for OpenTelemetry."""
        return [Observation(count, dict(key)) for key, count in self._sums.items()]


class Instruments:
    """Every declared metric of this process; one object per process.

    Counters and histograms exist from the start. A gauge exists once `gauge` names what it reads.
    """

    def __init__(self, *, version: str, declared: Sequence[Metric] = METRICS) -> None:
        reader = PrometheusMetricReader(scope_info_enabled=False)
        resource = Resource.create({"service.name": "mongars-api", "service.version": version})
        self._provider = MeterProvider(metric_readers=[reader], resource=resource)
        self._meter = self._provider.get_meter(NAMESPACE, version)
        self._declared = frozenset(declared)
        self._counters = {m: _counter(self._meter, m) for m in declared if m.kind == "counter"}
        self._histograms = {
            m: _histogram(self._meter, m) for m in declared if m.kind == "histogram"
        }

    def add(self, metric: Metric, attributes: dict[str, Any], count: int = 1) -> None:
        """Add to a counter. Raises `KeyError` if no such counter is declared."""
        self._counters[metric].add(count, attributes)

    def record(self, metric: Metric, value: float, attributes: dict[str, Any]) -> None:
        """Record in a histogram. Raises `KeyError` if no such histogram is declared."""
        self._histograms[metric].record(value, attributes)

    def gauge(self, metric: Metric, read: Callable[[], Iterable[Reading]]) -> None:
        """Show what `read` returns at each scrape: values with their attributes.

        A series that `read` no longer returns is gone with the next scrape. `read` must not block.
        Raises `KeyError` if no such gauge is declared.
        """
        if metric.kind != "gauge" or metric not in self._declared:
            raise KeyError(metric)

        def observations(_: CallbackOptions) -> list[Observation]:
            return [Observation(value, dict(attributes)) for value, attributes in read()]

        self._meter.create_observable_gauge(
            metric.name,
            callbacks=[observations],
            unit=metric.unit,
            description=metric.description,
        )

    def render(self) -> tuple[str, bytes]:
        """Content type and page, for `/metrics`."""
        return CONTENT_TYPE_LATEST, generate_latest(REGISTRY)

    def close(self) -> None:
        """Unregister from the process-wide Prometheus registry."""
        self._provider.shutdown()


def _counter(meter: Meter, metric: Metric) -> Counter:
    counter = Counter()
    meter.create_observable_counter(
        metric.name,
        callbacks=[counter.observations],
        unit=metric.unit,
        description=metric.description,
    )
    return counter


def _histogram(meter: Meter, metric: Metric) -> Histogram:
    return meter.create_histogram(
        metric.name,
        unit=metric.unit,
        description=metric.description,
        explicit_bucket_boundaries_advisory=SECONDS,
    )
