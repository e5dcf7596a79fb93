"""Declarations of the log events that a replica emits."""

from __future__ import annotations

from mongars.core.observe import LogEvent

DEPLOYMENT_READY = LogEvent(
    name="llm.ray.deployment.ready",
    level="info",
    description="A replica serves.",
)
DEPLOYMENT_UPDATED = LogEvent(
    name="llm.ray.deployment.updated",
    level="info",
    description="New sampling defaults.",
)
DEPLOYMENT_REJECTED = LogEvent(
    name="llm.ray.deployment.rejected",
    level="error",
    description="A configuration was refused; the replica keeps the previous one.",
)

LOG_EVENTS = (
    DEPLOYMENT_READY,
    DEPLOYMENT_UPDATED,
    DEPLOYMENT_REJECTED,
)
