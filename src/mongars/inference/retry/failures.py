"""What a failed attempt means for the request and for its endpoint: one pure table.

| failure_class  | seen as                                      | the request           | the endpoint      |
|----------|----------------------------------------------|-----------------------|-------------------|
| busy     | 429, a scaling status, `not_ready` inside 200 | rotates, may come back | left alone a while |
| broken   | 5xx, connection lost before content           | rotates, may come back | blamed            |
| unusable | empty, not JSON, malformed                    | rotates for good      | blamed            |
| silent   | no first token in time                        | rotates for good      | taken for down    |
| gone     | refused, no DNS, TLS, wrong path, our 401     | rotates for good      | taken for down    |

The caller's own mistake is no failed attempt: it is handed back as the error that it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mongars.core.errors import (
    CallerError,
    DeadlineExceeded,
    EndpointUnreachable,
    Forbidden,
    InferenceFailed,
    InvalidAnswer,
    InvalidRequest,
    MongarsError,
    NotAuthenticated,
    NotReady,
    Overloaded,
    RetryableLater,
    WorldError,
)
from mongars.protocol.openai import error_in

if TYPE_CHECKING:
    from mongars.inference.events import AttemptFailure

FailureClass = Literal["busy", "error", "invalid", "timeout", "unreachable"]

TOO_MANY_REQUESTS = 429
_NOT_READY = 409
_NOT_FOUND = 404
_OUR_CREDENTIALS = (NotAuthenticated, Forbidden)
_WRONG_ENDPOINT = frozenset({401, 403, 405})
_GAVE_UP = frozenset({408, 499})
"""Ray Serve's own words for a request it timed out or dropped: its failure, not the caller's."""


class EmptyAnswer(InvalidAnswer):
    """The peer finished without having said anything."""


class ConnectFailed(EndpointUnreachable):
    """No connection came about: refused, unresolved, no TLS, or too slow."""


class AttemptError(Exception):
    """One attempt failed; see the table. `retry_after` is what a busy peer asked for."""

    def __init__(
        self,
        error: WorldError,
        *,
        failure_class: FailureClass,
        reason: AttemptFailure,
        status: int | None = None,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.failure_class = failure_class
        self.reason = reason
        self.status = status

    @property
    def retry_after(self) -> float | None:
        """Seconds; None when the peer is not busy or did not say."""
        return self.error.retry_after if isinstance(self.error, RetryableLater) else None

    @property
    def unsent(self) -> bool:
        """Whether no connection came about, so that the endpoint has had no work from it."""
        return self.failure_class == "unreachable" and self.status is None


# Most specific first.
_MEANINGS: dict[type[WorldError], tuple[FailureClass, AttemptFailure]] = {
    RetryableLater: ("busy", "error_response"),
    EmptyAnswer: ("invalid", "empty_response"),
    InvalidAnswer: ("invalid", "invalid_json"),
    EndpointUnreachable: ("error", "transport_error"),
    WorldError: ("error", "error_response"),
}


def failure_of_status(
    status: int, body: dict[str, Any], *, scaling: frozenset[int], wait: float | None
) -> AttemptError | CallerError:
    """What an HTTP status other than 2xx means; `wait` is its `Retry-After` in seconds."""
    if status in scaling or status == TOO_MANY_REQUESTS:
        kind = NotReady if status == _NOT_READY else Overloaded
        busy = kind(_detail(body, f"The endpoint is busy ({status})."), retry_after=wait)
        return AttemptError(busy, failure_class="busy", reason="server_error", status=status)
    told = error_in(body) if body.get("error") else None
    misplaced = status == _NOT_FOUND and not isinstance(told, CallerError)
    if status in _WRONG_ENDPOINT or misplaced or status < 400:  # noqa: PLR2004 - redirects
        return unreachable(f"The endpoint is misconfigured: it answered {status}.", status=status)
    if status >= 500 or status in _GAVE_UP:  # noqa: PLR2004 - the server's own failures
        bare = InvalidAnswer(f"The endpoint answered {status}.")
        error = told if isinstance(told, WorldError) else bare
        return AttemptError(error, failure_class="error", reason="server_error", status=status)
    if isinstance(told, CallerError) and not isinstance(told, _OUR_CREDENTIALS):
        return told
    return InvalidRequest(_detail(body, f"The model server refused the request ({status})."))


def failure_of(error: MongarsError, *, status: int | None = None) -> AttemptError | CallerError:
    """What an error met inside an answer, before its first token, means."""
    if isinstance(error, _OUR_CREDENTIALS):
        return unreachable("The endpoint refused our credentials.", status=status)
    if isinstance(error, CallerError):
        return error
    if isinstance(error, ConnectFailed):
        return unreachable(str(error))
    world = error if isinstance(error, WorldError) else InferenceFailed(str(error))
    if error.detail == "scaling":  # the earlier replica's word, whatever the code beside it
        world = NotReady("The endpoint is scaling up.")
    kind = next(kind for kind in _MEANINGS if isinstance(world, kind))
    failure_class, reason = _MEANINGS[kind]
    return AttemptError(world, failure_class=failure_class, reason=reason, status=status)


def unreachable(detail: str, *, status: int | None = None) -> AttemptError:
    """Nothing that could answer is at that address."""
    reason: AttemptFailure = "transport_error" if status is None else "client_error"
    return AttemptError(
        EndpointUnreachable(detail), failure_class="unreachable", reason=reason, status=status
    )


def first_token_timeout(seconds: float) -> AttemptError:
    """No first token came in time."""
    error = DeadlineExceeded(f"No first token came within {seconds:.3g} s.")
    return AttemptError(error, failure_class="timeout", reason="timeout")


def _detail(body: dict[str, Any], otherwise: str) -> str:
    nested = body.get("error")
    inner = nested.get("message") if isinstance(nested, dict) else None
    detail = inner or body.get("detail") or body.get("message")
    return detail if isinstance(detail, str) else otherwise
