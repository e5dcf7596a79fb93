"""The clock interface: code that reads the time or waits takes a `Clock`, so tests can control time."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The interface of a source of the current time that also waits; tests implement it to control time."""

    def now(self) -> datetime:
        """The current wall-clock time, timezone-aware in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary point in the past; never decreases."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` without blocking the event loop."""
        ...


class SystemClock:
    """A `Clock` that reads the clocks of the operating system and waits with asyncio."""

    def now(self) -> datetime:
        """The current wall-clock time, timezone-aware in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since an arbitrary point in the past; never decreases."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` without blocking the event loop."""
        await asyncio.sleep(seconds)


def pause(seconds: float) -> None:
    """Block the calling thread for `seconds`.

    For synchronous tools (commands, the supervisor); code with a `Clock` uses its `sleep`.
    """
    time.sleep(seconds)
