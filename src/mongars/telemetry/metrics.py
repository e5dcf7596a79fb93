"""Measurements: events counted with OpenTelemetry, shown in Prometheus' text format."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, get_args

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from mongars.inference.events import (
    Answered,
    AttemptFailed,
    AttemptSkipped,
    AttemptStarted,
    AttemptSucceeded,
    FellBack,
    Hedged,
    Moved,
    Outcome,
    RayEnabled,
    ScalingSeen,
    Unanswered,
)
from mongars.telemetry import names
from mongars.telemetry.names import METRICS, SECONDS, Metric

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Histogram

    from mongars.core.observe import Event, Observer

NAMESPACE = "mongars"


class _Tally:
    """Counts by attributes, read when the page is rendered: adding one is a dictionary's work."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[tuple[str, Any], ...], int] = defaultdict(int)

    def add(self, count: int, attributes: dict[str, Any]) -> None:
        """Add to the count of these attributes."""
        self._counts[tuple(attributes.items())] += count

    def observations(self, _: CallbackOptions) -> list[Observation]:
        """All counts, as OpenTelemetry asks for them."""
        return [Observation(count, dict(key)) for key, count in self._counts.items()]


class Metrics:
    """An observer that counts; one per process."""

    def __init__(self, *, version: str) -> None:
        reader = PrometheusMetricReader(scope_info_enabled=False)
        resource = Resource.create({"service.name": "mongars-api", "service.version": version})
        self._provider = MeterProvider(metric_readers=[reader], resource=resource)
        self._counters: dict[str, _Tally] = {}
        self._histograms: dict[str, Histogram] = {}
        meter = self._provider.get_meter(NAMESPACE, version)
        for metric in METRICS:
            if metric.kind == "histogram":
                self._histograms[metric.name] = meter.create_histogram(
                    metric.name,
                    unit=metric.unit,
                    description=metric.description,
                    explicit_bucket_boundaries_advisory=SECONDS,
                )
            else:
                tally = self._counters[metric.name] = _Tally()
                meter.create_observable_counter(
                    metric.name,
                    callbacks=[tally.observations],
                    unit=metric.unit,
                    description=metric.description,
                )
        self._start_at_zero()

    def observe(self, event: Event) -> None:
        """Count one event."""
        match event:
            case AttemptStarted() | AttemptFailed() | AttemptSkipped() | ScalingSeen():
                self._attempted(event)
            case AttemptSucceeded():
                self._record(names.RAY_LATENCY, event.seconds, _place(event, status="success"))
                self._record(names.RAY_FIRST_TOKEN, event.first_token_seconds, _place(event))
            case Hedged():
                self._add(names.RAY_HEDGES, _place(event, outcome=event.outcome))
            case FellBack():
                self._add(names.RAY_FALLBACK, {"reason": event.reason})
            case Moved():
                self._add(names.MOVES, {"provider": event.provider, "kind": event.kind})
            case Answered():
                self._answered(event)
            case Unanswered():
                self._add(names.REQUESTS, {"outcome": "error"})
                where = {"provider": "none", "outcome": "error"}
                self._record(names.DURATION, event.seconds, where)
            case RayEnabled():
                self._start_endpoints(event)
            case _:
                pass

    def render(self) -> tuple[str, bytes]:
        """Content type and page, for `/metrics`."""
        return CONTENT_TYPE_LATEST, generate_latest(REGISTRY)

    def close(self) -> None:
        """Unregister from the process-wide Prometheus registry."""
        self._provider.shutdown()

    def _attempted(
        self, event: AttemptStarted | AttemptFailed | AttemptSkipped | ScalingSeen
    ) -> None:
        match event:
            case AttemptStarted():
                where = _place(event, status="attempt", attempt=event.attempt)
                self._add(names.RAY_REQUESTS, where)
            case AttemptFailed():
                where = _place(event, status="failure", reason=event.reason)
                self._add(names.RAY_FAILURES, _with_code(where, event.status_code))
            case AttemptSkipped():
                self._add(names.RAY_REQUESTS, _place(event, status="skipped", attempt=0))
                reason = f"endpoint_{event.reason}"
                self._add(names.RAY_FAILURES, _place(event, status="skipped", reason=reason))
            case ScalingSeen():
                where = _place(event, status="scaling", reason="status_code")
                self._add(names.RAY_SCALING, _with_code(where, event.status_code))

    def _answered(self, event: Answered) -> None:
        self._add(names.REQUESTS, {"outcome": event.outcome})
        where = {"provider": event.provider, "outcome": event.outcome}
        self._record(names.DURATION, event.seconds, where)
        if event.cache is not None:
            self._add(names.CACHE, {"outcome": event.cache})
        if event.cache in {"hit", "shared"}:
            return  # no engine wrote these tokens for this question
        counts = (("input", event.prompt_tokens), ("output", event.completion_tokens))
        for kind, count in counts:
            if count is not None:
                attributes = {"provider": event.provider, "type": kind}
                self._counters[names.TOKENS.name].add(count, attributes)

    def _start_at_zero(self) -> None:
        # A counter without a first value has no series: ratios over it are empty, and `increase`
        # misses the first event.
        for outcome in get_args(Outcome):
            self._counters[names.REQUESTS.name].add(0, {"outcome": outcome})
        for reason in ("ray_exception", "error_response", "empty_response"):
            self._counters[names.RAY_FALLBACK.name].add(0, {"reason": reason})

    def _start_endpoints(self, event: RayEnabled) -> None:
        for label in event.endpoints:
            endpoint, _, rest = label.partition("/")
            where = {"endpoint": endpoint, **({"path": f"/{rest}"} if rest else {})}
            attempt = {**where, "status": "attempt", "attempt": 1}
            failure = {**where, "status": "failure", "reason": "transport_error"}
            self._counters[names.RAY_REQUESTS.name].add(0, attempt)
            self._counters[names.RAY_FAILURES.name].add(0, failure)

    def _add(self, metric: Metric, attributes: dict[str, Any]) -> None:
        self._counters[metric.name].add(1, attributes)

    def _record(self, metric: Metric, value: float, attributes: dict[str, Any]) -> None:
        self._histograms[metric.name].record(value, attributes)


def _place(
    event: AttemptStarted
    | AttemptFailed
    | AttemptSkipped
    | ScalingSeen
    | AttemptSucceeded
    | Hedged,
    **more: str | int,
) -> dict[str, Any]:
    path = {} if event.path == "/" else {"path": event.path}
    return {"endpoint": event.endpoint, **path, **more}


def _with_code(attributes: dict[str, Any], code: int | None) -> dict[str, Any]:
    return attributes if code is None else {**attributes, "status_code": code}


class Several:
    """An observer that passes every event on to others, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def observe(self, event: Event) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.observe(event)
