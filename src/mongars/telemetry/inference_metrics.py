"""The metrics of inference: which counters and histograms each of its events changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from mongars.inference.events import (
    Answered,
    AttemptFailed,
    AttemptSkipped,
    AttemptStarted,
    AttemptSucceeded,
    Cancelled,
    EmbeddingsEnded,
    FallbackReason,
    FellBack,
    Hedged,
    Moved,
    Outcome,
    RayEnabled,
    ScalingSeen,
    Unanswered,
)
from mongars.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.core.observe import Event
    from mongars.telemetry.instruments import Instruments


class InferenceMetrics:
    """An observer that updates the metrics of inference (requests, failures, tokens) from events of inference.

    The metrics are counters and histograms of an `Instruments` object. Other events are ignored.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._add = instruments.add
        self._record = instruments.record
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            AttemptStarted: self._attempt_started,
            AttemptFailed: self._attempt_failed,
            AttemptSkipped: self._attempt_skipped,
            AttemptSucceeded: self._attempt_succeeded,
            ScalingSeen: self._scaling_seen,
            Hedged: self._hedged,
            FellBack: self._fell_back,
            Moved: self._moved,
            Answered: self._answered,
            Cancelled: self._cancelled,
            Unanswered: self._unanswered,
            EmbeddingsEnded: self._embeddings_ended,
            RayEnabled: self._ray_enabled,
        }
        # A counter without a first value has no series: ratios over it are empty, and `increase`
        # misses the first event.
        for outcome in get_args(Outcome):
            self._add(names.REQUESTS, {"outcome": outcome}, 0)
        for reason in get_args(FallbackReason):
            self._add(names.RAY_FALLBACK, {"reason": reason}, 0)

    def observe(self, event: Event) -> None:
        """Update the metrics that depend on events of this event's class; does nothing if none do."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def _attempt_started(self, event: AttemptStarted) -> None:
        self._add(names.RAY_REQUESTS, _place(event, status="attempt", attempt=event.attempt))

    def _attempt_failed(self, event: AttemptFailed) -> None:
        where = _place(event, status="failure", reason=event.reason)
        self._add(names.RAY_FAILURES, _with_code(where, event.status_code))

    def _attempt_skipped(self, event: AttemptSkipped) -> None:
        self._add(names.RAY_REQUESTS, _place(event, status="skipped", attempt=0))
        where = _place(event, status="skipped", reason=f"endpoint_{event.reason}")
        self._add(names.RAY_FAILURES, where)

    def _attempt_succeeded(self, event: AttemptSucceeded) -> None:
        self._record(names.RAY_LATENCY, event.seconds, _place(event, status="success"))
        self._record(names.RAY_FIRST_TOKEN, event.first_token_seconds, _place(event))

    def _scaling_seen(self, event: ScalingSeen) -> None:
        where = _place(event, status="scaling", reason="status_code")
        self._add(names.RAY_SCALING, _with_code(where, event.status_code))

    def _hedged(self, event: Hedged) -> None:
        self._add(names.RAY_HEDGES, _place(event, outcome=event.outcome))

    def _fell_back(self, event: FellBack) -> None:
        self._add(names.RAY_FALLBACK, {"reason": event.reason})

    def _moved(self, event: Moved) -> None:
        self._add(names.MOVES, {"provider": event.provider, "kind": event.kind})

    def _answered(self, event: Answered) -> None:
        self._add(names.REQUESTS, {"outcome": event.outcome})
        where = {"provider": event.provider, "outcome": event.outcome}
        self._record(names.DURATION, event.seconds, where)
        if event.cache is not None:
            self._add(names.CACHE, {"outcome": event.cache})
        if event.cache in {"hit", "shared"}:
            return  # no engine generated these tokens for this request
        counts = (("input", event.prompt_tokens), ("output", event.completion_tokens))
        for kind, count in counts:
            if count is not None:
                self._add(names.TOKENS, {"provider": event.provider, "type": kind}, count)

    def _embeddings_ended(self, event: EmbeddingsEnded) -> None:
        self._add(names.REQUESTS, {"outcome": event.outcome})
        where = {"provider": event.provider, "outcome": event.outcome}
        self._record(names.DURATION, event.seconds, where)
        if event.prompt_tokens:
            counted = {"provider": event.provider, "type": "input"}
            self._add(names.TOKENS, counted, event.prompt_tokens)

    def _unanswered(self, event: Unanswered) -> None:
        self._without_provider("error", event.seconds)

    def _cancelled(self, event: Cancelled) -> None:
        self._without_provider("cancelled", event.seconds)

    def _without_provider(self, outcome: Outcome, seconds: float) -> None:
        """Count a request that ended without any content or vectors; its provider is `none`, its duration `seconds`.

        That is, all providers failed, or the client of a generated answer disconnected before its first content.
        """
        self._add(names.REQUESTS, {"outcome": outcome})
        self._record(names.DURATION, seconds, {"provider": "none", "outcome": outcome})

    def _ray_enabled(self, event: RayEnabled) -> None:
        """Create time series with the value 0 for every configured Ray Serve endpoint, before its first request."""
        for label in event.endpoints:
            endpoint, _, rest = label.partition("/")
            where = {"endpoint": endpoint, **({"path": f"/{rest}"} if rest else {})}
            self._add(names.RAY_REQUESTS, {**where, "status": "attempt", "attempt": 1}, 0)
            failure = {**where, "status": "failure", "reason": "transport_error"}
            self._add(names.RAY_FAILURES, failure, 0)


def _place(
    event: AttemptStarted
    | AttemptFailed
    | AttemptSkipped
    | ScalingSeen
    | AttemptSucceeded
    | Hedged,
    **more: str | int,
) -> dict[str, Any]:
    path = {} if event.path == "/" else {"path": event.path}
    return {"endpoint": event.endpoint, **path, **more}


def _with_code(attributes: dict[str, Any], code: int | None) -> dict[str, Any]:
    return attributes if code is None else {**attributes, "status_code": code}
