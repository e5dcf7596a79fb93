"""The states and transitions of an entry in the slot table."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from mongars.core.errors import Conflict
from mongars.engines import slot_states
from mongars.engines.slot_states import (
    TRANSITIONS,
    IllegalTransition,
    SlotEvent,
    SlotState,
    advance,
)

STATES: tuple[SlotState, ...] = get_args(SlotState)
EVENTS: tuple[SlotEvent, ...] = get_args(SlotEvent)
ILLEGAL = [pair for pair in itertools.product(STATES, EVENTS) if pair not in TRANSITIONS]


@pytest.mark.parametrize(("state", "event"), ILLEGAL, ids="-".join)
def test_every_other_event_is_a_typed_error(state: SlotState, event: SlotEvent) -> None:
    """A transition that the table lacks raises an error with the entry, its state, the event and the valid events."""
    with pytest.raises(IllegalTransition) as caught:
        advance(state, event, entry="general/v7")
    assert isinstance(caught.value, Conflict)
    assert (caught.value.state, caught.value.event) == (state, event)
    assert f"general/v7 is {state}; it cannot {event}" in str(caught.value)
    for possible in (name for found, name in TRANSITIONS if found == state):
        assert possible in str(caught.value)


@pytest.mark.parametrize(("state", "event"), TRANSITIONS, ids="-".join)
def test_every_event_of_the_table_leads_where_it_says(state: SlotState, event: SlotEvent) -> None:
    """Each transition has the result in the table, which is also the table in the module's documentation."""
    following = advance(state, event, entry="general/v7")
    assert following == TRANSITIONS[state, event]
    row = [f"`{state}`", f"`{event}`", f"`{following}`"]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")][:3]
        for line in (slot_states.__doc__ or "").splitlines()
        if line.startswith("|")
    ]
    assert row in rows


def test_every_state_can_be_reached_and_left() -> None:
    """From every state, `retired` can be reached."""
    reached: set[SlotState] = {"retired"}
    for _ in STATES:
        reached |= {state for (state, _), following in TRANSITIONS.items() if following in reached}
    assert reached == set(STATES)
