"""Small real child processes, and a recorder of the events that the stack reports about them."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from mongars.bootstrap.stack.child_process import Child, ChildSpec, Probe, at_once
from mongars.bootstrap.stack.ownership import STACK_VARIABLE
from mongars.bootstrap.stack.stack_events import ChildEvent, StackEvent, StageEvent
from mongars.core.clock import SystemClock, pause

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}

SLEEPER = "import time; print('here', flush=True); time.sleep(600)"

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('deaf', flush=True)
time.sleep(600)
"""

# A parent that exits on SIGTERM, with a child that ignores SIGTERM.
DEAF_GRANDCHILD = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', {DEAF!r}])
time.sleep(600)
"""

# Starts a process in a session of its own, as daemons do.
RUNAWAY = f"""
import os, subprocess, sys, time
if os.fork() == 0:
    os.setsid()
    os.execve(sys.executable, [sys.executable, '-c', {SLEEPER!r}], dict(os.environ))
time.sleep(600)
"""

CRASHER = "import sys, time; time.sleep(0.1); print('boom', flush=True); sys.exit(3)"

# An HTTP server on a given port that answers every GET with one line.
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'ready "ALIVE"')
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


@dataclass
class Recorder:
    """A listener that keeps all events of the stack."""

    events: list[StackEvent] = field(default_factory=list)

    def __call__(self, event: StackEvent) -> None:
        """Append the event."""
        self.events.append(event)

    def children(self, child: str) -> list[ChildEvent]:
        """The events about one child."""
        events = [event for event in self.events if isinstance(event, ChildEvent)]
        return [event for event in events if event.child == child]

    def states(self, child: str) -> list[str]:
        """The states of one child, in order."""
        return [event.state for event in self.children(child)]

    def stages(self, state: str) -> list[str]:
        """The stages that reached `state`, in order."""
        events = [event for event in self.events if isinstance(event, StageEvent)]
        return [event.stage for event in events if event.state == state]

    def stage(self, stage: str, state: str) -> StageEvent:
        """The event reported when `stage` reached `state`."""
        events = [event for event in self.events if isinstance(event, StageEvent)]
        return next(event for event in events if (event.stage, event.state) == (stage, state))


def argv(script: str, *arguments: str) -> tuple[str, ...]:
    """A command line that runs the code `script` in a Python without site packages."""
    return (sys.executable, "-S", "-c", script, *arguments)


def child(
    script: str, folder: Path, recorder: Recorder, *, ready: Probe = at_once, within: float = 10.0
) -> Child:
    """A supervised process `it` that runs `script`; its stack id is the path of `folder`, which also has its log."""
    spec = ChildSpec(
        name="it",
        stack=str(folder),
        argv=argv(script),
        environment=ENVIRONMENT,
        log=folder / "it.log",
        ready=ready,
        ready_within=within,
    )
    return Child(spec, clock=SystemClock(), listener=recorder)


def free_port() -> int:
    """A TCP port on which nothing listens at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def marked(stack: str) -> list[psutil.Process]:
    """The processes with the stack id `stack` in their environment, found without the code under test."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(STACK_VARIABLE) == stack and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def eventually(true: Callable[[], bool], *, within: float = 10.0) -> bool:
    """True as soon as `true()` holds; False if it does not within so many seconds."""
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            return False
        pause(0.02)
    return True
