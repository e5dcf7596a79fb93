"""Events that the components emit; telemetry converts them to log lines and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

LogLevel = Literal["debug", "info", "warning", "error"]
"""The levels of log lines, in increasing order of importance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """The declaration of one kind of log line: a stable dotted name, a level and a description.

    `name` is such as `llm.ray.fallback_local`; `level` is `debug`, `info`, `warning` or `error`. Each package declares
    its log events once, in its module `log_events`; the list of log events in the documentation is generated from them.
    """

    name: str
    """The dotted name in log lines, such as `llm.ray.fallback_local`."""
    level: LogLevel
    description: str


class Event(Protocol):
    """The interface of an occurrence that an `Observer` logs or counts.

    Its fields must contain no prompts, answers or secrets, since they are written to logs.
    """

    @property
    def log(self) -> LogEvent:
        """The kind of log line that is written for this event."""
        ...

    def fields(self) -> Mapping[str, object]:
        """The additional fields of this event's log line: field name to value."""
        ...


class Observer(Protocol):
    """The interface of a receiver of events, such as a logger; must not block and must not raise."""

    def observe(self, event: Event) -> None:
        """Process one event, for example log or count it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An `Event` of any kind, for those that need no class of their own.

    `log`: the kind of log line. `values`: its additional fields, by name.
    """

    log: LogEvent
    values: Mapping[str, object] = field(default_factory=dict)

    def fields(self) -> Mapping[str, object]:
        """The additional fields of the log line, given as `values`."""
        return self.values


class Silent:
    """An observer that discards every event."""

    def observe(self, event: Event) -> None:
        """Discard the event."""
