"""An observer that combines several observers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.observe import Event, Observer


class CompositeObserver:
    """An observer that forwards every event to several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def observe(self, event: Event) -> None:
        """Forward the event to each observer; an exception of one is raised, and later ones do not get the event."""
        for observer in self._observers:
            observer.observe(event)
