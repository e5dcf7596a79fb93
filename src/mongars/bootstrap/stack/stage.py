"""The steps of a start, reported as they begin, progress and end."""

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
"""Takes what is being done and which fraction of it is, if known. Raises `Abandoned` once nobody
waits for the work any more; let it pass."""

Work = Callable[[StageProgress], str]
"""Blocking work, done in a thread; returns a note about the outcome for the screen."""


class Abandoned(Exception):
    """The start was broken off; the work should end."""


@dataclass(slots=True)
class StageDetail:
    """The note shown for a stage once it is done."""

    detail: str = ""


class Stages:
    """Reports each stage and how long it took to the listener."""

    def __init__(self, *, clock: Clock, listener: Listener) -> None:
        self._clock = clock
        self._listener = listener
        self._abandoned = threading.Event()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[StageDetail]:
        """One stage, as long as the block runs."""
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
        """One stage that is blocking work."""

        def progress(detail: str, fraction: float | None) -> None:
            if self._abandoned.is_set():
                raise Abandoned
            event = StageEvent(stage=stage, state="progress", detail=detail, fraction=fraction)
            self._listener(event)

        with self.stage(stage) as outcome:
            outcome.detail = await asyncio.to_thread(work, progress)

    def abandon(self) -> None:
        """End work that still runs in threads at its next report of progress."""
        self._abandoned.set()

    def _tell(self, stage: Stage, state: StageState, *, began: float, detail: str = "") -> None:
        seconds = self._clock.monotonic() - began
        self._listener(StageEvent(stage=stage, state=state, detail=detail, seconds=seconds))
