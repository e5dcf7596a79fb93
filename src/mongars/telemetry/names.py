"""Every metric and log event: name, unit, meaning. `docs/reference/metrics.md` is made from this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mongars.core.observe import LogLevel

MetricKind = Literal["counter", "histogram", "gauge"]

SECONDS = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
"""Bucket bounds for durations, those of the GenAI conventions; the SDK's own suit milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # equal to itself only: hashed often
class Metric:
    """One instrument."""

    name: str
    kind: MetricKind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """One log line by its name."""

    name: str
    level: LogLevel
    description: str


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
    description="Requests that fell back from Ray Serve to a local provider.",
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

LOG_EVENTS = (
    LogEvent(name="api.started", level="info", description="The API listens."),
    LogEvent(name="api.stopped", level="info", description="The API stopped."),
    LogEvent(name="settings.warning", level="warning", description="A setting looks wrong."),
    LogEvent(
        name="http.refused",
        level="warning",
        description="Requests and connections refused before they were read, by reason; a sum.",
    ),
    LogEvent(
        name="http.descriptors",
        level="warning",
        description="The limit of open files leaves room for fewer connections than configured.",
    ),
    LogEvent(
        name="llm.no_fallback",
        level="warning",
        description="This host has no local model: nothing answers while Ray Serve cannot.",
    ),
    LogEvent(name="engine.died", level="warning", description="An engine process ended."),
    LogEvent(
        name="engine.stuck",
        level="warning",
        description="A running engine produced no output for too long and is replaced.",
    ),
    LogEvent(name="engine.lost", level="warning", description="The Ollama server is gone."),
    LogEvent(name="engine.found", level="info", description="The Ollama server is back."),
    LogEvent(
        name="engine.restarted", level="warning", description="An engine that had ended runs again."
    ),
    LogEvent(
        name="engine.failed",
        level="error",
        description="An engine failed too often and is not started again.",
    ),
    LogEvent(
        name="llm.provider.crashed",
        level="error",
        description="A provider raised an unexpected error; the next one is used.",
    ),
    LogEvent(
        name="engine.restart_failed",
        level="error",
        description="An engine that ended could not be started again.",
    ),
    LogEvent(
        name="llm.answered",
        level="info",
        description="A response ended: its outcome, provider, times and token counts.",
    ),
    LogEvent(
        name="llm.embeddings",
        level="info",
        description="A request for embeddings ended: its outcome, provider, time and counts.",
    ),
    LogEvent(
        name="llm.moved",
        level="warning",
        description="A response that was cut continues on another endpoint or provider.",
    ),
    LogEvent(
        name="llm.larger_context",
        level="info",
        description="The prompt was too long for one model; a larger one answers.",
    ),
    LogEvent(name="llm.unanswered", level="error", description="Every provider failed."),
    LogEvent(
        name="llm.ray.enabled", level="info", description="Requests are sent to Ray Serve first."
    ),
    LogEvent(
        name="llm.ray.disabled",
        level="warning",
        description="Requests are answered by local providers only.",
    ),
    LogEvent(
        name="llm.ray.dispatch", level="info", description="A request is sent to an endpoint."
    ),
    LogEvent(
        name="llm.ray.skipped",
        level="debug",
        description="A request was sent to no endpoint; each one's state is the reason.",
    ),
    LogEvent(name="llm.ray.success", level="debug", description="An attempt was answered."),
    LogEvent(
        name="llm.ray.scaling",
        level="info",
        description="An endpoint is busy or scaling; it is not used for a while.",
    ),
    LogEvent(
        name="llm.ray.hedge",
        level="info",
        description="A first token was late and the request was sent to a second endpoint as well.",
    ),
    LogEvent(name="llm.ray.server_error", level="warning", description="An endpoint answered 5xx."),
    LogEvent(
        name="llm.ray.transport_error",
        level="warning",
        description="An endpoint did not respond, or its connection broke.",
    ),
    LogEvent(
        name="llm.ray.error_response", level="warning", description="An endpoint returned an error."
    ),
    LogEvent(
        name="llm.ray.empty_response",
        level="warning",
        description="An endpoint returned a response without text.",
    ),
    LogEvent(
        name="llm.ray.invalid_json",
        level="error",
        description="An endpoint returned a response that cannot be parsed.",
    ),
    LogEvent(
        name="llm.ray.fallback_local",
        level="warning",
        description="Ray Serve could not begin an answer; the local providers take over.",
    ),
    LogEvent(
        name="llm.ray.endpoint_down",
        level="warning",
        description="An endpoint is down and not used.",
    ),
    LogEvent(
        name="llm.ray.endpoint_reachable",
        level="info",
        description="An endpoint that was down responds again.",
    ),
    LogEvent(
        name="llm.ray.endpoint_drained",
        level="info",
        description="An operator took an endpoint out of use.",
    ),
    LogEvent(
        name="llm.ray.endpoint_reset",
        level="info",
        description="An operator reset the failure history of an endpoint.",
    ),
    LogEvent(name="llm.ollama.error", level="warning", description="Ollama could not answer."),
    LogEvent(name="llm.embedded.error", level="warning", description="The embedded engine failed."),
    LogEvent(name="llm.ray.deployment.ready", level="info", description="A replica serves."),
    LogEvent(name="llm.ray.deployment.updated", level="info", description="New sampling defaults."),
    LogEvent(
        name="llm.ray.deployment.rejected",
        level="error",
        description="A configuration was refused; the replica keeps the previous one.",
    ),
)

LEVEL_OF: dict[str, LogLevel] = {event.name: event.level for event in LOG_EVENTS}
