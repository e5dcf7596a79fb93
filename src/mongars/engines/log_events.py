"""Declarations of the log events that engines emit."""

from __future__ import annotations

from mongars.core.observe import LogEvent

ENGINE_DIED = LogEvent(name="engine.died", level="warning", description="An engine process ended.")
ENGINE_STUCK = LogEvent(
    name="engine.stuck",
    level="warning",
    description="A running engine produced no output for too long and is replaced.",
)
ENGINE_LOST = LogEvent(
    name="engine.lost",
    level="warning",
    description="The Ollama server is gone.",
)
ENGINE_FOUND = LogEvent(name="engine.found", level="info", description="The Ollama server is back.")
ENGINE_RESTARTED = LogEvent(
    name="engine.restarted",
    level="warning",
    description="An engine that had ended runs again.",
)
ENGINE_FAILED = LogEvent(
    name="engine.failed",
    level="error",
    description="An engine failed too often and is not started again.",
)
ENGINE_RESTART_FAILED = LogEvent(
    name="engine.restart_failed",
    level="error",
    description="An engine that ended could not be started again.",
)

LOG_EVENTS = (
    ENGINE_DIED,
    ENGINE_STUCK,
    ENGINE_LOST,
    ENGINE_FOUND,
    ENGINE_RESTARTED,
    ENGINE_FAILED,
    ENGINE_RESTART_FAILED,
)
