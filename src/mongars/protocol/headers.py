"""The names of the HTTP headers, each defined once, and the parsing of two of them."""

from __future__ import annotations

import contextlib
import math

from mongars.core.errors import InvalidRequest

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"
REQUEST_TIMEOUT_MS = "x-request-timeout-ms"
"""Milliseconds that the client will wait; the receiver cancels the request after that."""
READ_TIMEOUT = "x-stainless-read-timeout"
"""Seconds that OpenAI's client libraries wait for the next bytes; their default is 600."""
SESSION_ID = "x-session-id"

ADAPTER_VERSION = "x-adapter-version"
ADAPTER_DIGEST = "x-adapter-digest"
REPLICA_ID = "x-replica-id"
CONTINUED = "x-continued"
"""`true` if the answer continues after the request's `continue_from`; absent if it starts from the beginning."""

PROVIDER = "x-llm-provider"
ENDPOINT = "x-llm-endpoint"
ATTEMPTS = "x-llm-attempts"
FALLBACK = "x-llm-fallback"
CACHE = "x-llm-cache"
"""`hit`, `shared` or `miss`; absent if the answer cannot be cached."""
OVERHEAD_MS = "x-llm-overhead-ms"
"""Milliseconds that the gateway itself added before the first token, without the wait for model servers."""
SHOULD_RETRY = "x-should-retry"
"""`false` makes OpenAI's client libraries not retry; sent where a retry cannot succeed."""


EXPOSED = (
    REQUEST_ID,
    ADAPTER_VERSION,
    ADAPTER_DIGEST,
    REPLICA_ID,
    CONTINUED,
    PROVIDER,
    ENDPOINT,
    ATTEMPTS,
    FALLBACK,
    CACHE,
    OVERHEAD_MS,
    SHOULD_RETRY,
    "Retry-After",
)
"""The response headers that scripts of other origins may read (`Access-Control-Expose-Headers`)."""


def timeout_milliseconds(text: str | None) -> float | None:
    """The value of `x-request-timeout-ms`; None without the header. Raises `InvalidRequest` unless a positive number."""
    if text is None:
        return None
    value = positive_number(text)
    if value is None:
        detail = f"Header {REQUEST_TIMEOUT_MS} must be a positive number, got {text[:40]!r}."
        raise InvalidRequest(detail)
    return value


def positive_number(text: str) -> float | None:
    """The text as a finite number above zero; None if it is anything else."""
    with contextlib.suppress(ValueError):
        value = float(text)
        if value > 0 and math.isfinite(value):
            return value
    return None
