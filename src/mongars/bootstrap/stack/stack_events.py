"""The events that the local stack reports while it starts, runs and stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["leftovers", "ports", "model", "database", "ray", "serve", "api", "worker", "stop"]
StageState = Literal["started", "progress", "done", "failed"]
ChildState = Literal["started", "ready", "crashed", "restarting", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEvent:
    """The start, progress or end of one stage of starting or stopping; `seconds` is the time since it started.

    `fraction` is the finished part, 0 to 1; None if unknown.
    """

    stage: Stage
    state: StageState
    detail: str = ""
    fraction: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEvent:
    """A change of state of a supervised child process.

    `code` is set with `crashed` (the exit status; negative: the signal that ended it), `delay` with `restarting`
    (seconds until the restart), `forced` with `stopped` (whether the process had to be killed).
    """

    child: str
    state: ChildState
    pid: int | None = None
    code: int | None = None
    delay: float | None = None
    detail: str = ""
    forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A message for the user of the terminal; `serious` marks a failure."""

    text: str
    serious: bool = False


StackEvent = StageEvent | ChildEvent | Notice
Listener = Callable[[StackEvent], None]
"""Receives the events. Called from the event loop, and for a stage's progress from a worker thread; must not block."""
