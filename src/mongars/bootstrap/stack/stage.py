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
    """Raised in the thread of a stage's work once the start of the stack is cancelled.

    It is raised when the work reports progress; the work must not catch it.
    """


@dataclass(slots=True)
class StageDetail:
    """The text about a stage's result, such as a count: set by the stage's code, reported when it is done."""

    detail: str = ""


class Stages:
    """The stages of starting and stopping the local stack: runs their work and reports their events to `listener`."""

    def __init__(self, *, clock: Clock, listener: Listener) -> None:
        self._clock = clock
        self._listener = listener
        self._abandoned = threading.Event()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[StageDetail]:
        """A context manager that reports `stage` as started, and on exit as done, or as failed if the block raises.

        The exception propagates. Set `detail` of the object it gives to a text that is reported with `done`.
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
        """Run the blocking function `work` in a thread, and report it as the stage `stage`.

        `work` is given a function to report its progress (a text, and the finished fraction from 0 to 1, or None if
        unknown), and returns a text that is reported with `done`. An exception of `work` is raised here, after the
        stage is reported as failed.
        """

        def progress(detail: str, fraction: float | None) -> None:
            if self._abandoned.is_set():
                raise Abandoned
            event = StageEvent(stage=stage, state="progress", detail=detail, fraction=fraction)
            self._listener(event)

        with self.stage(stage) as outcome:
            outcome.detail = await asyncio.to_thread(work, progress)

    def abandon(self) -> None:
        """Make work that runs in a thread raise `Abandoned` when it next reports progress, and so end."""
        self._abandoned.set()

    def _tell(self, stage: Stage, state: StageState, *, began: float, detail: str = "") -> None:
        seconds = self._clock.monotonic() - began
        self._listener(StageEvent(stage=stage, state=state, detail=detail, seconds=seconds))
