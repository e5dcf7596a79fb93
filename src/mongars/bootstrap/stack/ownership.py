"""Find the processes that belong to a stack, and end them.

A stack is identified by its home folder. Each child has the stack's id in its environment, and its own children
inherit it. Programs that change their title (such as Ray's agents) overwrite the environment that other processes
can read, so descendants count as well, and so does a process that has files open for writing in the stack's private
folders. Processes are never selected by name: those of another stack have the same names.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mongars.core.clock import pause
from mongars.core.errors import ConfigurationError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Sequence

STACK_VARIABLE = "MONGARS_STACK_ID"
PART_VARIABLE = "MONGARS_STACK_PART"

_PR_SET_CHILD_SUBREAPER = 36
_KILLED_S = 3.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReport:
    """The result of ending processes; reports can be added.

    `stopped` is the number of processes that were sent a signal; `killed` are the names of those that needed SIGKILL,
    `alive` of those that still run after it.
    """

    stopped: int = 0
    killed: tuple[str, ...] = ()
    alive: tuple[str, ...] = ()

    def __add__(self, other: StopReport) -> StopReport:
        return StopReport(
            stopped=self.stopped + other.stopped,
            killed=self.killed + other.killed,
            alive=self.alive + other.alive,
        )


def stack_id(home: Path) -> str:
    """The id of the local stack with the home folder `home`: 12 hexadecimal digits, equal for every path to it."""
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]


def owned_processes(
    stack: str, *, part: str | None = None, folders: Sequence[Path] = ()
) -> list[psutil.Process]:
    """The running processes of the local stack with the id `stack`, other than this process and its ancestors.

    Args:
        stack: The stack's id, which its child processes have in their environment.
        part: Only the processes of the child process with this name; None: those of all.
        folders: Folders that only the wanted processes write to: one with a file open for writing there counts as well.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid not in own and _belongs(process, (stack, part), folders):
            found[process.pid] = process
            found |= {child.pid: child for child in _descendants(process)}
    return [process for pid, process in found.items() if pid not in own and _lives(process)]


def stop_owned(
    stack: str,
    *,
    grace: float,
    part: str | None = None,
    folders: Sequence[Path] = (),
    hurry: threading.Event | None = None,
) -> StopReport:
    """End processes of the local stack with the id `stack`, and search again until none is found.

    `part`: only those of the child process with this name; None: all of the stack. In addition, all processes that
    have a file in one of `folders` open for writing. They get SIGTERM, and SIGKILL after `grace` seconds or once
    `hurry` is set (None: always after `grace`).

    Blocks. Gives up when a process survives SIGKILL; the report names it in `alive`.
    """
    report = StopReport()
    # A process forked during one scan is found by the next.
    while processes := owned_processes(stack, part=part, folders=folders):
        report += end_processes(processes, grace=grace, hurry=hurry)
        if report.alive:
            break
    return report


def end_processes(
    processes: Iterable[psutil.Process], *, grace: float, hurry: threading.Event | None = None
) -> StopReport:
    """Send SIGTERM to `processes`, and SIGKILL to those that still run after `grace` seconds or once `hurry` is set.

    Blocks until they have ended, at most 3 seconds after SIGKILL. `hurry` None: always wait for `grace` seconds.
    """
    living = [process for process in processes if _lives(process)]
    names = {process.pid: _name(process) for process in living}
    remaining = _signal_all(living, signal.SIGTERM, wait=_Wait(grace, hurry))
    alive = _signal_all(remaining, signal.SIGKILL, wait=_Wait(_KILLED_S, None))
    return StopReport(
        stopped=len(living),
        killed=tuple(names[process.pid] for process in remaining),
        alive=tuple(names[process.pid] for process in alive),
    )


def adopt_orphans() -> None:
    """Make this process the new parent of its descendants whose parent ends, so that they can be found (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(*, except_for: set[int]) -> None:
    """Collect the exit status of this process's ended children, so that none stays a zombie.

    `except_for` are the ids of children whose exit status other code reads.
    """
    for child in psutil.Process().children():
        with suppress(psutil.Error, ChildProcessError):
            if child.pid not in except_for and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


@contextmanager
def hold_home(home: Path) -> Iterator[None]:
    """A context manager that holds the lock of the home folder `home`, so that only one `mongars up` uses the folder.

    It does not wait for the lock, and releases it on exit.

    Raises:
        ConfigurationError: another process holds the lock; the message contains its process id.
    """
    run = home / "run"
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = run / "up.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        msg = (
            f"`mongars up` already runs on {str(home)!r} (pid {holder}). Stop it with Ctrl-C or"
            f" `kill {holder}`, or set MONGARS_HOME to another folder for a second stack."
        )
        raise ConfigurationError(msg) from error
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Wait:
    seconds: float
    hurry: threading.Event | None

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.seconds
        while not done() and time.monotonic() < deadline:
            if self.hurry is not None and self.hurry.is_set():
                return
            pause(_POLL_S)


def _signal_all(
    processes: list[psutil.Process], number: signal.Signals, *, wait: _Wait
) -> list[psutil.Process]:
    """Send the signal `number` to the processes, and return those that still run when the time of `wait` has passed.

    Returns as soon as all have ended, or once the event in `wait` is set.
    """
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)
    # Not `psutil.wait_procs`: it would collect exit codes that the owner of a child waits for.
    wait.until(lambda: not any(map(_lives, processes)))
    return [process for process in processes if _lives(process)]


def _belongs(
    process: psutil.Process, mark: tuple[str, str | None], folders: Sequence[Path]
) -> bool:
    stack, part = mark
    try:
        environment = process.environ()
        if environment.get(STACK_VARIABLE) == stack:
            return part is None or environment.get(PART_VARIABLE) == part
        return bool(folders) and _writes_into(process, folders)
    except (psutil.Error, OSError):
        return False


def _writes_into(process: psutil.Process, folders: Sequence[Path]) -> bool:
    if process.uids().real != os.getuid():
        return False
    return any(
        file.mode != "r" and any(Path(file.path).is_relative_to(folder) for folder in folders)
        for file in process.open_files()
    )


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return f"{process.name()} (pid {process.pid})"
    except psutil.Error:
        return f"pid {process.pid}"
