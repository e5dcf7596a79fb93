"""Every metric and log event: name, unit, meaning. `docs/reference/metrics.md` is generated from these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mongars.core.observe import LogEvent
from mongars.engines.log_events import LOG_EVENTS as ENGINE_EVENTS
from mongars.inference.log_events import LOG_EVENTS as INFERENCE_EVENTS
from mongars.serving.log_events import LOG_EVENTS as REPLICA_EVENTS

MetricKind = Literal["counter", "histogram", "gauge"]

SECONDS = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
"""Histogram buckets for durations in seconds, from the OpenTelemetry GenAI conventions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # equal to itself only: hashed often
class Metric:
    """The declaration of one metric (counter, histogram or gauge): its name, unit, description and attribute names."""

    name: str
    kind: MetricKind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()


RAY_REQUESTS = Metric(
    name="llm.ray.requests",
    kind="counter",
    unit="{request}",
    description="Attempts sent to Ray Serve endpoints; `status` is `skipped` for a request that was"
    " sent to none, once for each endpoint.",
    attributes=("endpoint", "path", "status", "attempt"),
)
RAY_FAILURES = Metric(
    name="llm.ray.failures",
    kind="counter",
    unit="{failure}",
    description="Attempts on Ray Serve that failed, and requests that were sent to none.",
    attributes=("endpoint", "path", "status", "reason", "status_code"),
)
RAY_SCALING = Metric(
    name="llm.ray.scaling_events",
    kind="counter",
    unit="{event}",
    description="Answers of Ray Serve that mean busy or scaling.",
    attributes=("endpoint", "path", "status", "reason", "status_code"),
)
RAY_LATENCY = Metric(
    name="llm.ray.latency",
    kind="histogram",
    unit="s",
    description="Duration of successful attempts on Ray Serve, to the last token.",
    attributes=("endpoint", "path", "status"),
)
RAY_FIRST_TOKEN = Metric(
    name="llm.ray.ttft",
    kind="histogram",
    unit="s",
    description="Time to the first token of successful attempts on Ray Serve.",
    attributes=("endpoint", "path"),
)
RAY_FALLBACK = Metric(
    name="llm.ray.fallback",
    kind="counter",
    unit="{request}",
    description="Requests for which Ray Serve failed, so that local providers, if any, were tried.",
    attributes=("reason",),
)
RAY_HEDGES = Metric(
    name="llm.ray.hedges",
    kind="counter",
    unit="{attempt}",
    description="Second attempts beside a first one that was late, by whether they gave the answer.",
    attributes=("endpoint", "path", "outcome"),
)
MOVES = Metric(
    name="llm.moves",
    kind="counter",
    unit="{move}",
    description="Answers that were cut and went on elsewhere: continued exactly, or restarted.",
    attributes=("provider", "kind"),
)
CACHE = Metric(
    name="llm.cache",
    kind="counter",
    unit="{answer}",
    description="Answers that may be kept: stored ones (hit), shared while made, and new ones (miss).",
    attributes=("outcome",),
)
REQUESTS = Metric(
    name="llm.requests",
    kind="counter",
    unit="{request}",
    description="Requests, by how they ended: success, fallback, error or cancelled (the client left).",
    attributes=("outcome",),
)
DURATION = Metric(
    name="llm.request.duration",
    kind="histogram",
    unit="s",
    description="Time from a request's arrival to the end of its response; `provider` is `none` where"
    " every provider failed.",
    attributes=("provider", "outcome"),
)
TOKENS = Metric(
    name="llm.tokens",
    kind="counter",
    unit="{token}",
    description="Tokens the engines reported, read (input) and written (output).",
    attributes=("provider", "type"),
)

METRICS = (
    RAY_REQUESTS,
    RAY_FAILURES,
    RAY_SCALING,
    RAY_LATENCY,
    RAY_FIRST_TOKEN,
    RAY_FALLBACK,
    RAY_HEDGES,
    MOVES,
    CACHE,
    REQUESTS,
    DURATION,
    TOKENS,
)

API_STARTED = LogEvent(name="api.started", level="info", description="The API listens.")
API_STOPPED = LogEvent(name="api.stopped", level="info", description="The API stopped.")
SETTINGS_WARNING = LogEvent(
    name="settings.warning",
    level="warning",
    description="A setting looks wrong.",
)
HTTP_REFUSED = LogEvent(
    name="http.refused",
    level="warning",
    description="Requests and connections refused before they were read, by reason; a sum.",
)
HTTP_DESCRIPTORS = LogEvent(
    name="http.descriptors",
    level="warning",
    description="The limit of open files leaves room for fewer connections than configured.",
)
NO_FALLBACK = LogEvent(
    name="llm.no_fallback",
    level="warning",
    description="This host has no local model: nothing answers while Ray Serve cannot.",
)

LOG_EVENTS = (
    API_STARTED,
    API_STOPPED,
    SETTINGS_WARNING,
    HTTP_REFUSED,
    HTTP_DESCRIPTORS,
    NO_FALLBACK,
    *ENGINE_EVENTS,
    *INFERENCE_EVENTS,
    *REPLICA_EVENTS,
)
