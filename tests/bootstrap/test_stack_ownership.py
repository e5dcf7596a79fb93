from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest

from bootstrap.stack_bench import ENVIRONMENT, RUNAWAY, SLEEPER, argv, eventually, marked
from mongars.bootstrap.stack.ownership import (
    PART_VARIABLE,
    STACK_VARIABLE,
    hold_home,
    owned_processes,
    stack_id,
    stop_owned,
)
from mongars.core.errors import ConfigurationError


@contextmanager
def running(script: str, *arguments: str, stack: str | None = None, part: str = "it"):
    """A running process, killed at the end of the block; its environment has the stack id `stack`, if given."""
    marks = {} if stack is None else {STACK_VARIABLE: stack, PART_VARIABLE: part}
    process = subprocess.Popen(  # noqa: S603 - our own script
        argv(script, *arguments), env={**ENVIRONMENT, **marks}, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        if script == SLEEPER:
            assert process.stdout.readline() == b"here\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_id_belongs_to_the_folder(tmp_path):
    """A symbolic link to a home has the stack id of that home; another folder has another id."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert stack_id(tmp_path / "link") == stack_id(tmp_path)
    assert stack_id(tmp_path) != stack_id(tmp_path / "other")


def test_only_marked_processes_are_owned(tmp_path):
    """Stopping a stack ends only processes with its stack id in their environment."""
    mine, theirs = str(tmp_path / "mine"), str(tmp_path / "theirs")
    with (
        running(SLEEPER, stack=mine) as owned,
        running(SLEEPER, stack=theirs) as other,
        running(SLEEPER) as stranger,
    ):
        assert [process.pid for process in owned_processes(mine)] == [owned.pid]
        report = stop_owned(mine, grace=5)
        assert (report.stopped, report.killed, report.alive) == (1, (), ())
        assert owned.wait(5) != 0
        assert other.poll() is None
        assert stranger.poll() is None


def test_one_part_can_be_ended_alone(tmp_path):
    """Stopping the part `ray` of a stack ends Ray's processes and not the API's."""
    stack = str(tmp_path)
    with (
        running(SLEEPER, stack=stack, part="ray") as ray,
        running(SLEEPER, stack=stack, part="api") as api,
    ):
        assert stop_owned(stack, part="ray", grace=5).stopped == 1
        assert ray.wait(5) != 0
        assert api.poll() is None


def test_a_process_that_left_its_session_is_owned(tmp_path):
    """A process that left the stack's session is still found by the stack id in its environment."""
    with running(RUNAWAY, stack=str(tmp_path)):
        assert eventually(lambda: len(marked(str(tmp_path))) == 2)
        assert stop_owned(str(tmp_path), grace=5).stopped == 2
    assert marked(str(tmp_path)) == []


WRITER = """
import sys, time
file = open(sys.argv[1], sys.argv[2])
print('open', flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("mode", "owned"), [("w", 1), ("r", 0)], ids=["writes", "reads"])
def test_whoever_writes_into_the_private_folder_is_owned(tmp_path, mode, owned):
    """A process without the stack id belongs to the stack if it has a file of the private folder open for writing.

    Reading such a file does not suffice.
    """
    path = tmp_path / "private" / "file"
    path.parent.mkdir()
    path.touch()
    with running(WRITER, str(path), mode) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = owned_processes("no-such-stack", folders=[path.parent])
        assert len(found) == owned


def test_the_caller_is_never_owned(tmp_path):
    """A process with the stack id in its environment does not count itself as owned."""
    script = (
        "from mongars.bootstrap.stack.ownership import owned_processes as o; import sys;"
        " print(len(o(sys.argv[1])))"
    )
    environment = {**ENVIRONMENT, STACK_VARIABLE: str(tmp_path)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "0"


def test_a_home_has_one_holder(tmp_path):
    """While one process holds a home, a second is refused with the holder's pid; afterwards the home is free."""
    with ExitStack() as stack:
        stack.enter_context(hold_home(tmp_path))
        with pytest.raises(ConfigurationError, match=rf"pid {os.getpid()}\b.*MONGARS_HOME"):
            stack.enter_context(hold_home(tmp_path))
    with hold_home(tmp_path):
        pass
