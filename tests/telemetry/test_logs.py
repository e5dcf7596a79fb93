"""Log lines: one JSON object each, whatever a peer has sent."""

from __future__ import annotations

import json

import pytest

from mongars.core.observe import Note
from mongars.telemetry.logs import LogObserver, configure_logs


@pytest.mark.parametrize("value", [10**30, "half \ud83d", {1: object}, float("inf")])
def test_no_value_costs_the_answer_it_is_about(
    value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """A count beyond 64 bit or half a character is written somehow; nothing is raised."""
    configure_logs()
    LogObserver().observe(Note(name="llm.answered", values={"completion_tokens": value}))
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "llm.answered"
    assert "completion_tokens" in line


def test_events_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    """`MONGARS_LOG_LEVEL` holds for every event by its own level."""
    configure_logs(level="warning")
    LogObserver().observe(Note(name="llm.answered"))
    LogObserver().observe(Note(name="llm.ray.fallback_local"))
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["llm.ray.fallback_local"]
