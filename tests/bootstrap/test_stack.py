from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootstrap.stack_bench import (
    CRASHER,
    DEAF,
    ENVIRONMENT,
    SERVER,
    Recorder,
    eventually,
    marked,
)
from bootstrap.stack_world import World, world
from mongars.bootstrap.stack.ownership import stack_id
from mongars.bootstrap.stack.probe import http_answers
from mongars.bootstrap.stack.stack_events import Notice
from mongars.core.clock import SystemClock, pause
from mongars.core.errors import ConfigurationError, NotReady, ProvisioningFailed

TESTS = Path(__file__).parent.parent

# An API that answers requests; the API and its child ignore SIGTERM.
STUBBORN = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, '-S', '-c', {DEAF!r}])
{SERVER}
"""


@pytest.fixture
def here(tmp_path: Path) -> World:
    """A stack in an empty home directory."""
    return world(tmp_path / "home")


@pytest.fixture
def recorder() -> Recorder:
    """A listener that keeps all events of the stack."""
    return Recorder()


async def until(true) -> None:
    """Wait until `true()` holds; fail after 20 s."""
    async with asyncio.timeout(20):
        while not true():
            await SystemClock().sleep(0.02)


def ray_folder(stack: str) -> Path:
    """The folder with Ray's sockets of that stack."""
    return Path(tempfile.gettempdir()) / f"mongars-{stack}"


def mode_of(path: Path) -> int | None:
    """Type and permissions of a file, or None if the file does not exist."""
    return path.stat().st_mode if path.exists() else None


def leftovers(here: World) -> list[str]:
    """The processes of the stack that are still running."""
    return [str(process) for process in marked(stack_id(here.home))]


async def test_the_stack_starts_and_stops(here, recorder):
    """All stages succeed, the API answers, and after the stop no process and no folder is left."""
    async with here.stack(recorder) as stack:
        assert await http_answers("127.0.0.1", here.config.port, path="/")
        assert here.deployments == 1
        assert mode_of(ray_folder(stack.id)) == 0o40700
        assert (here.home / "logs" / "ray-session").is_symlink()
    assert set(recorder.stages("done")) == {
        *("leftovers", "ports", "model", "database", "ray", "serve", "api", "stop")
    }
    assert recorder.stage("model", "done").detail == "tiny"
    assert mode_of(ray_folder(stack.id)) is None
    assert leftovers(here) == []
    assert stack.report.alive == ()
    assert len(stack.report.killed) == 1  # the child of the fake Ray that ignores SIGTERM


async def test_without_ray_only_the_api_runs(tmp_path, recorder):
    """Without Ray, the API runs and nothing is deployed."""
    here = world(tmp_path / "home", use_ray=False)
    async with here.stack(recorder):
        assert await http_answers("127.0.0.1", here.config.port, path="/")
    assert here.deployments == 0
    assert "ray" not in recorder.stages("started")


async def test_two_stacks_run_side_by_side(tmp_path, recorder):
    """Stopping one of two stacks leaves the other one running."""
    first, second = world(tmp_path / "one"), world(tmp_path / "two")
    async with first.stack(recorder):
        async with second.stack(recorder):
            pass
        assert leftovers(second) == []
        assert await http_answers("127.0.0.1", first.config.port, path="/")
        assert len(leftovers(first)) == 3


async def test_a_taken_port_costs_nothing(here, recorder):
    """A port in use fails the start, with the name of its setting, before any model is provisioned."""
    with (
        socket.create_server(("127.0.0.1", here.config.ray_dashboard_port)),
        pytest.raises(ConfigurationError, match="RAY_DASHBOARD_PORT"),
    ):
        async with here.stack(recorder):
            pass
    assert "model" not in recorder.stages("started")


async def test_a_home_in_use_is_refused(here, recorder):
    """A second start in the same home is refused, and the running stack continues to answer."""
    async with here.stack(recorder):
        with pytest.raises(ConfigurationError, match="already runs"):
            async with here.stack(Recorder()):
                pass
        assert await http_answers("127.0.0.1", here.config.port, path="/")


async def test_without_a_model_nothing_starts(here, recorder):
    """If provisioning fails, the start raises its error, reports the stage as failed, and does not start Ray."""

    def fail(progress):
        msg = "no model"
        raise ProvisioningFailed(msg)

    with pytest.raises(ProvisioningFailed, match="no model"):
        async with here.stack(recorder, provision=fail):
            pass
    assert recorder.stage("model", "failed").detail == "no model"
    assert "ray" not in recorder.stages("started")


