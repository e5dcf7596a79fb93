"""Measure the whole stack on this machine: start, first token, throughput, cancellation.

`python -m benchmarks.foundation` starts a stack with its own home, ports and Ray cluster, and compares requests
through API and Ray with the bare engine, interleaved, in one run. Figures are medians; only the ratios are
comparable between machines.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from mongars.bootstrap.first_start import CLI_KEY
from mongars.bootstrap.secrets import read_secret
from mongars.core.clock import SystemClock
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.engines.provisioning.model_cache import find_model
from mongars.settings import child_environment, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

CLOCK = SystemClock()
PORTS = {
    "MONGARS_PORT": "18480",
    "RAY_HTTP_PORT": "18400",
    "RAY_PORT": "16479",
    "RAY_DASHBOARD_PORT": "18465",
}
URL = f"http://127.0.0.1:{PORTS['MONGARS_PORT']}"
ROUNDS = 7
STORY = "Tell me a very long story about the number {}."
"""Greedy answers to this prompt exceed every token limit here, so all answers have equally many tokens."""


def say(line: str) -> None:
    """Print one line of results."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def milliseconds(values: list[float]) -> str:
    """Median and range of seconds, as text in milliseconds."""
    low, high = min(values) * 1000, max(values) * 1000
    return f"{statistics.median(values) * 1000:7.1f} ms  ({low:.1f} to {high:.1f})"


def model_path() -> Path:
    """The path of the provisioned base model."""
    found = find_model(load_settings().cache, "general")
    if found is None:
        sys.exit("No base model. Run: python -m scripts.provision_models")
    return found.path


@asynccontextmanager
async def bare_engine(slots: int) -> AsyncIterator[LlamaCppEngine]:
    """llama.cpp as a replica runs it, without Ray and API."""
    config = LlamaCppConfig(model_path=model_path(), model_name="bench", slots=slots)
    engine = LlamaCppEngine(config, clock=CLOCK)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


def unique(text: str) -> str:
    """The text with a changing beginning, so that no cached prompt is reused."""
    return f"{CLOCK.monotonic()} {text}"


def ask(text: str, max_tokens: int) -> GenerationRequest:
    """A greedy request."""
    return GenerationRequest(
        messages=(Message(role="user", content=text),),
        request_id="bench",
        sampling=Sampling(temperature=0.0, max_tokens=max_tokens, top_p=0.9),
    )


async def engine_stream(engine: LlamaCppEngine, text: str, max_tokens: int) -> tuple[float, int]:
    """The seconds to the first content, and the number of content events, of the bare engine."""
    began, first, count = CLOCK.monotonic(), 0.0, 0
    async with engine.stream(ask(text, max_tokens)) as blocks:
        async for block in blocks:
            found = block.count(b'"delta":{"content":"')
            if found and not count:
                first = CLOCK.monotonic() - began
            count += found
    return first, count


async def stack_stream(
    http: aiohttp.ClientSession, text: str, max_tokens: int
) -> tuple[float, int]:
    """The seconds to the first content, and the number of content events, through API, Ray and engine."""
    body = {
        "model": "mongars",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "top_p": 0.9,
        "max_tokens": max_tokens,
        "stream": True,
    }
    began, first, count = CLOCK.monotonic(), 0.0, 0
    async with http.post("/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        if response.headers["x-llm-provider"] != "ray_serve":
            sys.exit("Ray did not answer; the comparison would be void.")
        async for block in response.content.iter_any():
            found = block.count(b'"delta":{"content":"') - block.count(b'"content":""')
            if found > 0 and not count:
                first = CLOCK.monotonic() - began
            count += max(found, 0)
    return first, count


async def rate(stream: Callable[[str], Coroutine[None, None, tuple[float, int]]], n: int) -> float:
    """Tokens per second of `n` concurrent streams, each of another story."""
    began = CLOCK.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stream(STORY.format(number))) for number in range(n)]
    return sum(task.result()[1] for task in tasks) / (CLOCK.monotonic() - began)


