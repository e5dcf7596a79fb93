"""Log lines: one JSON object per event on standard error, with the event's name, level and fields."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import TYPE_CHECKING

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.core.observe import Event, LogLevel

LEVELS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logs(*, level: LogLevel = "info", json_lines: bool = True) -> None:
    """Configure how this process writes log events (by structlog) to standard error.

    `level`: lowest level that is written; lower ones are dropped. `json_lines`: one JSON object per line; False: plain
    text for a terminal.
    """
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer(_json) if json_lines else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _json(event: object, default: Callable[[object], object]) -> str:
    try:
        return orjson.dumps(event, default=default).decode()
    except TypeError:  # orjson cannot encode every number and character
        return json.dumps(event, default=str)


class LogObserver:
    """An observer that writes every event as one log line on standard error. Create it after `configure_logs`."""

    def __init__(self) -> None:
        self._log = structlog.get_logger().bind()

    def observe(self, event: Event) -> None:
        """Write the event as a log line with its name and fields, if the level of its class is enabled.

        An `OSError`, such as a full disk, is ignored.
        """
        log = event.log
        level = LEVELS[log.level]
        if not self._log.is_enabled_for(level):
            return
        with contextlib.suppress(OSError):  # a full disk must not fail a request
            self._log.log(level, log.name, **event.fields())
