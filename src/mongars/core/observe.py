"""Events: contexts say what happened; telemetry decides which log line and which metric it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

Level = Literal["debug", "info", "warning", "error"]
Value = str | int | float | bool | None


class Event(Protocol):
    """Something that happened, under a stable dotted name, without prompts, answers or secrets."""

    @property
    def name(self) -> str:
        """Such as `llm.ray.fallback_local`."""
        ...

    @property
    def level(self) -> Level:
        """How loud to say it."""
        ...

    def fields(self) -> Mapping[str, Value]:
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
    level: Level = "info"
    values: Mapping[str, Value] = field(default_factory=dict)

    def fields(self) -> Mapping[str, Value]:
        """The values given."""
        return self.values


class Silent:
    """An observer that keeps nothing."""

    def observe(self, event: Event) -> None:
        """Do nothing."""
