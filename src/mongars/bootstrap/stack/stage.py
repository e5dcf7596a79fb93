"""The stages of starting and stopping a stack; reports their start, progress and end as events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.bootstrap.stack.stack_events import StageEvent
from mongars.core.errors import MongarsError

if TYPE_CHECKING:
    from mongars.bootstrap.stack.stack_events import Listener, Stage, StageState
    from mongars.core.clock import Clock

StageProgress = Callable[[str, float | None], None]
"""Called with a description of the current step and the finished fraction (0 to 1; None: unknown).

Raises `Abandoned` when the start was cancelled; the work must let it propagate.
"""

Work = Callable[[StageProgress], str]
"""A blocking function that is run in a thread; returns a text about its result for the terminal."""


class Abandoned(Exception):
    """Raised in the thread of a stage's work once the start of the stack is cancelled; the work must not catch it."""


@dataclass(slots=True)
class StageDetail:
    """The text about the result of a stage, such as a count; reported when the stage is done."""

    detail: str = ""


class Stages:
    """Runs the stages of starting the stack; reports the start, progress and end of each to `listener`."""

    def __init__(self, *, clock: Clock, listener: Listener) -> None:
        self._clock = clock
        self._listener = listener
        self._abandoned = threading.Event()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[StageDetail]:
        """Report `stage` as started and, when the context is left, as done, or as failed if an error leaves it.

        Set `detail` of the yielded object to a text that is reported with `done`.
        """
        began = self._clock.monotonic()
        outcome = StageDetail()
        self._tell(stage, "started", began=began)
        state: StageState = "failed"
        detail = "broken off"
        try:
            yield outcome
            state, detail = "done", outcome.detail
        except MongarsError as error:
            detail = str(error)
            raise
        finally:
            self._tell(stage, state, began=began, detail=detail)

    async def work(self, stage: Stage, work: Work) -> None:
        """Run blocking work in a thread and report it as one stage."""

        def progress(detail: str, fraction: float | None) -> None:
            if self._abandoned.is_set():
                raise Abandoned
            event = StageEvent(stage=stage, state="progress", detail=detail, fraction=fraction)
            self._listener(event)

        with self.stage(stage) as outcome:
            outcome.detail = await asyncio.to_thread(work, progress)

    def abandon(self) -> None:
        """Make work that still runs in a thread raise `Abandoned` at its next call of `StageProgress`."""
        self._abandoned.set()

    def _tell(self, stage: Stage, state: StageState, *, began: float, detail: str = "") -> None:
        seconds = self._clock.monotonic() - began
        self._listener(StageEvent(stage=stage, state=state, detail=detail, seconds=seconds))
