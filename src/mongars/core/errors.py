"""Every error monGARS raises on purpose, with a stable code per class.

```
MongarsError
├── CallerError                 the request is at fault: never retried, the message is shown to the client
│   ├── InvalidRequest          invalid_request
│   │   └── ParameterUnsupported    unsupported_parameter: another engine may support it
│   ├── PromptMissing           prompt_missing
│   ├── ContextLengthExceeded   context_length_exceeded (has both token counts)
│   ├── TooLarge                too_large
│   ├── EncodingUnsupported     unsupported_encoding
│   ├── ModelUnknown            model_unknown
│   ├── AdapterUnknown          adapter_unknown
│   ├── NotAuthenticated        not_authenticated
│   ├── Forbidden               forbidden
│   ├── NotFound                not_found
│   └── Conflict                conflict
└── WorldError                  something else failed: another endpoint or provider may succeed
    ├── NotReady                not_ready (may have retry_after)
    ├── Overloaded              overloaded (may have retry_after)
    ├── TooManyRequests         too_many_requests (has retry_after)
    ├── EndpointUnreachable     endpoint_unreachable: no response
    ├── InvalidAnswer           invalid_answer: an unusable response
    ├── AdapterUnavailable      adapter_unavailable: the pinned adapter is not in this engine
    ├── AdapterRejected         adapter_rejected (has the reason): an adapter or its registry is unusable
    ├── InferenceFailed         inference_failed
    │   └── GenerationInterrupted   generation_interrupted: cut after the first token
    ├── DeadlineExceeded        deadline_exceeded
    ├── StorageUnavailable      storage_unavailable
    ├── ProvisioningFailed      provisioning_failed
    └── AllProvidersFailed      all_providers_failed (has every cause)
ConfigurationError              misconfiguration: prevents the start, names the variable
```

`protocol.problems` maps these to HTTP status codes and stream events, and back.
"""

from __future__ import annotations

from typing import ClassVar


class MongarsError(Exception):
    """Base class of all errors that monGARS raises on purpose. `str(error)` is safe to show to a client.

    `code` identifies the class in responses and logs, such as `not_ready`. `detail` is the message; without it,
    `str(error)` is the code.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.code)
        self.detail = detail


class ConfigurationError(MongarsError):
    """A setting is wrong, or something required is not installed; the message names it and describes a remedy."""

    code = "configuration_error"


class CallerError(MongarsError):
    """Base class of errors for which the request itself is at fault; sending it again, to any server, fails again."""

    code = "invalid_request"

    def __init__(self, detail: str = "", *, param: str | None = None) -> None:
        """`param`: the field at fault, such as `messages[0].content`; None if it is no single one.

        `detail`: the message; empty: the error's code.
        """
        super().__init__(detail)
        self.param = param


class InvalidRequest(CallerError):
    """The request is malformed, or a value has the wrong type."""


class ParameterUnsupported(InvalidRequest):
    """The engine does not support a parameter of the request; another engine may."""

    code = "unsupported_parameter"

    @classmethod
    def by(cls, *, engine: str, param: str) -> ParameterUnsupported:
        """Make the error for the request field `param`, which the engine named `engine` does not support."""
        detail = f"{param}: the {engine} engine does not support it. Leave it out."
        return cls(detail, param=param)


class PromptMissing(CallerError):
    """The request contains no message to answer."""

    code = "prompt_missing"


class ContextLengthExceeded(CallerError):
    """The prompt, or a text to embed, has more tokens than fit into the model's context window.

    `prompt_tokens` and `context_tokens` are the size of both in tokens; 0: unknown. That of a text to embed may be only
    a lower bound: counting ends where it exceeds `context_tokens`. `detail`: the message; empty: one
    with these numbers. `param`: the request field with the text.
    """

    code = "context_length_exceeded"

    def __init__(
        self,
        detail: str = "",
        *,
        prompt_tokens: int = 0,
        context_tokens: int = 0,
        param: str = "messages",
    ) -> None:
        # Client libraries recognise this error by these words: "prompt is too long" (LangChain) and
        # "This model's maximum context length is" (LiteLLM).
        super().__init__(
            detail
            or f"The prompt is too long: {prompt_tokens} tokens. This model's maximum context length"
            f" is {context_tokens} tokens, prompt and answer together. Please reduce the length of"
            f" the {param}.",
            param=param,
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class TooLarge(CallerError):
    """The request body is larger than the server accepts."""

    code = "too_large"


class EncodingUnsupported(CallerError):
    """The request body has a compression that the server does not support."""

    code = "unsupported_encoding"


class ModelUnknown(CallerError):
    """This server serves no model with the name in the request."""

    code = "model_unknown"


class AdapterUnknown(CallerError):
    """This server has no adapter with the name or digest in the request."""

    code = "adapter_unknown"


class NotAuthenticated(CallerError):
    """The request has no valid credentials."""

    code = "not_authenticated"


class Forbidden(CallerError):
    """The credentials are valid but do not permit this request."""

    code = "forbidden"


class NotFound(CallerError):
    """The requested resource does not exist."""

    code = "not_found"


class Conflict(CallerError):
    """The resource exists already, or its state does not permit the operation."""

    code = "conflict"


class WorldError(MongarsError):
    """Base class of errors that are not the request's fault; another endpoint or source of answers may succeed."""

    code = "inference_failed"


