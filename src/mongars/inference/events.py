"""Events of inference as frozen dataclasses; `mongars.telemetry` turns them into metrics and log lines.

No event contains a prompt, an answer or a credential. The attribute `log` is the event's declared log line.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from mongars.core.urls import endpoint_label
from mongars.inference import log_events

if TYPE_CHECKING:
    from mongars.core.observe import LogEvent
    from mongars.inference.config import InferenceConfig

AttemptFailure = Literal[
    "server_error",
    "client_error",
    "transport_error",
    "timeout",
    "error_response",
    "empty_response",
    "invalid_json",
    "interrupted",
]
FallbackReason = Literal["ray_exception", "error_response", "empty_response"]
Outcome = Literal["success", "fallback", "error", "cancelled"]
"""How a request ended, as in metrics and logs. `fallback`: success after Ray failed; `cancelled`: by the client."""

_FAILURE_LOGS: dict[AttemptFailure, LogEvent] = {
    "server_error": log_events.RAY_SERVER_ERROR,
    "client_error": log_events.RAY_ERROR_RESPONSE,
    "transport_error": log_events.RAY_TRANSPORT_ERROR,
    "timeout": log_events.RAY_TRANSPORT_ERROR,
    "error_response": log_events.RAY_ERROR_RESPONSE,
    "empty_response": log_events.RAY_EMPTY_RESPONSE,
    "invalid_json": log_events.RAY_INVALID_JSON,
    "interrupted": log_events.RAY_TRANSPORT_ERROR,
}


@functools.cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    def fields(self) -> dict[str, object]:
        """The event's fields by name, as they are logged; a field whose value is None is left out."""
        found = ((name, getattr(self, name)) for name in _names(type(self)))  # type: ignore[arg-type] # classes are hashable
        return {name: value for name, value in found if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfRequest(_Fields):
    """Base class of the events about one request: its id, and its task type such as `general` or `embedding`."""

    request_id: str
    task_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEnabled(_Fields):
    """Requests are sent to Ray first, at these endpoints (host, port and path of each); emitted once at start."""

    endpoints: tuple[str, ...]
    log = log_events.RAY_ENABLED


@dataclass(frozen=True, slots=True, kw_only=True)
class RayDisabled(_Fields):
    """Requests are answered by local providers only: Ray is disabled or has no endpoint. Emitted once at start."""

    reason: Literal["disabled_by_configuration", "empty_url_configuration"]
    log = log_events.RAY_DISABLED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt(_OfRequest):
    endpoint: str
    path: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted(_Attempt):
    """A request is being sent to a Ray endpoint.

    `attempt`: its number, from 1, among all requests sent for the same client request, to any endpoint or provider.
    """

    log = log_events.RAY_DISPATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSkipped(_OfRequest):
    """A request was sent to no endpoint at all; one event per endpoint.

    `reason`: the endpoint's state, such as `down`, `resting` (not used for a while after busy responses) or `drained`.
    """

    endpoint: str
    path: str
    reason: str
    log = log_events.RAY_SKIPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSeen(_Attempt):
    """A Ray endpoint responded that it is busy; no requests are sent to it for `delay_seconds`.

    `status_code`: the response's HTTP status; None if the busy signal was inside a response with status 2xx.
    """

    status_code: int | None
    delay_seconds: float
    log = log_events.RAY_SCALING


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(_Attempt):
    """A request sent to a Ray endpoint failed before its first token or, with reason `interrupted`, after it.

    `reason`: the kind of failure, such as `timeout` or `server_error`. `error`: the code of the error. `status_code`:
    HTTP status of the response, None without one.
    """

    reason: AttemptFailure
    error: str
    status_code: int | None = None
    detail: str | None = None
    """Why the connection failed or broke and what an operator can do; None for other failures."""

    @property
    def log(self) -> LogEvent:
        """The declaration (name and level) of the log line for a failure with this event's `reason`."""
        return _FAILURE_LOGS[self.reason]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSucceeded(_Attempt):
    """A Ray endpoint completed an answer; `first_token_seconds` and `seconds` count from the start of this attempt."""

    first_token_seconds: float
    seconds: float
    log = log_events.RAY_SUCCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedged(_OfRequest):
    """A duplicate of a slow request was sent to a second endpoint, `endpoint`, `after_seconds` after the first attempt.

    `outcome`: `won` if the answer of the second endpoint was used, else `lost`.
    """

    endpoint: str
    path: str
    after_seconds: float
    outcome: Literal["won", "lost"]
    log = log_events.RAY_HEDGE


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChanged(_Fields):
    """A Ray endpoint became unavailable (`state` is `down`) or available again (`reachable`)."""

    endpoint: str
    path: str
    state: Literal["down", "reachable"]
    detail: str | None = None
    """Why the endpoint cannot be reached, if a background probe detected it; else None."""

    @property
    def log(self) -> LogEvent:
        """The declaration (name and level) of the log line for this event's `state`."""
        down = self.state == "down"
        return log_events.RAY_ENDPOINT_DOWN if down else log_events.RAY_ENDPOINT_REACHABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack(_OfRequest):
    """Ray did not answer, or its stream broke; local providers, if any, are tried.

    `reason`: `empty_response`, `error_response` or, for all other failures, `ray_exception`. `cause`: code of Ray's
    error.
    """

    reason: FallbackReason
    cause: str
    log = log_events.RAY_FALLBACK_LOCAL


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFailed(_OfRequest):
    """A local provider (Ollama, embedded engine, local embedder) failed before its result.

    `cause`: the code of its error.
    """

    provider: str
    cause: str

    @property
    def log(self) -> LogEvent:
        """The declaration (name and level) of the log line for a failure of this event's `provider`."""
        return log_events.LOCAL_ERRORS[self.provider]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved(_OfRequest):
    """A stream broke, and `provider` continues its answer (mid-stream failover).

    `kind`: `continued` generates from where the delivered text ends; `restarted` generates the whole answer again, and
    the part that was delivered is left out.
    """

    provider: str
    endpoint: str
    kind: Literal["continued", "restarted"]
    log = log_events.MOVED


@dataclass(frozen=True, slots=True, kw_only=True)
class LargerContext(_OfRequest):
    """A prompt was too long for one model, and `provider`, which has a larger context window, answers instead.

    `prompt_tokens`: tokens of the prompt as the first model reported them, 0 if it did not.
    """

    provider: str
    endpoint: str
    prompt_tokens: int
    context_tokens: int
    """Context window in tokens of the model that refused the prompt; 0 if unknown."""
    log = log_events.LARGER_CONTEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered(_OfRequest):
    """All providers failed; `cause` is the error code in the response, `seconds` the time since processing began."""

    cause: str
    seconds: float
    log = log_events.UNANSWERED


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(_OfRequest):
    """The client disconnected before a result had started, `seconds` after the processing of the request began."""

    seconds: float
    log = log_events.CANCELLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(_OfRequest):
    """A started answer has ended with `outcome`; both times are seconds since processing of the request began.

    `outcome`: `success`, `fallback` (success after Ray failed), `error` or `cancelled`. `attempts`: requests sent to
    all providers. `prompt_tokens`, `completion_tokens`: None if the engine did not report them.
    """

    provider: str
    endpoint: str
    attempts: int
    fallback: bool
    outcome: Outcome
    adapter_version: str
    first_token_seconds: float
    seconds: float
    reason: FallbackReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    moves: int = 0
    """Number of mid-stream failovers."""
    cache: Literal["hit", "shared", "miss"] | None = None
    """`hit`: stored answer; `shared`: generation of an identical request; `miss`: generated; None: not cacheable."""
    log = log_events.ANSWERED


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsEnded(_OfRequest):
    """A request for the vectors of `texts` texts ended with `outcome`, `seconds` after its processing began.

    `outcome`: `success`, `fallback` (success after Ray failed) or `cancelled` (the client left; then `provider` is
    `none` if no piece was embedded yet). If all providers fail, `Unanswered` is emitted instead. `attempts`: the most
    requests that were sent for one piece of the batch.
    """

    provider: str
    endpoint: str
    attempts: int
    fallback: bool
    outcome: Outcome
    texts: int
    seconds: float
    reason: FallbackReason | None = None
    prompt_tokens: int | None = None
    log = log_events.EMBEDDINGS


def ray_event(config: InferenceConfig) -> RayEnabled | RayDisabled:
    """The event to emit at start: whether requests are sent to Ray and, if not, why."""
    if config.ray_active:
        return RayEnabled(endpoints=tuple("".join(split_label(url)) for url in config.endpoints))
    if not config.endpoints:
        return RayDisabled(reason="empty_url_configuration")
    return RayDisabled(reason="disabled_by_configuration")


@functools.lru_cache(maxsize=64)
def split_label(url: str) -> tuple[str, str]:
    """Split the URL of an endpoint into host with port, and path; credentials and query are left out.

    For `http://user@host:8000/app?x=1` the result is `("host:8000", "/app")`. Without a path it is `/`.
    """
    return endpoint_label(url), urlsplit(url).path or "/"
