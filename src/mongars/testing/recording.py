"""An observer that remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mongars.core.observe import Event

E = TypeVar("E")


class RecordingObserver:
    """Keeps every event of `LLMIntegration`, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    @property
    def names(self) -> list[str]:
        """The log names of what happened, in order."""
        return [event.log.name for event in self.events]

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]
