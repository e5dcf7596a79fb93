"""Each log line is one JSON object, whatever values the event has."""

from __future__ import annotations

import gc
import importlib
import json
import pkgutil

import pytest

import mongars
from mongars.core.observe import LogEvent, Note
from mongars.inference import log_events
from mongars.telemetry.logs import LogObserver, configure_logs
from mongars.telemetry.names import LOG_EVENTS


@pytest.mark.parametrize("value", [10**30, "half \ud83d", {1: object}, float("inf")])
def test_no_value_costs_the_answer_it_is_about(
    value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that JSON or UTF-8 cannot hold is logged in some form, in a line of valid JSON; nothing is raised."""
    configure_logs()
    LogObserver().observe(Note(log=log_events.ANSWERED, values={"completion_tokens": value}))
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "llm.answered"
    assert "completion_tokens" in line


def test_events_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Events below the configured log level (`MONGARS_LOG_LEVEL`) are not written."""
    configure_logs(level="warning")
    LogObserver().observe(Note(log=log_events.ANSWERED))
    LogObserver().observe(Note(log=log_events.RAY_FALLBACK_LOCAL))
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["llm.ray.fallback_local"]


def test_every_log_event_is_in_the_reference() -> None:
    """Every log event in the code is in the list that `docs/reference/metrics.md` is made from, each name once."""
    for module in pkgutil.walk_packages(mongars.__path__, "mongars."):
        if not module.name.endswith(("__main__", ".env")) and ".vllm" not in module.name:
            importlib.import_module(module.name)
    declared = {id(event) for event in LOG_EVENTS}
    undeclared = [
        found
        for found in gc.get_objects()
        if isinstance(found, LogEvent) and id(found) not in declared
    ]
    assert not undeclared
    assert len({event.name for event in LOG_EVENTS}) == len(LOG_EVENTS)