async def test_an_api_that_does_not_come_up_fails_the_start(here, recorder):
    """If the API crashes at start, the error has the end of its log, and Ray is stopped again."""
    here.api = CRASHER
    with pytest.raises(NotReady, match=r"api did not get ready(.|\n)*boom"):
        async with here.stack(recorder):
            pass
    assert leftovers(here) == []


async def test_a_failing_deployment_fails_the_start(here, recorder):
    """If the deployment fails at the first start, the start fails without a retry and leaves no process."""
    here.deploy = CRASHER
    with pytest.raises(NotReady, match="deploy ended with 3"):
        async with here.stack(recorder):
            pass
    assert leftovers(here) == []


async def test_a_crashed_ray_comes_back_with_the_application(here, recorder):
    """After a crash of Ray, what is left of it is ended, then Ray is restarted and deployed to; the API runs on."""
    async with here.stack(recorder):
        ray = recorder.children("ray")[0].pid
        assert ray is not None
        before = set(leftovers(here))
        os.kill(ray, signal.SIGKILL)
        await until(lambda: here.deployments == 2)
        await until(lambda: Notice(text="The application is deployed again.") in recorder.events)
        assert recorder.states("ray")[2:] == ["crashed", "restarting", "started", "ready"]
        assert recorder.states("api") == ["started", "ready"]
        after = set(leftovers(here))
        assert len(after) == 3
        assert len(before & after) == 1  # only the API is left of the processes before the crash
    assert leftovers(here) == []


async def test_a_crashed_api_comes_back(here, recorder):
    """A crashed API is restarted on the same port, and Ray keeps running."""
    async with here.stack(recorder):
        os.kill(recorder.children("api")[0].pid or 0, signal.SIGKILL)
        await until(
            lambda: recorder.states("api")[2:] == ["crashed", "restarting", "started", "ready"]
        )
        assert await http_answers("127.0.0.1", here.config.port, path="/")
        assert recorder.states("ray") == ["started", "ready"]


async def test_a_start_can_be_broken_off(here, recorder):
    """Cancelling a start ends the provisioning thread at its next report of progress."""
    ended = []

    def forever(progress):
        try:
            while True:
                progress("downloading", 0.5)
                pause(0.02)
        finally:
            ended.append(True)

    async def start() -> None:
        async with here.stack(recorder, provision=forever):
            pass

    task = asyncio.ensure_future(start())  # noqa: TID251 - the test cancels this task
    await until(lambda: "model" in recorder.stages("progress"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: bool(ended))
    assert recorder.stage("model", "failed").detail == "broken off"


@contextmanager
def up(here: World, *, api: str = SERVER):
    """The stack in a separate process, ready when the block begins and killed at its end."""
    process = subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-m", "bootstrap.stack_world", str(here.home), api],
        env={**ENVIRONMENT, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything(here, number):
    """One SIGINT, SIGTERM or SIGHUP stops the whole stack within 15 s with exit code 0."""
    with up(here) as process:
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == 0
        assert time.monotonic() - began < 15
    assert leftovers(here) == []


def test_stubborn_processes_cannot_hold_up_the_stop(here):
    """A stop takes less than 15 s even if every process ignores SIGTERM."""
    with up(here, api=STUBBORN) as process:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - began < 15
        assert process.stdout is not None
        assert process.stdout.read() == "killed 3, alive 0\n"
    assert leftovers(here) == []


def test_the_second_signal_kills_at_once(here):
    """A second SIGINT during the stop kills all processes within 2.5 s."""
    with up(here, api=STUBBORN) as process:
        process.send_signal(signal.SIGINT)
        pause(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert time.monotonic() - began < 2.5
    assert leftovers(here) == []


async def test_a_killed_up_is_cleaned_up_by_the_next(here, recorder):
    """After kill -9 of the supervisor, the next start ends the three processes that it left."""
    with up(here) as process:
        process.kill()
    assert len(leftovers(here)) == 3
    async with here.stack(recorder) as stack:
        detail = recorder.stage("leftovers", "done").detail
        assert detail == "stopped 3 left by an earlier run"
        assert await http_answers("127.0.0.1", here.config.port, path="/")
    assert eventually(lambda: leftovers(here) == [])
    assert stack.report.alive == ()
