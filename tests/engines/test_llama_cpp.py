"""llama.cpp in a child process: crashes, cancellation, and clean shutdown."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import GenerationInterrupted, InferenceFailed
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter
from support import eventually, impatient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.model
CLOCK = SystemClock()


def ask(text: str, **sampling: object) -> GenerationRequest:
    return GenerationRequest(
        messages=(Message(role="user", content=text),),
        request_id="req-test",
        sampling=Sampling(**{"temperature": 0.0, "max_tokens": 300, **sampling}),
    )


async def accumulate(engine: LlamaCppEngine, request: GenerationRequest) -> AnswerAccumulator:
    splitter, result = EventSplitter(), AnswerAccumulator()
    async with engine.stream(request) as blocks:
        async for block in blocks:
            for event in splitter.feed(block):
                if not event.is_done:
                    result.add(read_chunk(event))
    return result


async def test_a_long_temporary_folder_leaves_room_for_the_socket(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a temporary folder whose path has more than 110 characters, too long for a socket, the engine answers."""
    long = tmp_path / "t" / "x".ljust(110, "x")
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    config = LlamaCppConfig(model_path=base_model, model_name="smollm2", slots=1)
    made = LlamaCppEngine(config, clock=SystemClock())
    await made.start()
    try:
        assert (await accumulate(made, ask("Hi", max_tokens=2))).text
    finally:
        await made.aclose()


@pytest.fixture
async def engine(base_model: Path) -> AsyncIterator[LlamaCppEngine]:
    config = LlamaCppConfig(model_path=base_model, model_name="smollm2", slots=1)
    made = LlamaCppEngine(config, clock=SystemClock())
    await made.start()
    yield made
    await made.aclose()


async def cpu_seconds_within(seconds: float, process: psutil.Process) -> float:
    before = sum(process.cpu_times()[:2])
    await CLOCK.sleep(seconds)
    return sum(process.cpu_times()[:2]) - before


def child_of(engine: LlamaCppEngine) -> psutil.Process:
    assert engine.status.pid is not None
    return psutil.Process(engine.status.pid)


async def test_killed_child_ends_the_stream_with_an_error_and_comes_back(
    engine: LlamaCppEngine,
) -> None:
    """If the child process is killed, the stream raises; the engine is ready again within 5 s and no zombie stays."""
    child = child_of(engine)
    async with engine.stream(ask("Tell me a very long story")) as blocks:
        await anext(blocks)
        child.send_signal(signal.SIGKILL)
        with pytest.raises(GenerationInterrupted):
            async for _ in blocks:
                pass
    await eventually(
        lambda: engine.status.state == "ready" and engine.status.pid != child.pid, seconds=5
    )
    assert (await accumulate(engine, ask("Say hi", max_tokens=3))).text
    assert engine.status.restarts == 1
    assert not psutil.pid_exists(child.pid)


async def test_stuck_child_is_killed_and_replaced(engine: LlamaCppEngine) -> None:
    """A stopped child process is detected by its health checks, without a request, and replaced within 25 s."""
    child = child_of(engine)
    child.send_signal(signal.SIGSTOP)
    await eventually(
        lambda: engine.status.state == "ready" and engine.status.pid != child.pid, seconds=25
    )
    assert (await accumulate(engine, ask("Say hi", max_tokens=3))).text
    assert not psutil.pid_exists(child.pid)


async def test_request_before_a_silent_child_fails_soon(base_model: Path) -> None:
    """A request to a child process that sends nothing for `stuck_after` fails; it does not wait endlessly."""
    config = LlamaCppConfig(model_path=base_model, model_name="smollm2", slots=1, stuck_after=3.0)
    made = LlamaCppEngine(config, clock=SystemClock())
    await made.start()
    try:
        async with made.stream(ask("Tell me a very long story")) as blocks:
            await anext(blocks)
            child_of(made).send_signal(signal.SIGSTOP)
            async with asyncio.timeout(30):
                with pytest.raises(GenerationInterrupted):
                    async for _ in blocks:
                        pass
    finally:
        await made.aclose()


