"""The metrics of the process: OpenTelemetry counters, histograms and gauges, exported as Prometheus text."""

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
    """A counter: one sum per set of attributes (time series), which OpenTelemetry reads at each scrape."""

    def __init__(self) -> None:
        self._sums: defaultdict[frozenset[tuple[str, Any]], int] = defaultdict(int)

    def add(self, count: int, attributes: dict[str, Any]) -> None:
        """Add `count` to the time series with these attributes (value by name, in any order); 0 creates the series."""
        self._sums[frozenset(attributes.items())] += count

    def observations(self, _: CallbackOptions) -> list[Observation]:
        """The current sum of every time series, in the form that OpenTelemetry reads."""
        return [Observation(count, dict(key)) for key, count in self._sums.items()]


class Instruments:
    """The metrics of this process that are in `declared`, exported as Prometheus text; create one object per process.

    Counters and histograms are created at once, a gauge by `gauge`. `version` is the version of monGARS in the export.
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
        """Add `count` to the counter `metric`, in the time series with these attributes (value by name, in any order).

        0 creates the series. Raises `KeyError` if `metric` is not a declared counter.
        """
        self._counters[metric].add(count, attributes)

    def record(self, metric: Metric, value: float, attributes: dict[str, Any]) -> None:
        """Record `value` in the histogram `metric`, in the time series with these attributes (value by name).

        Raises `KeyError` if `metric` is not a declared histogram.
        """
        self._histograms[metric].record(value, attributes)

    def gauge(self, metric: Metric, read: Callable[[], Iterable[Reading]]) -> None:
        """Create the gauge `metric`; at each scrape, `read` returns its values, each with its attributes.

        A time series that `read` no longer returns is absent from the next scrape. `read` must not block. Raises
        `KeyError` if `metric` is not a declared gauge.
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
        """The content type and the body, in Prometheus' text format, of the response of `/metrics`."""
        return CONTENT_TYPE_LATEST, generate_latest(REGISTRY)

    def close(self) -> None:
        """Remove the metrics from the process-wide Prometheus registry; another `Instruments` can be created then."""
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
