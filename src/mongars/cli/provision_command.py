"""`python -m scripts.provision_models`: download the base models and report the result for each role."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from mongars.core.errors import MongarsError
from mongars.engines.provisioning.provision import provision
from mongars.engines.provisioning.spec import ROLES
from mongars.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mongars.engines.provisioning.spec import (
        Phase,
        Progress,
        ProvisioningConfig,
        ProvisioningStep,
        RoleStatus,
    )

_EXAMPLES = """examples:
  python -m scripts.provision_models                    every role
  python -m scripts.provision_models --roles general    one role
  python -m scripts.provision_models --force            check the files again, fetch what is damaged
  python -m scripts.provision_models --json             for scripts; exit code 1 if a role is not ready

The models are chosen by RAY_GENERAL_MODEL and RAY_CODING_MODEL: smollm2-135m-instruct (built in),
the path of a GGUF file, or ollama:TAG. They are kept in MONGARS_CACHE.
"""

_VERBS: dict[Phase, str] = {
    "wait": "waiting for another provisioning run",
    "download": "downloading",
    "pull": "Ollama is pulling",
    "store": "unpacking",
    "verify": "checking",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Download the models of the configured roles, and return the exit status.

    0: every model is ready; 1: one is not; 130: stopped by Ctrl-C. `arguments`: `--roles`, `--force` and `--json`;
    None: the command line of the process. Exits with status 2 and a message if they are wrong.
    """
    options = _parser().parse_args(arguments)
    return run(
        lambda: load_settings().provisioning(),
        roles=options.roles,
        force=options.force,
        as_json=options.json,
    )


def run(
    load: Callable[[], ProvisioningConfig],
    *,
    roles: Sequence[str] | None,
    force: bool,
    as_json: bool,
) -> int:
    """Download the models of the model roles `roles` (None: all configured) and print the result for each.

    `load` reads the configuration. `force` verifies existing files again and downloads damaged ones. `as_json` prints
    one JSON object, whose field `statuses` has an object per role. Returns the exit status: 0 if every model is ready,
    1 if not or on a `MongarsError`, whose message is printed, 130 after Ctrl-C.
    """
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        with _terminable(), _shown(errors) as progress:
            config = load()
            asked = tuple(config.models) if roles is None else roles
            statuses = provision(asked, config=config, progress=progress, force=force)
    except KeyboardInterrupt:
        errors.print("Stopped. Nothing half-done was kept; run it again to go on.")
        return 130
    except MongarsError as error:
        errors.print(f"error: {error}", markup=False)
        return 1
    print(_as_json(statuses) if as_json else _as_text(statuses))
    return 0 if all(status.ready for status in statuses) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.provision_models",
        description="Make the base models ready before anything serves them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--roles",
        nargs="*",
        default=None,
        metavar="R",
        help=f"only these roles (known: {', '.join(ROLES)}; default: all that are configured)",
    )
    parser.add_argument(
        "--force", action="store_true", help="check existing files again, fetch what is damaged"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _as_text(statuses: Sequence[RoleStatus]) -> str:
    if not statuses:
        return "No models were provisioned."
    return "\n".join(
        f"[{status.provider}] {status.role}: {status.action} -> {status.name}"
        + (f" ({status.detail})" if status.detail else "")
        for status in statuses
    )


def _as_json(statuses: Sequence[RoleStatus]) -> str:
    rows = [
        {
            "role": status.role,
            "name": status.name,
            "provider": status.provider,
            "action": status.action,
            "detail": status.detail,
        }
        for status in statuses
    ]
    return json.dumps({"statuses": rows}, indent=2)


@contextmanager
def _terminable() -> Iterator[None]:
    """A context manager in which SIGTERM raises `SystemExit` with the status 143.

    So the child process of a download is ended, too.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _shown(console: Console) -> Iterator[Progress]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield _Bars(bars)


def _title(step: ProvisioningStep) -> str:
    return f"{step.role}: {_VERBS[step.phase]} {step.name}"


class _Lines:
    """Prints the progress of downloads as one line per phase, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def __call__(self, step: ProvisioningStep) -> None:
        title = _title(step)
        if title != self._last:
            self._last = title
            size = f" ({step.total / 1e6:.0f} MB)" if step.total else ""
            self._console.print(f"{title}{size}", markup=False)


class _Bars:
    """Shows the progress of downloads as one bar per phase, for a terminal."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: ProvisioningStep) -> None:
        title = _title(step)
        if title not in self._tasks:
            self._tasks[title] = self._bars.add_task(title, total=step.total)
        self._bars.update(self._tasks[title], completed=step.done, total=step.total)
