"""Which fault the next request meets."""

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
"""A fault that leaves nothing open: what is done with one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a fault may depend on."""

    continues: bool
    """Whether the request wants a continuation after `continue_from`."""
    turn: int = 0
    """How many requests it has met before."""
    seconds: float = 0.0
    """How long ago it was ordered."""


class FaultSchedule:
    """A queue of faults, one for each request; once it is empty, `always` applies."""

    def __init__(self, *faults: Fault, clock: Clock) -> None:
        """`clock` is the one by which `Flapping` goes."""
        self.faults = deque(faults)
        self._clock = clock
        self.always = FaultyResponse()

    @property
    def always(self) -> Fault:
        """What requests meet when nothing is queued."""
        return self._always

    @always.setter
    def always(self, fault: Fault) -> None:
        self._always: Fault = fault
        self._turn = 0
        self._since = self._clock.monotonic()

    def take(self, *, continues: bool) -> Behaviour:
        """What to do with the next request."""
        if self.faults:
            return settled(self.faults.popleft(), Situation(continues=continues))
        seconds = self._clock.monotonic() - self._since
        now = Situation(continues=continues, turn=self._turn, seconds=seconds)
        self._turn += 1
        return settled(self._always, now)

    def reset(self) -> None:
        """Healthy again."""
        self.faults.clear()
        self.always = FaultyResponse()


def settled(fault: Fault, now: Situation) -> Behaviour:
    """What the fault comes to in this situation."""
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
