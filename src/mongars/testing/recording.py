"""An observer that records the events of the inference, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mongars.core.observe import Event

E = TypeVar("E")


class RecordingObserver:
    """An observer that records every event it gets, such as those of an `LLMIntegration`, in the list `events`."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        """Append `event` to the list `events`."""
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        """The names under which the recorded events appear in the log, in the order of the events."""
        return [event.log.name for event in self.events]

    def of(self, kind: type[E]) -> list[E]:
        """The recorded events of the class `kind` or a subclass, in order."""
        return [event for event in self.events if isinstance(event, kind)]
