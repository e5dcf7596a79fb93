from __future__ import annotations

import errno
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mongars.bootstrap.stack.stack_events import ChildEvent, Notice, StageEvent
from mongars.cli.screen import StackScreen, Summary

SUMMARY = Summary(
    api_url="http://127.0.0.1:8080/v1",
    provider="ray_serve",
    model="smollm2-135m-instruct",
    adapter="baseline",
    logs=Path("/home/me/.mongars/logs"),
    key_hint="made at the first run; `mongars keys create` makes another",
    dashboard="http://127.0.0.1:8265",
    seconds=17.4,
)


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    """A console, and what was written to it."""
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=100, color_system=None), file


def test_without_a_terminal_there_are_plain_lines():
    """A line per stage at its begin and its end, nothing in between, no control codes."""
    out, file = console(terminal=False)
    with StackScreen(out) as screen:
        screen(StageEvent(stage="ray", state="started"))
        screen(StageEvent(stage="ray", state="progress", detail="half", fraction=0.5))
        screen(StageEvent(stage="ray", state="done", detail="2 cpus", seconds=4.25))
    assert file.getvalue().splitlines() == [
        "  Ray ...",
        "✓ Ray                  4.2 s  2 cpus",
    ]


def test_on_a_terminal_progress_is_drawn():
    """The running stage shows its share and what it does."""
    out, file = console(terminal=True)
    with StackScreen(out) as screen:
        screen(StageEvent(stage="model", state="started"))
        screen(StageEvent(stage="model", state="progress", detail="downloading", fraction=0.5))
        assert screen._live is not None
        screen._live.refresh()
    assert "50% downloading" in file.getvalue()


def test_a_failed_stage_says_why():
    """The reason stands beside the cross, even if it looks like markup."""
    out, file = console(terminal=False)
    StackScreen(out)(StageEvent(stage="ports", state="failed", detail="[red] is taken"))
    assert "✗ Ports" in file.getvalue()
    assert "[red] is taken" in file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_summary_has_all_one_needs(terminal):
    """Where it is, what answers, where the logs are, how to try and how to stop."""
    out, file = console(terminal=terminal)
    StackScreen(out).ready(SUMMARY)
    text = file.getvalue()
    for part in (
        "ready after 17.4 s",
        SUMMARY.api_url,
        "ray_serve, smollm2-135m-instruct, adapter baseline",
        SUMMARY.key_hint,
        "/home/me/.mongars/logs",
        "Ctrl-C",
        "mongars chat",
    ):
        assert part in text


def test_the_first_run_shows_the_key():
    """Key and password are shown with the remark that they will not be shown again."""
    out, file = console(terminal=False)
    StackScreen(out).ready(replace(SUMMARY, first_run=("mg-secret", "pass")))
    assert "Admin key: mg-secret  (shown once; keep it)" in file.getvalue()
    assert "Admin login: admin / pass  (shown once; keep it)" in file.getvalue()


def test_incidents_are_one_line_each():
    """A crash, its restart and the return of the child."""
    out, file = console(terminal=False)
    screen = StackScreen(out)
    screen(ChildEvent(child="api", state="ready", pid=1))  # while starting, the stage tells it
    screen.ready(SUMMARY)
    file.truncate(0)
    file.seek(0)
    screen(ChildEvent(child="api", state="crashed", code=-9, detail="last words"))
    screen(ChildEvent(child="api", state="restarting", delay=0.5))
    screen(ChildEvent(child="api", state="started", pid=2))
    screen(ChildEvent(child="api", state="ready", pid=2))
    screen(ChildEvent(child="ray", state="crashed", code=1))
    screen(Notice(text="The application is deployed again."))
    assert file.getvalue().splitlines() == [
        "! api was killed by signal 9: last words",
        "  api is restarted in 0.5 s",
        "  api runs again (pid 2)",
        "! ray ended with 1",
        "! The application is deployed again.",
    ]


class GoneTerminal(io.StringIO):
    """What writing to a closed window is like."""

    def write(self, text: str) -> int:
        """Fail as the kernel does."""
        raise OSError(errno.EIO, "Input/output error")


def test_a_terminal_that_went_away_is_no_error():
    """The stack is still stopped in order when its window was closed."""
    out = Console(file=GoneTerminal(), force_terminal=False)
    with StackScreen(out) as screen:
        screen(StageEvent(stage="stop", state="started"))
        screen(StageEvent(stage="stop", state="done"))
        screen.ready(SUMMARY)
