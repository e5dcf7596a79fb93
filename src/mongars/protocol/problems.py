"""Maps exceptions to HTTP statuses and error codes, to write error responses and to read them."""

from __future__ import annotations

import math
from typing import Any

from mongars.core import errors
from mongars.core.errors import CallerError, MongarsError

STATUS: dict[type[MongarsError], int] = {
    errors.InvalidRequest: 400,
    errors.ParameterUnsupported: 400,
    errors.PromptMissing: 400,
    errors.ContextLengthExceeded: 400,
    errors.NotAuthenticated: 401,
    errors.Forbidden: 403,
    errors.ModelUnknown: 404,
    errors.AdapterUnknown: 404,
    errors.NotFound: 404,
    errors.NotReady: 409,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.EncodingUnsupported: 415,
    errors.TooManyRequests: 429,
    errors.InferenceFailed: 500,
    errors.GenerationInterrupted: 500,
    errors.InvalidAnswer: 502,
    errors.EndpointUnreachable: 502,
    errors.AdapterUnavailable: 502,
    errors.AdapterRejected: 502,
    errors.Overloaded: 503,
    errors.StorageUnavailable: 503,
    errors.ProvisioningFailed: 503,
    errors.AllProvidersFailed: 502,
    errors.DeadlineExceeded: 504,
}

OPENAI_CODES = {
    errors.NotAuthenticated.code: "invalid_api_key",
    errors.ModelUnknown.code: "model_not_found",
    errors.TooManyRequests.code: "rate_limit_exceeded",
}
"""Error codes of this program that are replaced in OpenAI's format, because its clients expect other codes."""

_OURS = {theirs: ours for ours, theirs in OPENAI_CODES.items()}
_BY_CODE: dict[str, type[MongarsError]] = {kind.code: kind for kind in STATUS}


LONGEST_WAIT = 3600.0
"""Maximum value in seconds of a `Retry-After` header sent to clients."""

MOST_TOKENS = 2**53
"""Largest accepted token count: JSON parsers may not represent larger integers exactly."""


def status_of(error: MongarsError) -> int:
    """The HTTP status of the response for an exception; 500 if neither its class nor a base class is in `STATUS`.

    For `AllProvidersFailed`: 503 if a provider reported when to retry, else 504 if one ran out of time, else 502.
    """
    if isinstance(error, errors.AllProvidersFailed):
        return _status_of_all(error)
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def _status_of_all(error: errors.AllProvidersFailed) -> int:
    if error.busy:
        return 503
    if any(isinstance(cause, errors.DeadlineExceeded) for _, cause in error.causes):
        return 504
    return 502


def retry_after_header(error: MongarsError) -> dict[str, str]:
    """The header `Retry-After` for an error response, in whole seconds, rounded up, from 1 to 3600.

    It is set for `NotReady`, `Overloaded`, `TooManyRequests` (1 if no time is known), and for `AllProvidersFailed` if a
    provider reported when to retry. For other errors the result is empty.
    """
    if not isinstance(error, errors.RetryableLater | errors.AllProvidersFailed):
        return {}
    if isinstance(error, errors.AllProvidersFailed) and not error.busy:
        return {}
    seconds = 1.0 if error.retry_after is None else error.retry_after
    return {"Retry-After": str(math.ceil(min(LONGEST_WAIT, max(1.0, seconds))))}


def read_count(value: object) -> int:
    """Check a token count received from a server, and return it as an integer; a fraction is cut off.

    Raises `TypeError` if the value is not a number, `ValueError` if it is negative or above `MOST_TOKENS` (2**53).
    """
    if not isinstance(value, int | float):
        detail = "a count is no number"
        raise TypeError(detail)
    if not 0 <= value <= MOST_TOKENS:
        detail = f"a count is not between 0 and {MOST_TOKENS}"
        raise ValueError(detail)
    return int(value)


def count_or_0(value: object) -> int:
    """A token count received from a server as an integer; 0 if it is not a number, negative or above `MOST_TOKENS`."""
    try:
        return read_count(value)
    except (TypeError, ValueError):
        return 0


def error_from(
    code: str,
    detail: str,
    *,
    retry_after: float | None = None,
    body: dict[str, Any] | None = None,
) -> MongarsError:
    """The exception for an error that a server reports with `code` and message `detail`.

    `InferenceFailed` for an unknown code, and for that of `AllProvidersFailed`. `retry_after`: seconds until a retry
    makes sense, None if unknown. `body`: the decoded error object, whose fields `param`, `prompt_tokens` and
    `context_tokens` are used.
    """
    kind = _BY_CODE.get(_OURS.get(code, code), errors.InferenceFailed)
    found = body or {}
    given = found.get("param")
    param = given if isinstance(given, str) else None
    if issubclass(kind, errors.ContextLengthExceeded):
        return kind(
            detail,
            prompt_tokens=count_or_0(found.get("prompt_tokens")),
            context_tokens=count_or_0(found.get("context_tokens")),
            param=param or "messages",
        )
    if issubclass(kind, CallerError):
        return kind(detail, param=param)
    if issubclass(kind, errors.RetryableLater):
        return kind(detail, retry_after=retry_after)
    if issubclass(kind, errors.AllProvidersFailed):
        return errors.InferenceFailed(detail)
    return kind(detail)


def error_facts(error: MongarsError) -> dict[str, Any]:
    """Fields of an error body besides message and code, for the facts that the error has.

    Keys: `param` (the invalid parameter), and for a prompt that is too long `prompt_tokens` and `context_tokens`.
    """
    facts: dict[str, Any] = {}
    if isinstance(error, CallerError) and error.param is not None:
        facts["param"] = error.param
    if isinstance(error, errors.ContextLengthExceeded):
        facts["prompt_tokens"] = error.prompt_tokens
        facts["context_tokens"] = error.context_tokens
    return facts


def openai_body(error: MongarsError) -> dict[str, Any]:
    """The JSON body of an error response in OpenAI's format.

    Its only key is `error`, an object with `message`, `type`, `param` (the invalid parameter, or None), `code` and,
    for a prompt that is too long, `prompt_tokens` and `context_tokens`.
    """
    kind = "invalid_request_error" if isinstance(error, CallerError) else "server_error"
    if isinstance(error, errors.TooManyRequests):
        kind = "requests"
    body: dict[str, Any] = {
        "message": str(error),
        "type": kind,
        "param": None,
        "code": OPENAI_CODES.get(error.code, error.code),
    }
    return {"error": {**body, **error_facts(error)}}
