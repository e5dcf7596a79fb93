"""Header names, spelled once."""

from __future__ import annotations

import contextlib
import math

from mongars.core.errors import InvalidRequest

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"
REQUEST_TIMEOUT_MS = "x-request-timeout-ms"
"""Milliseconds until the deadline of the client; the receiver stops by then."""
READ_TIMEOUT = "x-stainless-read-timeout"
"""Seconds the OpenAI clients wait for the next bytes; 600 unless their user chose otherwise."""
SESSION_ID = "x-session-id"

ADAPTER_VERSION = "x-adapter-version"
ADAPTER_DIGEST = "x-adapter-digest"
REPLICA_ID = "x-replica-id"
CONTINUED = "x-continued"
"""`true` where an answer goes on after `continue_from` instead of beginning anew."""

PROVIDER = "x-llm-provider"
ENDPOINT = "x-llm-endpoint"
ATTEMPTS = "x-llm-attempts"
FALLBACK = "x-llm-fallback"
CACHE = "x-llm-cache"
"""`hit`, `shared` or `miss`, where an answer may be kept."""
OVERHEAD_MS = "x-llm-overhead-ms"
"""Milliseconds until the first token in which no model server was waited for: ours."""
SHOULD_RETRY = "x-should-retry"
"""`false` tells the OpenAI clients not to repeat a request whose answer is final."""


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
"""What a page of another origin may read of a response (`Access-Control-Expose-Headers`)."""


def timeout_milliseconds(text: str | None) -> float | None:
    """The value of `x-request-timeout-ms`. Raises `InvalidRequest` unless a positive number."""
    if text is None:
        return None
    value = positive_number(text)
    if value is None:
        detail = f"Header {REQUEST_TIMEOUT_MS} must be a positive number, got {text[:40]!r}."
        raise InvalidRequest(detail)
    return value


def positive_number(text: str) -> float | None:
    """The number, finite and above zero; None for anything else."""
    with contextlib.suppress(ValueError):
        value = float(text)
        if value > 0 and math.isfinite(value):
            return value
    return None
