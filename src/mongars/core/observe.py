"""Events: contexts emit them; telemetry turns them into log lines and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

LogLevel = Literal["debug", "info", "warning", "error"]
"""From the least to the most important."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """The declaration of a kind of log line: a stable dotted name, its level and its meaning.

    Each context declares its own, once, in its `log_events`; the reference is generated from them.
    """

    name: str
    """Such as `llm.ray.fallback_local`."""
    level: LogLevel
    description: str


class Event(Protocol):
    """Something that happened, without prompts, answers or secrets."""

    @property
    def log(self) -> LogEvent:
        """The log line it becomes."""
        ...

    def fields(self) -> Mapping[str, object]:
        """The facts about it: fields of the log line."""
        ...


class Observer(Protocol):
    """Takes events; must not block and must not raise."""

    def observe(self, event: Event) -> None:
        """Take one event."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An event without a class of its own."""

    log: LogEvent
    values: Mapping[str, object] = field(default_factory=dict)

    def fields(self) -> Mapping[str, object]:
        """The values given."""
        return self.values


class Silent:
    """An observer that keeps nothing."""

    def observe(self, event: Event) -> None:
        """Do nothing."""