class RetryableLater(WorldError):
    """Base class of errors of a healthy server that cannot take the request now, but can later.

    `retry_after`: seconds until a retry makes sense; None: unknown.
    """

    code = "overloaded"

    def __init__(self, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotReady(RetryableLater):
    """The server or engine cannot answer now: it is starting, restarting, stopped, failed or scaling up."""

    code = "not_ready"


class Overloaded(RetryableLater):
    """The server or engine cannot process more requests, and its queue is full or longer than the deadline permits."""


class TooManyRequests(RetryableLater):
    """This client sends requests more often than its limit permits; other clients are still served."""

    code = "too_many_requests"


class EndpointUnreachable(WorldError):
    """The connection to an endpoint or server failed, or was closed before a response began."""

    code = "endpoint_unreachable"


class InvalidAnswer(WorldError):
    """A server or engine responded, but its response is unusable."""

    code = "invalid_answer"


class AdapterUnavailable(WorldError):
    """This source of answers does not have the adapter that the request demands; another one may."""

    code = "adapter_unavailable"


class AdapterRejected(WorldError):
    """An adapter, or the registry that it is in, is unusable; nothing of it is loaded or changed.

    `reason` is a stable code of what is wrong, such as `wrong_checksum`, for metrics, reports and tests.
    """

    code = "adapter_rejected"

    def __init__(self, detail: str = "", *, reason: str = "") -> None:
        """`reason`: empty if the error was received from another process, which sends the message only."""
        super().__init__(detail)
        self.reason = reason


class InferenceFailed(WorldError):
    """The engine failed to start, or to produce an answer."""


class GenerationInterrupted(InferenceFailed):
    """The stream of an answer was cut, or its text is unusable; the text received is incomplete."""

    code = "generation_interrupted"


class DeadlineExceeded(WorldError):
    """The request's deadline passed before the answer was complete."""

    code = "deadline_exceeded"


class StorageUnavailable(WorldError):
    """The database cannot be reached or written."""

    code = "storage_unavailable"


class ProvisioningFailed(WorldError):
    """A base model could not be downloaded or prepared; no incomplete files are left behind."""

    code = "provisioning_failed"


class AllProvidersFailed(WorldError):
    """Every source of answers (Ray Serve, Ollama, the embedded engine) that was tried for a request failed.

    `causes` has the name and the error of each, in the order of the attempts. `cure` is advice for the operator; empty
    if none is known. `retry_after`: the shortest of the causes, in seconds; None if none has one. `busy`: whether a
    cause has a `retry_after`, so that a retry makes sense.
    """

    code = "all_providers_failed"

    def __init__(self, causes: tuple[tuple[str, WorldError], ...], *, cure: str = "") -> None:
        parts = [f"{name}: {error.code} ({error})" for name, error in causes]
        super().__init__("; ".join([*parts, cure] if cure else parts))
        self.causes = causes
        waits = [
            error.retry_after
            for _, error in causes
            if isinstance(error, RetryableLater) and error.retry_after is not None
        ]
        self.retry_after = min(waits) if waits else None
        self.busy = bool(waits)
