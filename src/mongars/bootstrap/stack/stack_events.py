"""The events of the local stack while it starts, runs and stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["leftovers", "ports", "model", "database", "ray", "serve", "api", "worker", "stop"]
StageState = Literal["started", "progress", "done", "failed"]
ChildState = Literal["started", "ready", "crashed", "restarting", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEvent:
    """A step of starting or stopping. `fraction` is how much of it is done, where that is known."""

    stage: Stage
    state: StageState
    detail: str = ""
    fraction: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEvent:
    """Something happened to a supervised process.

    `code` belongs to `crashed` (negative: the signal that ended it), `delay` to `restarting`
    (seconds until then), `forced` to `stopped` (whether it had to be killed).
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
    """A remark for the person watching."""

    text: str
    serious: bool = False


StackEvent = StageEvent | ChildEvent | Notice
Listener = Callable[[StackEvent], None]
"""Called from the event loop, and for a stage's progress from its worker thread; must not block."""
