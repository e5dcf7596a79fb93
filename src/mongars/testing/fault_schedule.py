"""Choosing the fault for the next request of a fake replica."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from mongars.testing.faults import (
    Body,
    DisguisedError,
    FalseContinuation,
    Fault,
    FaultyResponse,
    Flapping,
    HugeEvent,
    InTurn,
    NoContinuation,
    Reset,
    Silence,
    SlowBody,
    Status,
    StrayAnswer,
    TrickledHead,
    WrongLength,
)

if TYPE_CHECKING:
    from mongars.core.clock import Clock

Behaviour: TypeAlias = (
    FaultyResponse
    | Status
    | Body
    | DisguisedError
    | Reset
    | Silence
    | TrickledHead
    | SlowBody
    | HugeEvent
    | WrongLength
    | StrayAnswer
    | FalseContinuation
)
"""A fault that depends on no condition: what a fake does with one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The conditions of one request on which faults such as `Flapping` and `InTurn` depend.

    They are whether the request asks to continue a broken answer (`continues`), the number of requests to which the
    fault was applied before (`turn`), and the seconds since it was set (`seconds`).
    """

    continues: bool
    """Whether the request has a `continue_from`: it asks to continue an answer."""
    turn: int = 0
    """The number of requests to which the fault was applied before."""
    seconds: float = 0.0
    """The seconds since the fault was set."""


class FaultSchedule:
    """The faults of a fake server: a queue `faults`, one for each request; while it is empty, `always` applies."""

    def __init__(self, *faults: Fault, clock: Clock) -> None:
        """`faults`: the initial queue. `clock`: measures the time since `always` was set, for `Flapping`."""
        self.faults = deque(faults)
        self._clock = clock
        self.always = FaultyResponse()

    @property
    def always(self) -> Fault:
        """The fault that applies to requests while `faults` is empty; at first none: correct answers.

        Setting it restarts its sequence (`InTurn`) and its time (`Flapping`) from zero.
        """
        return self._always

    @always.setter
    def always(self, fault: Fault) -> None:
        self._always: Fault = fault
        self._turn = 0
        self._since = self._clock.monotonic()

    def take(self, *, continues: bool) -> Behaviour:
        """The behaviour for the next request: that of the first fault in `faults`, which is removed, or of `always`.

        `continues`: the request has a `continue_from`, that is, a broken answer to continue; faults such as
        `NoContinuation` depend on that.
        """
        if self.faults:
            return settled(self.faults.popleft(), Situation(continues=continues))
        seconds = self._clock.monotonic() - self._since
        now = Situation(continues=continues, turn=self._turn, seconds=seconds)
        self._turn += 1
        return settled(self._always, now)

    def reset(self) -> None:
        """Remove the queued faults and that of `always`: later requests get correct answers."""
        self.faults.clear()
        self.always = FaultyResponse()


def settled(fault: Fault, now: Situation) -> Behaviour:
    """The behaviour for one request under the conditions `now`.

    It is `fault` itself or, if `fault` contains others (such as `InTurn`), the one of them that applies.
    """
    match fault:
        case Flapping():
            return settled(fault.when_up if _is_up(fault, now.seconds) else fault.when_down, now)
        case InTurn():
            rounds, index = divmod(now.turn, len(fault.faults))
            return settled(fault.faults[index], replace(now, turn=rounds))
        case NoContinuation() if now.continues:
            return Status(code=fault.code, error=fault.error, detail=fault.detail)
        case NoContinuation():
            return settled(fault.otherwise, now)
        case FalseContinuation() if not now.continues:
            return settled(fault.otherwise, now)
        case _:
            return fault


def _is_up(fault: Flapping, seconds: float) -> bool:
    first = fault.up if fault.begins == "up" else fault.down
    in_first = seconds % (fault.up + fault.down) < first
    return in_first == (fault.begins == "up")
