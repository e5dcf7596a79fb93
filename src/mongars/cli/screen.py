"""The output of `mongars up`: its stages while it starts, a summary, then one line per incident."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, assert_never

from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from mongars.bootstrap.stack.stack_events import ChildEvent, Notice, StageEvent
from mongars.cli.terminal import writes

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, RenderableType

    from mongars.bootstrap.stack.stack_events import StackEvent, Stage

_TITLES: dict[Stage, str] = {
    "leftovers": "Earlier runs",
    "ports": "Ports",
    "model": "Base model",
    "database": "Database",
    "ray": "Ray",
    "serve": "Serve application",
    "api": "API",
    "worker": "Worker",
    "stop": "Stopping",
}
_FRAMES_PER_SECOND = 8
_TERMINAL_GONE = (OSError, SystemExit)  # rich exits when its pipe breaks


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The facts that `mongars up` prints when everything has started.

    `provider`, `model` and `adapter` say what generates answers. `first_run` is the administrator's API key and
    password, in this order, None except on the first start; `key_hint` says where to find an API key otherwise.
    `dashboard` is the URL of Ray's dashboard (None: no Ray), `logs` the folder of log files, `chat` the command to type
    for a chat, `seconds` the duration of the start (None: not shown).
    """

    api_url: str
    provider: str
    model: str
    adapter: str
    logs: Path
    key_hint: str
    first_run: tuple[str, str] | None = field(default=None, repr=False)
    dashboard: str | None = None
    chat: str = "mongars chat"
    seconds: float | None = None


class StackScreen:
    """Prints the events of the local stack, the processes (Ray, API, worker) of `mongars up`, to `console`.

    While its context is open, a terminal shows the running stages live. Errors of a closed terminal are ignored, so
    that the stack can still be stopped.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._running: dict[Stage, _Row] = {}
        self._quiet = False

    def __enter__(self) -> Self:
        """Start the live display of running stages, if the output is a terminal."""
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=_FRAMES_PER_SECOND, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the live display and restore the terminal."""
        with suppress(*_TERMINAL_GONE):
            if self._live is not None:
                self._live.stop()

    def __call__(self, event: StackEvent) -> None:
        """Print one event of the stack, or update the live display with it."""
        match event:
            case StageEvent():
                self._stage(event)
            case ChildEvent():
                self._child(event)
            case Notice():
                self._print(Text(f"! {event.text}", style="red" if event.serious else ""))
            case _:
                assert_never(event)

    def ready(self, summary: Summary) -> None:
        """Print the summary of the start; from then on, also print when a crashed child process runs again."""
        self._quiet = True
        self._print(_panel(summary) if self._console.is_terminal else Text(_lines(summary)))

    def _stage(self, event: StageEvent) -> None:
        if event.state in {"done", "failed"}:
            self._running.pop(event.stage, None)
            self._print(_outcome(event, plain=not writes("✓✗", self._console)))
        else:
            row = self._running.setdefault(event.stage, _Row(event.stage))
            row.update(event)
            if event.state == "started" and self._live is None:
                self._print(Text(f"  {_TITLES[event.stage]} ..."))
        self._draw()

    def _child(self, event: ChildEvent) -> None:
        """Print a crash, a restart, and (after the summary) a recovery of a child process; ignore its other events."""
        if event.state == "crashed":
            tail = f": {event.detail}" if event.detail else ""
            text = f"! {event.child} {_ending(event.code)}{tail}"
            self._print(Text(text, style="red"))
        elif event.state == "restarting":
            self._print(Text(f"  {event.child} is restarted in {event.delay:g} s"))
        elif event.state == "ready" and self._quiet:
            self._print(Text(f"  {event.child} runs again (pid {event.pid})", style="green"))

    def _draw(self) -> None:
        if self._live is not None:
            with suppress(*_TERMINAL_GONE):
                self._live.update(_rows(list(self._running.values())))

    def _print(self, line: RenderableType) -> None:
        with suppress(*_TERMINAL_GONE):
            self._console.print(line, soft_wrap=not self._console.is_terminal, highlight=False)


class _Row:
    """One line of the live display: a stage of the start that is running, and the time since it began."""

    def __init__(self, stage: Stage) -> None:
        self._title = _TITLES[stage]
        self.bar = RichProgress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), expand=False
        )
        self._task = self.bar.add_task(self._title)

    def update(self, event: StageEvent) -> None:
        share = "" if event.fraction is None else f"{event.fraction:4.0%} "
        self.bar.update(self._task, description=escape(f"{self._title:<18} {share}{event.detail}"))


def _rows(rows: list[_Row]) -> Table:
    table = Table.grid(padding=(0, 1))
    for row in rows:
        table.add_row(row.bar)
    return table


def _outcome(event: StageEvent, *, plain: bool) -> Text:
    good = event.state == "done"
    word = ("done", "failed") if plain else ("✓", "✗")
    mark = (word[0], "green") if good else (word[1], "red")
    seconds = f"{event.seconds:5.1f} s"
    return Text.assemble(mark, f" {_TITLES[event.stage]:<18} {seconds}  {event.detail}".rstrip())


def _ending(code: int | None) -> str:
    if code is None:
        return "ended"
    return f"was killed by signal {-code}" if code < 0 else f"ended with {code}"


def _facts(summary: Summary) -> list[tuple[str, str]]:
    facts = [("API", summary.api_url)]
    if summary.first_run is None:
        facts.append(("Key", summary.key_hint))
    else:
        key, password = summary.first_run
        facts += [
            ("Admin key", f"{key}  (shown once; keep it)"),
            ("Admin login", f"admin / {password}  (shown once; keep it)"),
        ]
    facts.append(
        ("Answers from", f"{summary.provider}, {summary.model}, adapter {summary.adapter}")
    )
    if summary.dashboard:
        facts.append(("Ray dashboard", summary.dashboard))
    return [
        *facts,
        ("Logs", str(summary.logs)),
        ("Chat", summary.chat),
        ("Stop", "Ctrl-C"),
    ]


def _title(summary: Summary) -> str:
    after = "" if summary.seconds is None else f" after {summary.seconds:.1f} s"
    return f"monGARS is ready{after}"


def _panel(summary: Summary) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(summary):
        table.add_row(name, escape(value))
    return Panel(
        table, title=_title(summary), title_align="left", border_style="green", expand=False
    )


def _lines(summary: Summary) -> str:
    return "\n".join([_title(summary), *(f"  {name}: {value}" for name, value in _facts(summary))])
