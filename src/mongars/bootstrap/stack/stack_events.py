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
    """The start, progress or end of one stage of starting or stopping the local stack.

    `state` is `started`, `progress`, `done` or `failed`. `detail` is text for the terminal; `fraction` the finished
    part, 0 to 1, None if unknown. `seconds` is how long the stage took, with `done` and `failed` only.
    """

    stage: Stage
    state: StageState
    detail: str = ""
    fraction: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEvent:
    """A change of state of the child process named `child`; `state` is the new one.

    It is `started`, `ready`, `crashed`, `restarting` or `stopped`. `code` is set with `crashed` (the exit status;
    negative: the signal that ended it), `detail` with `crashed` (a line of its log), `delay` with `restarting` (seconds
    until the restart), `forced` with `stopped` (it had to be killed).
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
    """A message (`text`) about the stack for the user of the terminal; `serious` True marks a failure."""

    text: str
    serious: bool = False


StackEvent = StageEvent | ChildEvent | Notice
Listener = Callable[[StackEvent], None]
"""Receives the events. Called from the event loop, and for a stage's progress from a worker thread; must not block."""
