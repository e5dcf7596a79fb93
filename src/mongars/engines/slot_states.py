"""The states of an entry of the slot table, and the only ways between them.

| state      | event       | next       | what it means                                                 |
|------------|-------------|------------|---------------------------------------------------------------|
| `prepared` | `activate`  | `active`   | requests without a pin get this entry from now on             |
| `active`   | `supersede` | `prepared` | another entry was activated; this one can be activated again  |
| `prepared` | `drain`     | `draining` | no further request gets this entry; running ones go on        |
| `draining` | `retire`    | `retired`  | its engine is closed, and the entry is out of the table       |

`prepared` means: the engine runs, and requests that pin its adapter get it. Every other event is
refused: an active entry, for example, cannot be drained before another one is activated.
"""

from __future__ import annotations

from typing import Literal

from mongars.core.errors import Conflict

SlotState = Literal["prepared", "active", "draining", "retired"]
SlotEvent = Literal["activate", "supersede", "drain", "retire"]

TRANSITIONS: dict[tuple[SlotState, SlotEvent], SlotState] = {
    ("prepared", "activate"): "active",
    ("active", "supersede"): "prepared",
    ("prepared", "drain"): "draining",
    ("draining", "retire"): "retired",
}


class IllegalTransition(Conflict):
    """The event is not possible in that state; nothing was changed."""

    def __init__(self, state: SlotState, event: SlotEvent, *, entry: str) -> None:
        possible = [name for found, name in TRANSITIONS if found == state]
        hint = (
            f"possible now: {', '.join(possible)}" if possible else "nothing is possible any more"
        )
        super().__init__(f"The entry {entry} is {state}; it cannot {event} ({hint}).")
        self.state = state
        self.event = event


def advance(state: SlotState, event: SlotEvent, *, entry: str) -> SlotState:
    """The state after an event. Raises `IllegalTransition`; `entry` names the entry in its text."""
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise IllegalTransition(state, event, entry=entry)
    return following
