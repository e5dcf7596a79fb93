"""What happens while a question is answered, as frozen events; telemetry decides what they become.

No event holds a prompt, an answer or a credential. `name` is the stable name of the log line.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from mongars.core.urls import endpoint_label

if TYPE_CHECKING:
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
"""How a request ended; the same words in every metric and log line. `cancelled`: the client left."""

_FAILURE_NAMES: dict[AttemptFailure, str] = {
    "server_error": "llm.ray.server_error",
    "client_error": "llm.ray.error_response",
    "transport_error": "llm.ray.transport_error",
    "timeout": "llm.ray.transport_error",
    "error_response": "llm.ray.error_response",
    "empty_response": "llm.ray.empty_response",
    "invalid_json": "llm.ray.invalid_json",
    "interrupted": "llm.ray.transport_error",
}


@functools.cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    def fields(self) -> dict[str, object]:
        """The facts, ready to be logged; None is left out."""
        found = ((name, getattr(self, name)) for name in _names(type(self)))  # type: ignore[arg-type] # classes are hashable
        return {name: value for name, value in found if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEnabled(_Fields):
    """Ray takes part; emitted once."""

    endpoints: tuple[str, ...]
    name = "llm.ray.enabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class RayDisabled(_Fields):
    """Ray takes no part: local providers are the first choice; emitted once."""

    reason: Literal["disabled_by_configuration", "empty_url_configuration"]
    name = "llm.ray.disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt(_Fields):
    request_id: str
    task_type: str
    endpoint: str
    path: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted(_Attempt):
    """A request goes out to a Ray endpoint."""

    name = "llm.ray.dispatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSkipped(_Fields):
    """A request was not sent to this endpoint, and to no other: by `reason`, its state."""

    request_id: str
    task_type: str
    endpoint: str
    path: str
    reason: str
    name = "llm.ray.skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSeen(_Attempt):
    """A Ray endpoint is healthy but asks for patience; it is left alone for `delay_seconds`."""

    status_code: int | None
    delay_seconds: float
    name = "llm.ray.scaling"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(_Attempt):
    """An attempt on Ray failed, before or (`interrupted`) after its first token."""

    reason: AttemptFailure
    error: str
    status_code: int | None = None
    detail: str | None = None
    """Why no connection came about or it broke, and what to do."""

    @property
    def name(self) -> str:
        """The log name that belongs to the reason."""
        return _FAILURE_NAMES[self.reason]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSucceeded(_Attempt):
    """A Ray answer came to its end; times run from the start of this attempt."""

    first_token_seconds: float
    seconds: float
    name = "llm.ray.success"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedged(_Fields):
    """A second attempt went to this endpoint, `after_seconds`; it `won` if it gave the answer."""

    request_id: str
    task_type: str
    endpoint: str
    path: str
    after_seconds: float
    outcome: Literal["won", "lost"]
    name = "llm.ray.hedge"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChanged(_Fields):
    """A Ray endpoint went down, or was found to be reachable again."""

    endpoint: str
    path: str
    state: Literal["down", "reachable"]
    detail: str | None = None
    """Why it cannot be reached, if a background probe found that out."""

    @property
    def name(self) -> str:
        """`llm.ray.endpoint_down` or `llm.ray.endpoint_reachable`."""
        return f"llm.ray.endpoint_{self.state}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack(_Fields):
    """Ray could not begin an answer; the local providers take over. `cause` is an error code."""

    request_id: str
    task_type: str
    reason: FallbackReason
    cause: str
    name = "llm.ray.fallback_local"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFailed(_Fields):
    """A local provider could not begin an answer."""

    request_id: str
    task_type: str
    provider: str
    cause: str

    @property
    def name(self) -> str:
        """`llm.ollama.error` or `llm.embedded.error`."""
        return f"llm.{self.provider}.error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved(_Fields):
    """An answer was cut in the middle and goes on elsewhere, exactly or from its beginning."""

    request_id: str
    task_type: str
    provider: str
    endpoint: str
    kind: Literal["continued", "restarted"]
    name = "llm.moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class LargerContext(_Fields):
    """A prompt of `prompt_tokens` was too long for one model; another, that holds it, answers."""

    request_id: str
    task_type: str
    provider: str
    endpoint: str
    prompt_tokens: int
    context_tokens: int
    """What the first model holds; 0 if it did not say."""
    name = "llm.larger_context"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered(_Fields):
    """Every provider failed; `cause` is the error code the caller gets. `seconds` were spent."""

    request_id: str
    task_type: str
    cause: str
    seconds: float
    name = "llm.unanswered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(_Fields):
    """A response began, and ended as `outcome` says; times run from the request's arrival."""

    request_id: str
    task_type: str
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
    """How often it was cut and went on elsewhere."""
    cache: Literal["hit", "shared", "miss"] | None = None
    """Of a question whose answer may be kept: whether it was stored, in the making, or asked for."""
    name = "llm.answered"


def ray_event(config: InferenceConfig) -> RayEnabled | RayDisabled:
    """What the configuration says about Ray."""
    if config.ray_active:
        return RayEnabled(endpoints=tuple("".join(split_label(url)) for url in config.endpoints))
    if not config.endpoints:
        return RayDisabled(reason="empty_url_configuration")
    return RayDisabled(reason="disabled_by_configuration")


@functools.lru_cache(maxsize=64)
def split_label(url: str) -> tuple[str, str]:
    """Host with port, and path, of an endpoint; never its credentials or query."""
    return endpoint_label(url), urlsplit(url).path or "/"
