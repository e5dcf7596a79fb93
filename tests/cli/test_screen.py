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
    """A console, and the buffer that it writes to."""
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=100, color_system=None), file


def test_without_a_terminal_there_are_plain_lines():
    """Without a terminal, a stage prints one line at its start and one at its end, without control codes."""
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
    """On a terminal, a running stage shows its percentage and current step."""
    out, file = console(terminal=True)
    with StackScreen(out) as screen:
        screen(StageEvent(stage="model", state="started"))
        screen(StageEvent(stage="model", state="progress", detail="downloading", fraction=0.5))
        assert screen._live is not None
        screen._live.refresh()
    assert "50% downloading" in file.getvalue()


def test_a_failed_stage_says_why():
    """A failed stage shows its reason literally, even if the text looks like markup."""
    out, file = console(terminal=False)
    StackScreen(out)(StageEvent(stage="ports", state="failed", detail="[red] is taken"))
    assert "✗ Ports" in file.getvalue()
    assert "[red] is taken" in file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_summary_has_all_one_needs(terminal):
    """The summary has the address, provider, model, key hint, log folder, and how to chat and to stop."""
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
    """After the first run, key and password are shown with the remark that they are shown only once."""
    out, file = console(terminal=False)
    StackScreen(out).ready(replace(SUMMARY, first_run=("mg-secret", "pass")))
    assert "Admin key: mg-secret  (shown once; keep it)" in file.getvalue()
    assert "Admin login: admin / pass  (shown once; keep it)" in file.getvalue()


def test_incidents_are_one_line_each():
    """Each crash, restart and recovery of a child is reported on one line."""
    out, file = console(terminal=False)
    screen = StackScreen(out)
    screen(ChildEvent(child="api", state="ready", pid=1))  # not printed: the stage reports a start
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
    """A stream of a closed terminal."""

    def write(self, text: str) -> int:
        """Raise the error of a write to a closed terminal."""
        raise OSError(errno.EIO, "Input/output error")


def test_a_terminal_that_went_away_is_no_error():
    """Writing to a closed terminal raises no error, so that the stack can still be stopped."""
    out = Console(file=GoneTerminal(), force_terminal=False)
    with StackScreen(out) as screen:
        screen(StageEvent(stage="stop", state="started"))
        screen(StageEvent(stage="stop", state="done"))
        screen.ready(SUMMARY)
