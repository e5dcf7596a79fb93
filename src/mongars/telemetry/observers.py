"""Observers made of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.observe import Event, Observer


class CompositeObserver:
    """Passes every event on to several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def observe(self, event: Event) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.observe(event)
