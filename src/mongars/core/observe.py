"""Events: contexts emit them; telemetry turns them into log lines and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

LogLevel = Literal["debug", "info", "warning", "error"]
"""From the least to the most important."""


class Event(Protocol):
    """Something that happened, under a stable dotted name, without prompts, answers or secrets."""

    @property
    def name(self) -> str:
        """Such as `llm.ray.fallback_local`."""
        ...

    def fields(self) -> Mapping[str, object]:
        """What is known about it."""
        ...


class Observer(Protocol):
    """Takes events; must not block and must not raise."""

    def observe(self, event: Event) -> None:
        """Take one event."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An event without a class of its own."""

    name: str
    values: Mapping[str, object] = field(default_factory=dict)

    def fields(self) -> Mapping[str, object]:
        """The values given."""
        return self.values


class Silent:
    """An observer that keeps nothing."""

    def observe(self, event: Event) -> None:
        """Do nothing."""
