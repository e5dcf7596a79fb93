"""The events of one request, answer or embeddings, that its provider chain emits: fallbacks, failures and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from mongars.core.errors import InferenceFailed, ModelUnknown, MongarsError
from mongars.inference.events import Cancelled, FellBack, LocalFailed, Unanswered
from mongars.inference.retry.failures import EmptyAnswer

if TYPE_CHECKING:
    from mongars.core.clock import Clock
    from mongars.core.observe import Observer
    from mongars.inference.events import FallbackReason
    from mongars.inference.provider import ProviderName


class _Request(TypedDict):
    request_id: str
    task_type: str


class RequestReport:
    """Emits the events of one request to an observer. Create it when the processing of the request begins.

    Of the failures of providers that are not local (Ray), only the first one is reported, as one fallback.
    """

    def __init__(
        self, observer: Observer, clock: Clock, *, request_id: str, task_type: str
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._request = _Request(request_id=request_id, task_type=task_type)
        self._fell_back = False
        self.started_at = clock.monotonic()
        """When the processing of the request began, in monotonic seconds."""

    def seconds(self) -> float:
        """Seconds since the processing of the request began."""
        return self._clock.monotonic() - self.started_at

    def provider_failed(
        self, provider: ProviderName, error: MongarsError, *, local: bool
    ) -> FallbackReason | None:
        """Emit `LocalFailed` if the provider is `local`, else `FellBack`, which is emitted once per request only.

        `error`: the failure. Returns its label in metrics and logs; None for a local provider, whose failure is no
        fallback.
        """
        if local:
            failed = LocalFailed(**self._request, provider=provider, cause=error.code)
            self._observer.observe(failed)
            return None
        reason = fallback_reason(error)
        self.fell_back(reason, cause=error.code)
        return reason

    def fell_back(self, reason: FallbackReason, *, cause: str) -> None:
        """Emit `FellBack` unless it was emitted for this request before. `cause` is the code of Ray's error."""
        if self._fell_back:
            return
        self._fell_back = True
        self._observer.observe(FellBack(**self._request, reason=reason, cause=cause))

    def unanswered(self, error: MongarsError) -> None:
        """Emit `Unanswered`: every provider failed, and the client receives `error`."""
        ended = Unanswered(**self._request, cause=error.code, seconds=self.seconds())
        self._observer.observe(ended)

    def cancelled(self) -> None:
        """Emit `Cancelled`: the client disconnected before a result had started."""
        self._observer.observe(Cancelled(**self._request, seconds=self.seconds()))


def fallback_reason(error: MongarsError) -> FallbackReason:
    """The label in metrics and logs for why Ray gave no result, derived from the class of `error`.

    `empty_response` for `EmptyAnswer`, `error_response` for `InferenceFailed` and `ModelUnknown`, else `ray_exception`.
    """
    if isinstance(error, EmptyAnswer):
        return "empty_response"
    reported = isinstance(error, InferenceFailed | ModelUnknown)
    return "error_response" if reported else "ray_exception"
