"""The log events that inference can emit: name, level and description of each."""

from __future__ import annotations

from mongars.core.observe import LogEvent

PROVIDER_CRASHED = LogEvent(
    name="llm.provider.crashed",
    level="error",
    description="A provider raised an unexpected error; the next one is used.",
)
ANSWERED = LogEvent(
    name="llm.answered",
    level="info",
    description="A response ended: its outcome, provider, times and token counts.",
)
EMBEDDINGS = LogEvent(
    name="llm.embeddings",
    level="info",
    description="A request for embeddings ended: its outcome, provider, time and counts.",
)
MOVED = LogEvent(
    name="llm.moved",
    level="warning",
    description="A response that was cut continues on another endpoint or provider.",
)
LARGER_CONTEXT = LogEvent(
    name="llm.larger_context",
    level="info",
    description="The prompt was too long for one model; a larger one answers.",
)
CANCELLED = LogEvent(
    name="llm.cancelled",
    level="info",
    description="The client disconnected before an answer had started.",
)
UNANSWERED = LogEvent(name="llm.unanswered", level="error", description="Every provider failed.")
RAY_ENABLED = LogEvent(
    name="llm.ray.enabled",
    level="info",
    description="Requests are sent to Ray Serve first.",
)
RAY_DISABLED = LogEvent(
    name="llm.ray.disabled",
    level="warning",
    description="Requests are answered by local providers only.",
)
RAY_DISPATCH = LogEvent(
    name="llm.ray.dispatch",
    level="info",
    description="A request is sent to an endpoint.",
)
RAY_SKIPPED = LogEvent(
    name="llm.ray.skipped",
    level="debug",
    description="A request was sent to no endpoint; each one's state is the reason.",
)
RAY_SUCCESS = LogEvent(
    name="llm.ray.success",
    level="debug",
    description="An attempt was answered.",
)
RAY_SCALING = LogEvent(
    name="llm.ray.scaling",
    level="info",
    description="An endpoint is busy or scaling; it is not used for a while.",
)
RAY_HEDGE = LogEvent(
    name="llm.ray.hedge",
    level="info",
    description="A first token was late and the request was sent to a second endpoint as well.",
)
RAY_SERVER_ERROR = LogEvent(
    name="llm.ray.server_error",
    level="warning",
    description="An endpoint answered 5xx.",
)
RAY_TRANSPORT_ERROR = LogEvent(
    name="llm.ray.transport_error",
    level="warning",
    description="An endpoint did not respond, or its connection broke.",
)
RAY_ERROR_RESPONSE = LogEvent(
    name="llm.ray.error_response",
    level="warning",
    description="An endpoint returned an error.",
)
RAY_EMPTY_RESPONSE = LogEvent(
    name="llm.ray.empty_response",
    level="warning",
    description="An endpoint returned a response without text.",
)
RAY_INVALID_JSON = LogEvent(
    name="llm.ray.invalid_json",
    level="error",
    description="An endpoint returned a response that cannot be parsed.",
)
RAY_FALLBACK_LOCAL = LogEvent(
    name="llm.ray.fallback_local",
    level="warning",
    description="Ray Serve could not begin an answer; the local providers take over.",
)
RAY_ENDPOINT_DOWN = LogEvent(
    name="llm.ray.endpoint_down",
    level="warning",
    description="An endpoint is down and not used.",
)
RAY_ENDPOINT_REACHABLE = LogEvent(
    name="llm.ray.endpoint_reachable",
    level="info",
    description="An endpoint that was down responds again.",
)
RAY_ENDPOINT_DRAINED = LogEvent(
    name="llm.ray.endpoint_drained",
    level="info",
    description="An operator took an endpoint out of use.",
)
RAY_ENDPOINT_RESET = LogEvent(
    name="llm.ray.endpoint_reset",
    level="info",
    description="An operator reset the failure history of an endpoint.",
)
OLLAMA_ERROR = LogEvent(
    name="llm.ollama.error",
    level="warning",
    description="Ollama could not answer.",
)
EMBEDDED_ERROR = LogEvent(
    name="llm.embedded.error",
    level="warning",
    description="The embedded engine failed.",
)

LOG_EVENTS = (
    PROVIDER_CRASHED,
    ANSWERED,
    EMBEDDINGS,
    MOVED,
    LARGER_CONTEXT,
    CANCELLED,
    UNANSWERED,
    RAY_ENABLED,
    RAY_DISABLED,
    RAY_DISPATCH,
    RAY_SKIPPED,
    RAY_SUCCESS,
    RAY_SCALING,
    RAY_HEDGE,
    RAY_SERVER_ERROR,
    RAY_TRANSPORT_ERROR,
    RAY_ERROR_RESPONSE,
    RAY_EMPTY_RESPONSE,
    RAY_INVALID_JSON,
    RAY_FALLBACK_LOCAL,
    RAY_ENDPOINT_DOWN,
    RAY_ENDPOINT_REACHABLE,
    RAY_ENDPOINT_DRAINED,
    RAY_ENDPOINT_RESET,
    OLLAMA_ERROR,
    EMBEDDED_ERROR,
)

LOCAL_ERRORS = {"ollama": OLLAMA_ERROR, "embedded": EMBEDDED_ERROR}
"""The log event for a failure of each local provider, by provider name."""
