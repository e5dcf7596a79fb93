"""Small real child processes, and a recorder of what the stack tells about them."""

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

# A parent that ends on SIGTERM, with a grandchild that does not.
DEAF_GRANDCHILD = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', {DEAF!r}])
time.sleep(600)
"""

# Forgets its parent, its session and the readable environment, as retitled agents do.
RUNAWAY = f"""
import os, subprocess, sys, time
if os.fork() == 0:
    os.setsid()
    os.execve(sys.executable, [sys.executable, '-c', {SLEEPER!r}], dict(os.environ))
time.sleep(600)
"""

CRASHER = "import sys, time; time.sleep(0.1); print('boom', flush=True); sys.exit(3)"

# An HTTP server on a given port, with one line of answer.
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
    """A listener that keeps everything."""

    events: list[StackEvent] = field(default_factory=list)

    def __call__(self, event: StackEvent) -> None:
        """Keep it."""
        self.events.append(event)

    def children(self, child: str) -> list[ChildEvent]:
        """What was told about one child."""
        events = [event for event in self.events if isinstance(event, ChildEvent)]
        return [event for event in events if event.child == child]

    def states(self, child: str) -> list[str]:
        """The states one child went through."""
        return [event.state for event in self.children(child)]

    def stages(self, state: str) -> list[str]:
        """The stages that reached a state, in order."""
        events = [event for event in self.events if isinstance(event, StageEvent)]
        return [event.stage for event in events if event.state == state]

    def stage(self, stage: str, state: str) -> StageEvent:
        """What was told when a stage reached a state."""
        events = [event for event in self.events if isinstance(event, StageEvent)]
        return next(event for event in events if (event.stage, event.state) == (stage, state))


def argv(script: str, *arguments: str) -> tuple[str, ...]:
    """A command line that runs a script in a lean Python."""
    return (sys.executable, "-S", "-c", script, *arguments)


def child(
    script: str, folder: Path, recorder: Recorder, *, ready: Probe = at_once, within: float = 10.0
) -> Child:
    """A supervised process of the stack named after the folder."""
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
    """A port nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def marked(stack: str) -> list[psutil.Process]:
    """The processes with a stack's mark in their environment, found without the code under test."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(STACK_VARIABLE) == stack and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def eventually(true: Callable[[], bool], *, within: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            return False
        pause(0.02)
    return True
