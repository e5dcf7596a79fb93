"""Every error monGARS raises on purpose, with a stable code per class.

```
MongarsError
├── CallerError                 the caller's mistake: never retried, shown as it is
│   ├── InvalidRequest          invalid_request
│   │   └── ParameterUnsupported    unsupported_parameter: another engine may support it
│   ├── PromptMissing           prompt_missing
│   ├── ContextLengthExceeded   context_length_exceeded (carries both numbers)
│   ├── TooLarge                too_large
│   ├── EncodingUnsupported     unsupported_encoding
│   ├── ModelUnknown            model_unknown
│   ├── AdapterUnknown          adapter_unknown
│   ├── NotAuthenticated        not_authenticated
│   ├── Forbidden               forbidden
│   ├── NotFound                not_found
│   └── Conflict                conflict
└── WorldError                  the world's failure: another endpoint or tier may do better
    ├── NotReady                not_ready (may carry retry_after)
    ├── Overloaded              overloaded (may carry retry_after)
    ├── TooManyRequests         too_many_requests (carries retry_after)
    ├── EndpointUnreachable     endpoint_unreachable: nothing came back
    ├── InvalidAnswer           invalid_answer: something came back that is no answer
    ├── AdapterUnavailable      adapter_unavailable: the pinned adapter is not in this engine
    ├── InferenceFailed         inference_failed
    │   └── GenerationInterrupted   generation_interrupted: cut after the first token
    ├── DeadlineExceeded        deadline_exceeded
    ├── StorageUnavailable      storage_unavailable
    ├── ProvisioningFailed      provisioning_failed
    └── AllProvidersFailed      all_providers_failed (carries every cause)
ConfigurationError              misconfiguration: stops the start, names the variable
```

`protocol.problems` maps these to HTTP status codes and stream events, both ways.
"""

from __future__ import annotations

from typing import ClassVar


class MongarsError(Exception):
    """Root of the tree. `str(error)` is safe to show to the caller."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.code)
        self.detail = detail


class ConfigurationError(MongarsError):
    """A setting is wrong; the message names it and describes a valid value."""

    code = "configuration_error"


class CallerError(MongarsError):
    """The request itself is at fault; sending it again, anywhere, cannot help."""

    code = "invalid_request"

    def __init__(self, detail: str = "", *, param: str | None = None) -> None:
        """`param`: the field that is at fault, such as `messages[0].content`."""
        super().__init__(detail)
        self.param = param


class InvalidRequest(CallerError):
    """Malformed or wrongly typed."""


class ParameterUnsupported(InvalidRequest):
    """The engine cannot do what a parameter demands; another one may."""

    code = "unsupported_parameter"

    @classmethod
    def by(cls, *, engine: str, param: str) -> ParameterUnsupported:
        """That engine has nothing like that parameter."""
        detail = f"{param}: the {engine} engine does not support it. Leave it out."
        return cls(detail, param=param)


class PromptMissing(CallerError):
    """There is nothing to answer."""

    code = "prompt_missing"


class ContextLengthExceeded(CallerError):
    """The prompt, in tokens, does not fit the model's context window."""

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
            " the messages.",
            param=param,
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class TooLarge(CallerError):
    """The request body is larger than the server reads."""

    code = "too_large"


class EncodingUnsupported(CallerError):
    """The request body is compressed in a way the server does not read."""

    code = "unsupported_encoding"


class ModelUnknown(CallerError):
    """No model of that name is served here."""

    code = "model_unknown"


class AdapterUnknown(CallerError):
    """No adapter of that name or digest is served here."""

    code = "adapter_unknown"


class NotAuthenticated(CallerError):
    """No valid credentials came with the request."""

    code = "not_authenticated"


class Forbidden(CallerError):
    """The credentials are valid but do not allow this."""

    code = "forbidden"


class NotFound(CallerError):
    """The requested resource does not exist."""

    code = "not_found"


class Conflict(CallerError):
    """The thing exists already, or its state does not allow this."""

    code = "conflict"


class WorldError(MongarsError):
    """Something outside the request failed; another endpoint or tier may do better."""

    code = "inference_failed"


class RetryableLater(WorldError):
    """A healthy server that cannot take the request now. `retry_after` is in seconds from now."""

    code = "overloaded"

    def __init__(self, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotReady(RetryableLater):
    """Starting up, or scaling: nothing can be answered yet."""

    code = "not_ready"


class Overloaded(RetryableLater):
    """Every slot and the queue behind them are taken."""


class TooManyRequests(RetryableLater):
    """This client sends requests too often; other clients are still served."""

    code = "too_many_requests"


class EndpointUnreachable(WorldError):
    """The connection failed, or closed before an answer began."""

    code = "endpoint_unreachable"


class InvalidAnswer(WorldError):
    """The peer answered, but not with anything usable."""

    code = "invalid_answer"


class AdapterUnavailable(WorldError):
    """This provider does not hold the adapter that the request pins; another provider may."""

    code = "adapter_unavailable"


class InferenceFailed(WorldError):
    """The engine failed to produce an answer."""


class GenerationInterrupted(InferenceFailed):
    """The answer was cut after its first token; what came is not complete."""

    code = "generation_interrupted"


class DeadlineExceeded(WorldError):
    """Time ran out before an answer, or its next token, came."""

    code = "deadline_exceeded"


class StorageUnavailable(WorldError):
    """The database cannot be reached or written."""

    code = "storage_unavailable"


class ProvisioningFailed(WorldError):
    """A base model could not be made ready; nothing half-done was left behind."""

    code = "provisioning_failed"


class AllProvidersFailed(WorldError):
    """Every provider of the chain failed; `causes` holds one error per provider, in order.

    `cure` is what an operator can do about it, if that is known.
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