async def compare(http: aiohttp.ClientSession) -> None:
    """Compare first token and throughput of the bare engine and the whole stack, in turn."""
    async with bare_engine(4) as engine:
        bare, full = [], []
        for _ in range(ROUNDS):
            bare.append((await engine_stream(engine, unique("Say hello."), 2))[0])
            full.append((await stack_stream(http, unique("Say hello."), 2))[0])
        added = statistics.median(full) - statistics.median(bare)
        say(f"first token, bare engine          {milliseconds(bare)}")
        say(f"first token, API and Ray          {milliseconds(full)}   added {added * 1000:.1f} ms")
        for streams in (1, 4):
            ratios, rates = [], []
            for _ in range(3):
                alone = await rate(lambda text: engine_stream(engine, text, 64), streams)
                whole = await rate(lambda text: stack_stream(http, text, 64), streams)
                ratios.append(whole / alone)
                rates.append((alone, whole))
            alone, whole = (statistics.median(side) for side in zip(*rates, strict=True))
            say(
                f"tokens/s, {streams} stream(s)             bare {alone:6.1f}   stack {whole:6.1f}"
                f"   ratio {statistics.median(ratios):.2f}"
            )


async def slot_free_after_leaving(engine: LlamaCppEngine, text: str, delay: float) -> float:
    """The seconds by which the next request is delayed if another one has just been abandoned in the only slot."""
    probe_began = CLOCK.monotonic()
    await engine_stream(engine, "Hi", 1)
    idle = CLOCK.monotonic() - probe_began
    work = asyncio.timeout(delay)
    try:
        async with work:
            await engine_stream(engine, text, 1000)
    except TimeoutError:
        left = CLOCK.monotonic()
    else:
        sys.exit("The answer ended before the client could leave.")
    await engine_stream(engine, "Hi", 1)
    return max(0.0, CLOCK.monotonic() - left - idle)


async def cancellation() -> None:
    """Measure how soon a slot is free after its client has left."""
    cases = {
        "mid-stream": (STORY.format(0), 1.0),
        "reading a 500-token prompt": ("word " * 500, 0.5),
        "reading a 3,500-token prompt": ("word " * 3500, 2.0),
    }
    async with bare_engine(1) as engine:
        for name, (text, delay) in cases.items():
            times = [await slot_free_after_leaving(engine, text, delay) for _ in range(ROUNDS)]
            say(f"slot free, {name:<28} {milliseconds(times)}")


async def queued(http: aiohttp.ClientSession, health: str) -> None:
    """Measure how soon a replica has no request left after all of its clients left, in slots and in the queue."""

    async def load() -> int:
        async with http.get(health) as response:
            found = await response.json()
            return int(found["active"] + found["waiting"])

    times = []
    for _ in range(ROUNDS):
        try:
            async with asyncio.timeout(1.0), asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(stack_stream(http, STORY.format(0), 1000))
        except TimeoutError:
            left = CLOCK.monotonic()
        while await load():
            await CLOCK.sleep(0.002)
        times.append(CLOCK.monotonic() - left)
    say(f"replica idle after 8 clients left {milliseconds(times)}")


async def measure(began: float, home: Path) -> None:
    """Measure everything that needs the running stack."""
    headers = {"Authorization": f"Bearer {read_secret(home, CLI_KEY)}"}
    async with aiohttp.ClientSession(URL, headers=headers) as http:
        first, _ = await stack_stream(http, unique("Say hello."), 2)
        total = CLOCK.monotonic() - began
        say(f"start to first token              {total:7.1f} s   (first answer {first:.2f} s)")
        await compare(http)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(URL, headers=headers, connector=connector) as http:
        await queued(http, f"http://127.0.0.1:{PORTS['RAY_HTTP_PORT']}/healthz")


def main() -> None:
    """Run all measurements."""
    model_path()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        environment = child_environment({**PORTS, "MONGARS_HOME": folder})
        began = CLOCK.monotonic()
        stack = subprocess.Popen(
            [sys.executable, "-m", "mongars", "up"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            for line in stack.stdout or ():
                if "is ready" in line:
                    break
            else:
                sys.exit("The stack did not start.")
            asyncio.run(measure(began, home))
        finally:
            stack.send_signal(signal.SIGINT)
            stack.communicate()
    asyncio.run(cancellation())


if __name__ == "__main__":
    main()
