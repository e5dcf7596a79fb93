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

# An API that answers, and neither it nor its child listens to SIGTERM.
STUBBORN = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, '-S', '-c', {DEAF!r}])
{SERVER}
"""


@pytest.fixture
def here(tmp_path: Path) -> World:
    """A stack in an empty home."""
    return world(tmp_path / "home")


@pytest.fixture
def recorder() -> Recorder:
    """What was told."""
    return Recorder()


async def until(true) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(20):
        while not true():
            await SystemClock().sleep(0.02)


def ray_folder(stack: str) -> Path:
    """Where Ray's sockets are."""
    return Path(tempfile.gettempdir()) / f"mongars-{stack}"


def mode_of(path: Path) -> int | None:
    """Type and permissions of a file, or None if there is none."""
    return path.stat().st_mode if path.exists() else None


def leftovers(here: World) -> list[str]:
    """Processes of the stack that are still there."""
    return [str(process) for process in marked(stack_id(here.home))]


async def test_the_stack_starts_and_stops(here, recorder):
    """Every stage is done, the API answers, and afterwards no process and no folder is left."""
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
    assert len(stack.report.killed) == 1  # the deaf child of the stand-in for Ray


async def test_without_ray_only_the_api_runs(tmp_path, recorder):
    """`--no-ray`: nothing is deployed, no Ray port is needed."""
    here = world(tmp_path / "home", use_ray=False)
    async with here.stack(recorder):
        assert await http_answers("127.0.0.1", here.config.port, path="/")
    assert here.deployments == 0
    assert "ray" not in recorder.stages("started")


async def test_two_stacks_run_side_by_side(tmp_path, recorder):
    """Stopping one leaves the other alone."""
    first, second = world(tmp_path / "one"), world(tmp_path / "two")
    async with first.stack(recorder):
        async with second.stack(recorder):
            pass
        assert leftovers(second) == []
        assert await http_answers("127.0.0.1", first.config.port, path="/")
        assert len(leftovers(first)) == 3


async def test_a_taken_port_costs_nothing(here, recorder):
    """The start fails before any work is done."""
    with (
        socket.create_server(("127.0.0.1", here.config.ray_dashboard_port)),
        pytest.raises(ConfigurationError, match="RAY_DASHBOARD_PORT"),
    ):
        async with here.stack(recorder):
            pass
    assert "model" not in recorder.stages("started")


async def test_a_home_in_use_is_refused(here, recorder):
    """The second start leaves the first one alone."""
    async with here.stack(recorder):
        with pytest.raises(ConfigurationError, match="already runs"):
            async with here.stack(Recorder()):
                pass
        assert await http_answers("127.0.0.1", here.config.port, path="/")


async def test_without_a_model_nothing_starts(here, recorder):
    """The reason arrives as it was raised, and the stage is told as failed."""

    def fail(progress):
        msg = "no model"
        raise ProvisioningFailed(msg)

    with pytest.raises(ProvisioningFailed, match="no model"):
        async with here.stack(recorder, provision=fail):
            pass
    assert recorder.stage("model", "failed").detail == "no model"
    assert "ray" not in recorder.stages("started")


async def test_an_api_that_does_not_come_up_fails_the_start(here, recorder):
    """The error shows the end of its log; Ray, started meanwhile, is stopped again."""
    here.api = CRASHER
    with pytest.raises(NotReady, match=r"api did not get ready(.|\n)*boom"):
        async with here.stack(recorder):
            pass
    assert leftovers(here) == []


async def test_a_failing_deployment_fails_the_start(here, recorder):
    """At the first start nobody waits for it to get better."""
    here.deploy = CRASHER
    with pytest.raises(NotReady, match="deploy ended with 3"):
        async with here.stack(recorder):
            pass
    assert leftovers(here) == []


async def test_a_crashed_ray_comes_back_with_the_application(here, recorder):
    """Its remains are ended, it is started and deployed to again; the API runs on throughout."""
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
        assert len(before & after) == 1  # the API; of the old cluster nothing
    assert leftovers(here) == []


async def test_a_crashed_api_comes_back(here, recorder):
    """It answers again under the same port."""
    async with here.stack(recorder):
        os.kill(recorder.children("api")[0].pid or 0, signal.SIGKILL)
        await until(
            lambda: recorder.states("api")[2:] == ["crashed", "restarting", "started", "ready"]
        )
        assert await http_answers("127.0.0.1", here.config.port, path="/")
        assert recorder.states("ray") == ["started", "ready"]


async def test_a_start_can_be_broken_off(here, recorder):
    """Work that goes on in its thread ends at its next report of progress."""
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

    task = asyncio.ensure_future(start())  # noqa: TID251 - it is cancelled from outside
    await until(lambda: "model" in recorder.stages("progress"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: bool(ended))
    assert recorder.stage("model", "failed").detail == "broken off"


@contextmanager
def up(here: World, *, api: str = SERVER):
    """`up` in a process of its own, ready when the block begins."""
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
    """One signal is enough, and the exit code is that of success."""
    with up(here) as process:
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == 0
        assert time.monotonic() - began < 15
    assert leftovers(here) == []


def test_stubborn_processes_cannot_hold_up_the_stop(here):
    """15 seconds bound the stop even if every process ignores SIGTERM."""
    with up(here, api=STUBBORN) as process:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - began < 15
        assert process.stdout is not None
        assert process.stdout.read() == "killed 3, alive 0\n"
    assert leftovers(here) == []


def test_the_second_signal_kills_at_once(here):
    """Whoever presses Ctrl-C twice means it."""
    with up(here, api=STUBBORN) as process:
        process.send_signal(signal.SIGINT)
        pause(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert time.monotonic() - began < 2.5
    assert leftovers(here) == []


async def test_a_killed_up_is_cleaned_up_by_the_next(here, recorder):
    """Kill -9 of the supervisor leaves its processes; the next start ends them and begins anew."""
    with up(here) as process:
        process.kill()
    assert len(leftovers(here)) == 3
    async with here.stack(recorder) as stack:
        detail = recorder.stage("leftovers", "done").detail
        assert detail == "stopped 3 left by an earlier run"
        assert await http_answers("127.0.0.1", here.config.port, path="/")
    assert eventually(lambda: leftovers(here) == [])
    assert stack.report.alive == ()
