"""The names of all non-standard HTTP headers, and the parsing of header values that are numbers."""

from __future__ import annotations

import contextlib
import math

from mongars.core.errors import InvalidRequest

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"
REQUEST_TIMEOUT_MS = "x-request-timeout-ms"
"""Milliseconds for which the client waits for the response; the server then cancels the request."""
READ_TIMEOUT = "x-stainless-read-timeout"
"""Seconds for which OpenAI's client libraries wait for the next bytes; their default is 600."""
SESSION_ID = "x-session-id"

ADAPTER_VERSION = "x-adapter-version"
ADAPTER_DIGEST = "x-adapter-digest"
REPLICA_ID = "x-replica-id"
CONTINUED = "x-continued"
"""`true` if the response continues after the text of `continue_from`; absent if it starts from the beginning."""

PROVIDER = "x-llm-provider"
ENDPOINT = "x-llm-endpoint"
ATTEMPTS = "x-llm-attempts"
FALLBACK = "x-llm-fallback"
CACHE = "x-llm-cache"
"""`hit` (stored answer), `shared` (with an identical request) or `miss`; absent if the answer cannot be cached."""
OVERHEAD_MS = "x-llm-overhead-ms"
"""Milliseconds spent in this process before the first token, without the wait for model servers."""
SHOULD_RETRY = "x-should-retry"
"""`false` stops OpenAI's client libraries from retrying; sent with errors for which a retry cannot succeed."""


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
"""The response headers that scripts of other origins may read (CORS, `Access-Control-Expose-Headers`)."""


def timeout_milliseconds(text: str | None) -> float | None:
    """The value of the header `x-request-timeout-ms`, in milliseconds; `text` None, without the header, gives None.

    Raises `InvalidRequest` if the value is not a positive number.
    """
    if text is None:
        return None
    value = positive_number(text)
    if value is None:
        detail = f"Header {REQUEST_TIMEOUT_MS} must be a positive number, got {text[:40]!r}."
        raise InvalidRequest(detail)
    return value


def positive_number(text: str) -> float | None:
    """The text as a finite number above zero; None if it is not one."""
    with contextlib.suppress(ValueError):
        value = float(text)
        if value > 0 and math.isfinite(value):
            return value
    return None
