from __future__ import annotations

from typing import Any

import pytest

from mongars.core.errors import (
    AdapterUnknown,
    CallerError,
    ContextLengthExceeded,
    DeadlineExceeded,
    EndpointUnreachable,
    InferenceFailed,
    InvalidAnswer,
    InvalidRequest,
    MongarsError,
    NotAuthenticated,
    NotReady,
    Overloaded,
    TooLarge,
)
from mongars.inference.retry.failures import (
    AttemptError,
    ConnectFailed,
    EmptyAnswer,
    failure_of,
    failure_of_status,
)

SCALING = frozenset({503, 409})


def told(code: str, detail: str = "because") -> dict[str, Any]:
    return {"content": "", "error": code, "detail": detail, "adapter_version": "v7"}


@pytest.mark.parametrize(
    ("status", "body", "failure_class", "error"),
    [
        (429, {}, "busy", Overloaded),
        (503, {}, "busy", Overloaded),
        (503, told("overloaded"), "busy", Overloaded),
        (409, told("not_ready"), "busy", NotReady),
        (500, {}, "error", InvalidAnswer),
        (500, told("inference_failed"), "error", InferenceFailed),
        (504, told("deadline_exceeded"), "error", DeadlineExceeded),
        (408, {}, "error", InvalidAnswer),
        (301, {}, "unreachable", EndpointUnreachable),
        (401, {}, "unreachable", EndpointUnreachable),
        (403, told("forbidden"), "unreachable", EndpointUnreachable),
        (404, {"detail": "Not Found"}, "unreachable", EndpointUnreachable),
        (405, {}, "unreachable", EndpointUnreachable),
    ],
    ids=lambda value: str(value) if isinstance(value, int | str) else "",
)
def test_what_a_status_means(
    status: int, body: dict[str, Any], failure_class: str, error: type[MongarsError]
) -> None:
    """Each status of an endpoint has its failure class and error; a 401 or 403 is not the client's error."""
    failure = failure_of_status(status, body, scaling=SCALING, wait=None)
    assert isinstance(failure, AttemptError)
    assert failure.failure_class == failure_class
    assert type(failure.error) is error
    assert failure.status == status


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, told("prompt_missing"), CallerError),
        (400, told("context_length_exceeded"), ContextLengthExceeded),
        (404, told("adapter_unknown"), AdapterUnknown),
        (413, told("too_large"), TooLarge),
        (422, {"detail": [{"msg": "field required"}]}, InvalidRequest),
        (400, {"error": {"code": "content_policy", "message": "No."}}, InvalidRequest),
        (400, told("not_authenticated"), InvalidRequest),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_client_errors_stay_client_errors(
    status: int, body: dict[str, Any], error: type[MongarsError]
) -> None:
    """Other 4xx statuses are returned as the client's error, because no other endpoint could answer."""
    failure = failure_of_status(status, body, scaling=SCALING, wait=None)
    assert isinstance(failure, error)
    assert not isinstance(failure, NotAuthenticated)


def test_numbers_of_a_context_overflow_arrive() -> None:
    """The error for too long a prompt has the endpoint's numbers: the prompt's tokens and the limit."""
    body = {**told("context_length_exceeded"), "prompt_tokens": 900, "context_tokens": 512}
    failure = failure_of_status(400, body, scaling=SCALING, wait=None)
    assert isinstance(failure, ContextLengthExceeded)
    assert (failure.prompt_tokens, failure.context_tokens) == (900, 512)


def test_the_configured_statuses_mean_scaling() -> None:
    """Statuses in `RAY_SCALING_STATUS_CODES` count as busy; 503 does not if it is not listed."""
    teapot = failure_of_status(418, {}, scaling=frozenset({418}), wait=3.0)
    assert isinstance(teapot, AttemptError)
    assert (teapot.failure_class, teapot.retry_after) == ("busy", 3.0)
    unavailable = failure_of_status(503, {}, scaling=frozenset({418}), wait=None)
    assert isinstance(unavailable, AttemptError)
    assert unavailable.failure_class == "error"


@pytest.mark.parametrize(
    ("error", "failure_class", "reason"),
    [
        (NotReady("scaling"), "busy", "error_response"),
        (InferenceFailed("scaling"), "busy", "error_response"),
        (InferenceFailed("boom"), "error", "error_response"),
        (EmptyAnswer("nothing"), "invalid", "empty_response"),
        (InvalidAnswer("not JSON"), "invalid", "invalid_json"),
        (EndpointUnreachable("closed"), "error", "transport_error"),
        (ConnectFailed("refused"), "unreachable", "transport_error"),
        (NotAuthenticated("key"), "unreachable", "transport_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_an_error_inside_an_answer_means(
    error: MongarsError, failure_class: str, reason: str
) -> None:
    """An error inside a 200 response has a failure class and a reason, as an error status has."""
    failure = failure_of(error)
    assert isinstance(failure, AttemptError)
    assert (failure.failure_class, failure.reason) == (failure_class, reason)
