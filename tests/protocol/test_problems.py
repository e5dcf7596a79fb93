"""Errors in response bodies and headers, written and read."""

from __future__ import annotations

import pytest

from mongars.core import errors
from mongars.protocol.generate import error_body
from mongars.protocol.openai import error_in
from mongars.protocol.problems import (
    STATUS,
    error_from,
    openai_body,
    retry_after_header,
    status_of,
)


@pytest.mark.parametrize(
    "kind", [kind for kind in STATUS if kind is not errors.AllProvidersFailed], ids=lambda k: k.code
)
def test_every_error_survives_the_wire(kind: type[errors.MongarsError]) -> None:
    """An error that the replica or the API writes is read by the client as the same class."""
    error = error_from(kind.code, "what happened", body={"prompt_tokens": 9, "context_tokens": 4})
    assert type(error_in(error_body(error, adapter_version="v1"))) is kind
    assert type(error_in(openai_body(error))) is kind
    assert status_of(error) == STATUS[kind]


def test_context_numbers_survive_the_wire() -> None:
    """Both token numbers of `ContextLengthExceeded` are in the body and are read again."""
    error = errors.ContextLengthExceeded(prompt_tokens=900, context_tokens=512)
    for body in (error_body(error, adapter_version="v1"), openai_body(error)):
        read = error_in(body)
        assert isinstance(read, errors.ContextLengthExceeded)
        assert (read.prompt_tokens, read.context_tokens) == (900, 512)


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (errors.Overloaded("x", retry_after=2.1), "3"),
        (errors.Overloaded("x"), "1"),
        (errors.NotReady("x", retry_after=0.01), "1"),
        (errors.InferenceFailed("x"), None),
    ],
    ids=["rounded-up", "unknown", "at-least-one", "none"],
)
def test_retry_after_is_in_whole_seconds(error: errors.MongarsError, header: str | None) -> None:
    """`Retry-After` is rounded up to whole seconds, and at least 1."""
    assert retry_after_header(error).get("Retry-After") == header


def test_all_providers_failed_tells_busy_from_broken() -> None:
    """If all providers failed: 503 with the wait if one was overloaded, else 504 for a passed deadline, else 502."""
    down = errors.EndpointUnreachable("down")
    busy = errors.AllProvidersFailed(
        (("ray_serve", down), ("embedded", errors.Overloaded("full", retry_after=4)))
    )
    assert status_of(busy) == 503
    assert retry_after_header(busy) == {"Retry-After": "4"}
    late = errors.AllProvidersFailed((("ray_serve", errors.DeadlineExceeded("late")),))
    assert status_of(late) == 504
    broken = errors.AllProvidersFailed((("ray_serve", down),))
    assert status_of(broken) == 502
    assert "ray_serve" in str(broken)
    assert retry_after_header(broken) == {}


def test_unknown_codes_are_failures_not_successes() -> None:
    """An unknown error code, as of another version, is read as `InferenceFailed`."""
    assert isinstance(error_in({"error": "new_code", "detail": "x"}), errors.InferenceFailed)
    assert isinstance(error_in({"error": True}), errors.InferenceFailed)
