"""Header names, spelled once."""

from __future__ import annotations

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"
REQUEST_TIMEOUT_MS = "x-request-timeout-ms"
"""Milliseconds the caller will still wait; the receiver gives up by then."""
SESSION_ID = "x-session-id"

ADAPTER_VERSION = "x-adapter-version"
ADAPTER_DIGEST = "x-adapter-digest"
REPLICA_ID = "x-replica-id"

PROVIDER = "x-llm-provider"
ENDPOINT = "x-llm-endpoint"
ATTEMPTS = "x-llm-attempts"
FALLBACK = "x-llm-fallback"
SHOULD_RETRY = "x-should-retry"
"""`false` tells the OpenAI clients not to repeat a request whose answer is final."""