async def test_reader_slower_than_the_limit_is_not_the_engines_silence(base_model: Path) -> None:
    """A client that reads more slowly than `stuck_after` does not cause the child process to be killed."""
    config = LlamaCppConfig(model_path=base_model, model_name="smollm2", slots=1, stuck_after=3.0)
    made = LlamaCppEngine(config, clock=SystemClock())
    await made.start()
    try:
        pid = made.status.pid
        async with made.stream(ask("Tell me a very long story", max_tokens=40)) as blocks:
            await anext(blocks)
            await CLOCK.sleep(6.0)
            async for _ in blocks:
                pass
        assert made.status.pid == pid
    finally:
        await made.aclose()


@pytest.mark.parametrize("words", [60, 3500], ids=["short-prompt", "long-prompt"])
async def test_abandoned_before_the_first_token_stops_the_work(
    engine: LlamaCppEngine, words: int
) -> None:
    """If the client leaves before the first token, the child process stops using the CPU."""
    entered = asyncio.Event()

    async def read() -> None:
        async with engine.stream(ask("word " * words)) as blocks:
            entered.set()
            async for _ in blocks:
                pass

    async with impatient(read) as client:
        await entered.wait()
        await client.leave()
    async with asyncio.timeout(5):  # reading 3,500 tokens to the end takes far longer
        while await cpu_seconds_within(0.3, child_of(engine)) > 0.05:
            pass


async def test_broken_model_is_refused_with_the_engines_own_words(tmp_path: Path) -> None:
    """A file that is no model fails the start with an error that names the file, and leaves no process."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 1000)
    config = LlamaCppConfig(model_path=broken, model_name="broken")
    made = LlamaCppEngine(config, clock=SystemClock())
    with pytest.raises(InferenceFailed, match=r"broken\.gguf"):
        await made.start()
    assert made.status.state == "failed"
    children = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    assert not [p for p in children if "mongars.engines.llama_cpp.child" in p.cmdline()]


async def test_socket_is_private(engine: LlamaCppEngine) -> None:
    """Only the same user can reach the engine: its socket has mode 0600, the socket's folder 0700."""
    assert engine._child.process is not None
    path = engine._child.process.socket_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_close_removes_process_and_socket(base_model: Path) -> None:
    """After `aclose`, neither the child process nor the folder of its socket exists."""
    made = LlamaCppEngine(
        LlamaCppConfig(model_path=base_model, model_name="smollm2"), clock=SystemClock()
    )
    await made.start()
    assert made._child.process is not None
    pid, folder = made._child.process.pid, made._child.process.socket_path.parent
    await made.aclose()
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


def test_child_goes_when_its_parent_is_killed(base_model: Path) -> None:
    """If the parent process is killed, the child process ends and the folder of its socket is removed."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from mongars.core.clock import SystemClock\n"
        "from mongars.engines.llama_cpp.config import LlamaCppConfig\n"
        "from mongars.engines.llama_cpp.engine import LlamaCppEngine\n"
        "async def main():\n"
        "    config = LlamaCppConfig(model_path=pathlib.Path(sys.argv[1]), model_name='m')\n"
        "    engine = LlamaCppEngine(config, clock=SystemClock())\n"
        "    await engine.start()\n"
        "    print(engine.status.pid, engine._child.process.socket_path.parent, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(  # noqa: S603 (our own interpreter and program)
        [sys.executable, "-c", program, str(base_model)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    child = psutil.Process(int(pid))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    child.wait(timeout=5)
    assert not Path(folder).exists()


async def test_log_probabilities_reach_the_caller(engine: LlamaCppEngine) -> None:
    """With `logprobs` the engine reports one log-probability per token."""
    result = await accumulate(engine, ask("Say hi", max_tokens=4, logprobs=True))
    logprobs = result.completion(engine.origin).logprobs
    assert len(logprobs) == 4
    assert all(value <= 0 for value in logprobs)
