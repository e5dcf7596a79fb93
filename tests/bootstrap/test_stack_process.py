from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest

from bootstrap.stack_bench import (
    CRASHER,
    DEAF,
    DEAF_GRANDCHILD,
    SLEEPER,
    Recorder,
    child,
    eventually,
    marked,
)
from mongars.bootstrap.stack.log_file import open_log, rotate, tail
from mongars.core.background import Background
from mongars.core.clock import SystemClock
from mongars.core.errors import NotReady


async def never() -> bool:
    """A readiness probe that always returns False."""
    return False


@pytest.fixture
def recorder() -> Recorder:
    """A listener that keeps all events about the child."""
    return Recorder()


async def test_a_child_starts_and_stops(tmp_path, recorder):
    """A child runs in a session of its own, writes a log that only its owner can read, and is gone after the stop."""
    it = child(SLEEPER, tmp_path, recorder)
    await it.start()
    assert it.pid is not None
    assert os.getsid(it.pid) == it.pid
    assert eventually(lambda: "here" in tail(tmp_path / "it.log"))
    assert (tmp_path / "it.log").stat().st_mode & 0o777 == 0o600
    report = await asyncio.to_thread(it.stop, grace=5)
    assert (report.stopped, report.killed, report.alive) == (1, (), ())
    assert marked(str(tmp_path)) == []
    assert recorder.states("it") == ["started", "ready", "stopped"]


async def test_a_child_that_dies_at_once_is_an_error(tmp_path, recorder):
    """If a child exits while starting, the error has the exit code, the log's path and its last lines."""
    with pytest.raises(NotReady, match=r"ended with 3.*it\.log:\nboom"):
        await child(CRASHER, tmp_path, recorder, ready=never).start()


async def test_a_child_that_never_answers_is_an_error(tmp_path, recorder):
    """A child that is not ready in time fails the start."""
    it = child(SLEEPER, tmp_path, recorder, ready=never, within=0.3)
    with pytest.raises(NotReady, match="does not answer"):
        await it.start()
    await asyncio.to_thread(it.stop, grace=5)


async def test_a_crashed_child_is_restarted(tmp_path, recorder):
    """A killed child is restarted after 0.5 s, and crash, signal and restart are reported."""
    it = child(SLEEPER, tmp_path, recorder)
    await it.start()
    watcher = Background(it.supervise, name="watch")
    watcher.start()
    first = it.pid
    assert first is not None
    await until(lambda: tail(tmp_path / "it.log") == "here")
    os.kill(first, signal.SIGKILL)
    await until(lambda: recorder.states("it")[2:] == ["crashed", "restarting", "started", "ready"])
    assert it.pid not in (None, first)
    crashed, restarting = recorder.children("it")[2:4]
    assert crashed.code == -signal.SIGKILL
    assert crashed.detail == "here"
    assert restarting.delay == 0.5
    await watcher.aclose()
    await asyncio.to_thread(it.stop, grace=5)


async def test_restarts_come_ever_more_slowly(tmp_path, recorder):
    """The delay before a restart doubles with each crash: 0.5 s, 1 s, 2 s."""
    it = child(CRASHER, tmp_path, recorder)
    await it.start()
    watcher = Background(it.supervise, name="watch")
    watcher.start()
    await until(lambda: recorder.states("it").count("restarting") >= 3)
    await watcher.aclose()
    delays = [event.delay for event in recorder.children("it") if event.state == "restarting"]
    assert delays[:3] == [0.5, 1.0, 2.0]
    await asyncio.to_thread(it.stop, grace=5)


async def test_what_a_crashed_child_left_is_ended_before_the_restart(tmp_path, recorder):
    """Processes that a crashed child started are ended before the child is restarted."""
    it = child(DEAF_GRANDCHILD, tmp_path, recorder)
    await it.start()
    watcher = Background(it.supervise, name="watch")
    watcher.start()
    await until(lambda: len(marked(str(tmp_path))) == 2)
    grandchild = next(p for p in marked(str(tmp_path)) if p.pid != it.pid)
    assert it.pid is not None
    os.kill(it.pid, signal.SIGKILL)
    await until(lambda: "restarting" in recorder.states("it"))
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE
    await watcher.aclose()
    await asyncio.to_thread(it.stop, grace=0.5)


@pytest.mark.parametrize("script", [DEAF, DEAF_GRANDCHILD], ids=["child", "grandchild"])
async def test_whoever_ignores_sigterm_is_killed(tmp_path, recorder, script):
    """A child or grandchild that ignores SIGTERM is killed after the grace period and reported as killed."""
    it = child(script, tmp_path, recorder)
    await it.start()
    assert eventually(lambda: "deaf" in tail(tmp_path / "it.log"))
    began = time.monotonic()
    report = await asyncio.to_thread(it.stop, grace=0.5)
    assert time.monotonic() - began < 3
    assert len(report.killed) == 1
    assert report.alive == ()
    assert marked(str(tmp_path)) == []
    assert recorder.children("it")[-1].forced


async def test_a_task_that_ends_well_is_done(tmp_path, recorder):
    """`run_to_end` waits for a child that exits by itself."""
    await child("print('done')", tmp_path, recorder).run_to_end(within=10)
    assert tail(tmp_path / "it.log") == "done"


async def test_a_task_that_fails_is_an_error(tmp_path, recorder):
    """If a child run to its end fails, the error has its exit code and the end of its log."""
    with pytest.raises(NotReady, match=r"ended with 3(.|\n)*boom"):
        await child(CRASHER, tmp_path, recorder).run_to_end(within=10)


async def test_a_task_that_hangs_is_ended(tmp_path, recorder):
    """A child that does not exit in time is stopped, and no process of it is left."""
    with pytest.raises(NotReady, match="did not end within 0 s"):
        await child(SLEEPER, tmp_path, recorder).run_to_end(within=0.3)
    assert marked(str(tmp_path)) == []


def test_a_large_log_is_put_aside(tmp_path):
    """At a start, a log above the size limit is renamed to `it.log.1`, and a new log begins."""
    path = tmp_path / "it.log"
    path.write_bytes(b"x" * (11 << 20))
    open_log(path).close()
    assert path.stat().st_size == 0
    assert path.with_name("it.log.1").stat().st_size == 11 << 20


def test_a_large_log_is_put_aside_while_its_child_writes(tmp_path):
    """A large log is moved while its child writes, and the child's next lines are in the new log."""
    path = tmp_path / "it.log"
    with open_log(path) as log:
        for _ in range(3):
            log.write(b"x" * (11 << 20))
            log.flush()
            rotate(path)
        log.write(b"next\n")
        log.flush()
    assert path.read_bytes() == b"next\n"
    assert path.with_name("it.log.1").stat().st_size == 11 << 20
    assert path.with_name("it.log.1").stat().st_mode & 0o077 == 0
    rotate(tmp_path / "none.log")


def test_the_end_of_a_missing_log_is_empty(tmp_path):
    """The end of a log that does not exist is an empty string."""
    assert tail(tmp_path / "none.log") == ""


async def until(true) -> None:
    """Wait until `true()` holds; fail after 15 s."""
    clock = SystemClock()
    async with asyncio.timeout(15):
        while not true():
            await clock.sleep(0.02)
