"""Classification of failed attempts: what a failure means for the request and for its endpoint.

| class         | signal                                        | the request tries       | the endpoint         |
|---------------|-----------------------------------------------|-------------------------|----------------------|
| `busy`        | 429, a scaling status, `not_ready` inside 200 | others, then this again | not used for a while |
| `error`       | 5xx, connection lost before content           | others, then this again | failure counted      |
| `invalid`     | empty, not JSON, malformed                    | others only             | failure counted      |
| `timeout`     | no first token in time                        | others only             | breaker opens (*)    |
| `unreachable` | refused, no DNS, TLS, wrong path, our 401     | others only             | breaker opens        |
| `no_route`    | 404 or 405 of a route beside `/generate`      | others only             | nothing recorded     |

(*) Not if the client's deadline left less than half of the usual time; then an endpoint's 504 is not counted either.
Late embeddings only cause a probe of the endpoint, since chats do not wait in the embedder's queue.

An error in the client's request is not a failed attempt: it is returned as a `CallerError`.
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
    NotFound,
    NotReady,
    Overloaded,
    RetryableLater,
    WorldError,
)
from mongars.protocol.openai import error_in

if TYPE_CHECKING:
    from mongars.inference.events import AttemptFailure

FailureClass = Literal["busy", "error", "invalid", "timeout", "unreachable", "no_route"]

TOO_MANY_REQUESTS = 429
_NOT_READY = 409
_NOT_FOUND = 404
_OUR_CREDENTIALS = (NotAuthenticated, Forbidden)
_WRONG_ENDPOINT = frozenset({401, 403, 405})
_DROPPED = frozenset({408, 499})
"""HTTP statuses with which Ray Serve reports that it dropped a request or timed out: server failures."""


class EmptyAnswer(InvalidAnswer):
    """An endpoint's answer ended without any text."""


class ConnectFailed(EndpointUnreachable):
    """No connection to a server was established: refused, name not resolved, TLS failed, or connect timeout."""


class AttemptError(Exception):
    """One attempt at a Ray endpoint failed; another attempt may succeed.

    `error`: the error to raise if there is no further attempt. `failure_class`: after `busy` and `error` (5xx, broken
    connection), the request may try this endpoint again later; after `invalid` (malformed answer), `timeout` (no first
    token in time), `unreachable` and `no_route` (404 or 405 of a route), only others. `reason`: the label in metrics
    and logs, such as `server_error`. `status`: the response's HTTP status, None without one.
    """

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
        """Seconds until a retry makes sense, as the endpoint reported; None if it is not busy or reported no time."""
        return self.error.retry_after if isinstance(self.error, RetryableLater) else None

    @property
    def is_late(self) -> bool:
        """Whether the time was too short: a timeout here, or a response that the endpoint could not meet the deadline."""
        return isinstance(self.error, DeadlineExceeded)

    @property
    def unsent(self) -> bool:
        """Whether the endpoint did no work for the attempt: no connection was established, or it lacks the route."""
        no_connection = self.failure_class == "unreachable" and self.status is None
        return no_connection or self.failure_class == "no_route"


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
    """The error for a response with an HTTP status other than 2xx: a `CallerError` if the request itself is wrong.

    Else it is an `AttemptError`. `body`: the decoded JSON of the response, empty if it has none. `scaling`: statuses
    that mean a busy endpoint, in addition to 429. `wait`: seconds from `Retry-After`, None without it.
    """
    if status in scaling or status == TOO_MANY_REQUESTS:
        kind = NotReady if status == _NOT_READY else Overloaded
        busy = kind(_detail(body, f"The endpoint is busy ({status})."), retry_after=wait)
        return AttemptError(busy, failure_class="busy", reason="server_error", status=status)
    reported = error_in(body) if body.get("error") else None
    named = isinstance(reported, CallerError) and not isinstance(reported, NotFound)
    misplaced = status == _NOT_FOUND and not named
    if status in _WRONG_ENDPOINT or misplaced or status < 400:  # noqa: PLR2004 - redirects
        return unreachable(f"The endpoint is misconfigured: it answered {status}.", status=status)
    if status >= 500 or status in _DROPPED:  # noqa: PLR2004 - the server's own failures
        bare = InvalidAnswer(f"The endpoint answered {status}.")
        error = reported if isinstance(reported, WorldError) else bare
        return AttemptError(error, failure_class="error", reason="server_error", status=status)
    if isinstance(reported, CallerError) and not isinstance(reported, _OUR_CREDENTIALS):
        return reported
    return InvalidRequest(_detail(body, f"The model server refused the request ({status})."))


def failure_of(error: MongarsError, *, status: int | None = None) -> AttemptError | CallerError:
    """The error for an attempt that failed with `error` before its first token.

    A `CallerError` is returned unchanged if the request itself is wrong; else, also if the endpoint refused the
    credentials of this process, the result is an `AttemptError`. `status`: the HTTP status, None without a response.
    """
    if isinstance(error, _OUR_CREDENTIALS):
        return unreachable("The endpoint refused our credentials.", status=status)
    if isinstance(error, CallerError):
        return error
    if isinstance(error, ConnectFailed):
        return unreachable(str(error))
    world = error if isinstance(error, WorldError) else InferenceFailed(str(error))
    if error.detail == "scaling":  # sent by earlier replicas, with any error code
        world = NotReady("The endpoint is scaling up.")
    kind = next(kind for kind in _MEANINGS if isinstance(world, kind))
    failure_class, reason = _MEANINGS[kind]
    return AttemptError(world, failure_class=failure_class, reason=reason, status=status)


def unreachable(detail: str, *, status: int | None = None) -> AttemptError:
    """The `AttemptError` for an endpoint at whose URL no Ray Serve application responds.

    `detail`: the error message. `status`: the HTTP status of the server there, None if there was no connection.
    """
    reason: AttemptFailure = "transport_error" if status is None else "client_error"
    return AttemptError(
        EndpointUnreachable(detail), failure_class="unreachable", reason=reason, status=status
    )


def no_route(detail: str, *, status: int) -> AttemptError:
    """The `AttemptError` for an endpoint that lacks a route other endpoints may have, such as that for embeddings.

    `detail`: the error message. `status`: the HTTP status of the response, 404 or 405.
    """
    return AttemptError(
        EndpointUnreachable(detail), failure_class="no_route", reason="client_error", status=status
    )


def start_timeout(seconds: float, *, awaited: str) -> AttemptError:
    """The `AttemptError` for an attempt whose result did not start within `seconds`.

    `awaited`: what did not arrive, for the message: `first token` or `result`.
    """
    error = DeadlineExceeded(f"No {awaited} arrived within {seconds:.3g} s.")
    return AttemptError(error, failure_class="timeout", reason="timeout")


def _detail(body: dict[str, Any], default: str) -> str:
    nested = body.get("error")
    inner = nested.get("message") if isinstance(nested, dict) else None
    detail = inner or body.get("detail") or body.get("message")
    return detail if isinstance(detail, str) else default
