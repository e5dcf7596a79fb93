"""The states of an entry of the slot table, and the possible transitions.

| state      | event       | next       | what it means                                                  |
|------------|-------------|------------|----------------------------------------------------------------|
| `prepared` | `activate`  | `active`   | requests that demand no adapter are assigned to it from now on |
| `active`   | `supersede` | `prepared` | another entry was activated; this one can be activated again   |
| `prepared` | `drain`     | `draining` | no further request is assigned to it; running ones go on       |
| `draining` | `retire`    | `retired`  | its engine is closed, and the entry is removed from the table  |

`prepared` means that the engine runs and serves requests that demand its adapter. Every other event is refused: an
active entry, for example, cannot be drained before another one is activated.
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
    """An event, such as `drain`, is impossible in the present state of a slot table's entry; nothing was changed."""

    def __init__(self, state: SlotState, event: SlotEvent, *, entry: str) -> None:
        possible = [name for found, name in TRANSITIONS if found == state]
        hint = (
            f"possible now: {', '.join(possible)}" if possible else "nothing is possible any more"
        )
        super().__init__(f"The entry {entry} is {state}; it cannot {event} ({hint}).")
        self.state = state
        self.event = event


def advance(state: SlotState, event: SlotEvent, *, entry: str) -> SlotState:
    """The state of a slot table's entry (a running engine with its adapter) after `event`, if it is in `state`.

    `activate` leads from `prepared` (serves only requests that demand its adapter) to `active` (also those that demand
    none), `supersede` back, `drain` from `prepared` to `draining` (takes no new requests), and `retire` from there to
    `retired` (removed). Raises `IllegalTransition` for any other pair; `entry` is the entry's name for the message.
    """
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise IllegalTransition(state, event, entry=entry)
    return following
