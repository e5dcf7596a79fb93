"""Measure what users notice when replicas fail: killed and slow replicas, outages, recovery.

`python -m benchmarks.resilience [PART ...]` starts fake replicas as processes, kills them, and sends them requests
through `LLMIntegration` with its default settings. In the parts that need a local provider, it is the real model in
the embedded engine, or a fake Ollama server.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import uvloop

from benchmarks.foundation import model_path, say
from benchmarks.gateway import free_port, percentile
from mongars.core.clock import SystemClock
from mongars.core.errors import MongarsError
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.core.ids import new_id
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.inference.config import InferenceConfig
from mongars.inference.events import AttemptStarted, Moved
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.faults import TEXT
from mongars.testing.inference import build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from mongars.testing.inference import Stack

CLOCK = SystemClock()
RATE = 20.0
"""Requests per second, in the parts with a steady load."""
WORDS_EVERY = 0.01


class Replica:
    """A fake replica in a process of its own, which can be killed and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base(self) -> str:
        """The URL of the replica."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the replica and wait until it answers."""
        argv = [sys.executable, "-m", "mongars.testing.fake_replica", "--port", str(self.port)]
        self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own, and it takes no time
            argv, stdout=subprocess.DEVNULL
        )
        async with aiohttp.ClientSession(self.base) as http:
            while True:
                try:
                    async with http.get("/healthz") as response:
                        response.raise_for_status()
                        return
                except aiohttp.ClientError:
                    await CLOCK.sleep(0.02)

    async def always(self, **fault: object) -> None:
        """Set the fault of every further request."""
        async with (
            aiohttp.ClientSession(self.base) as http,
            http.put("/control/always", json={"kind": "answer", **fault}) as response,
        ):
            response.raise_for_status()

    def kill(self) -> None:
        """Kill the replica by SIGKILL and wait until it has ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@asynccontextmanager
async def replicas(count: int, **fault: object) -> AsyncIterator[list[Replica]]:
    """Start `count` replicas that have the fault `fault` in every request."""
    found = [Replica() for _ in range(count)]
    try:
        for replica in found:
            await replica.start()
            await replica.always(**fault)
        yield found
    finally:
        for replica in found:
            replica.kill()


def client(
    found: list[Replica], *, engine: LlamaCppEngine | None = None, ollama: str | None = None
) -> Stack:
    """`LLMIntegration` with these replicas as endpoints; all settings but the connection limits are the defaults."""
    config = InferenceConfig(
        endpoints=tuple(f"{replica.base}/generate" for replica in found),
        use_ray=True,
        max_connections=256,
        max_keepalive=64,
        ollama_host=ollama,
        ollama_model="fake" if ollama else None,
    )
    return build(config, engine=engine)


def question(text: str = "Say the words.") -> GenerationRequest:
    """A greedy request without an account."""
    return GenerationRequest(
        messages=(Message(role="user", content=text),),
        request_id=new_id("req"),
        sampling=Sampling(temperature=0.0, max_tokens=8),
    )


@dataclass(slots=True)
class Tally:
    """The results of a load."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first_tokens: list[float] = field(default_factory=list)
    providers: Counter[str] = field(default_factory=Counter)


async def ask(stack: Stack, tally: Tally) -> None:
    """Send one request and record its result."""
    began, accumulated = CLOCK.monotonic(), AnswerAccumulator()
    try:
        async with stack.integration.open(question()) as answer:
            tally.first_tokens.append(CLOCK.monotonic() - began)
            tally.providers[answer.route.provider] += 1
            async for chunk in answer:
                accumulated.add(chunk)
        right = accumulated.completion(answer.origin).text == TEXT
        tally.outcomes["complete" if right else "wrong text"] += 1
    except MongarsError as error:
        tally.outcomes[error.code] += 1


async def load(stack: Stack, seconds: float, *, rate: float = RATE) -> Tally:
    """Send requests at a steady rate for `seconds`, however long each takes."""
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        began = CLOCK.monotonic()
        for number in range(int(seconds * rate)):
            await CLOCK.sleep(max(0.0, began + number / rate - CLOCK.monotonic()))
            group.create_task(ask(stack, tally))
    return tally


async def killed() -> None:
    """Kill and restart one of two endpoints under load, without a local provider, and print the results."""
    async with replicas(2, token_delay=WORDS_EVERY) as found:
        stack = client(found)
        async with stack.integration, asyncio.TaskGroup() as group:
            work = group.create_task(load(stack, 24.0))
            await CLOCK.sleep(8.0)
            found[0].kill()
            await CLOCK.sleep(8.0)
            await found[0].start()
            back = CLOCK.monotonic()
            await found[0].always(token_delay=WORDS_EVERY)
            while not await received(found[0]):
                await CLOCK.sleep(0.05)
            used = CLOCK.monotonic() - back
        tally, moves = work.result(), len(stack.observer.of(Moved))
        say(
            f"killed under {RATE:g} requests/s: {dict(tally.outcomes)}, {moves} answers moved,"
            f" first token p99 {percentile(tally.first_tokens, 0.99) * 1e3:.0f} ms;"
            f" used again {used:.1f} s after its return"
        )


async def received(replica: Replica) -> int:
    """The number of requests that the replica has received."""
    async with aiohttp.ClientSession(replica.base) as http, http.get("/control") as response:
        return len((await response.json())["received"])


async def slow() -> None:
    """Make one of two endpoints ten times slower under load, and print its share of requests per second."""
    normal, late = 0.05, 0.5
    async with replicas(2, first_delay=normal) as found:
        stack = client(found)
        async with stack.integration, asyncio.TaskGroup() as group:
            group.create_task(load(stack, 18.0))
            await CLOCK.sleep(6.0)
            await found[0].always(first_delay=late)
            shares = []
            for _ in range(10):
                before = [await received(replica) for replica in found]
                await CLOCK.sleep(1.0)
                after = [await received(replica) for replica in found]
                sent = [new - old for new, old in zip(after, before, strict=True)]
                shares.append(sent[0] / max(1, sum(sent)))
        shown = " ".join(f"{share * 100:.0f}" for share in shares)
        say(f"share of an endpoint 10 times slower, second by second, %: {shown}")


async def local() -> None:
    """Kill all endpoints, and print what the fallback adds to the embedded engine's own first token."""

    def engine() -> LlamaCppEngine:
        config = LlamaCppConfig(model_path=model_path(), model_name="bench", slots=2)
        return LlamaCppEngine(config, clock=CLOCK)

    cold: list[float] = []
    warm: list[float] = []
    back: list[float] = []
    for _ in range(3):
        bare = engine()
        began = CLOCK.monotonic()
        await bare.start()
        await first_token(bare)
        own_cold = CLOCK.monotonic() - began
        began = CLOCK.monotonic()
        await first_token(bare)
        own_warm = CLOCK.monotonic() - began
        await bare.aclose()
        async with replicas(2) as found:
            stack = client(found, engine=engine())
            async with stack.integration:
                await ask(stack, Tally())
                for replica in found:
                    replica.kill()
                for times, own in ((cold, own_cold), (warm, own_warm)):
                    began = CLOCK.monotonic()
                    async with stack.integration.open(question()) as answer:
                        times.append(CLOCK.monotonic() - began - own)
                        if answer.route.provider != "embedded":
                            sys.exit("A dead endpoint answered; the measure would be void.")
                await found[0].start()
                began, tally = CLOCK.monotonic(), Tally()
                while not tally.providers["ray_serve"]:
                    await ask(stack, tally)
                    await CLOCK.sleep(0.1)
                back.append(CLOCK.monotonic() - began)
    say(f"both dead, first local token beyond the engine's own, first request: {spread(cold)}")
    say(f"both dead, first local token beyond the engine's own, next request:  {spread(warm)}")
    say(f"answered by Ray again after its return: {spread(back)}")


async def first_token(engine: LlamaCppEngine) -> None:
    """Send a request to the engine itself, and wait for its first token."""
    async with engine.stream(question()) as blocks:
        async for block in blocks:
            if b'"content":"' in block:
                return


def spread(values: list[float]) -> str:
    """Median and range of seconds, as text."""
    return f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


async def outage() -> None:
    """Let all endpoints fail for 20 s, and print how many attempts they get for each request."""
    faults: dict[str, dict[str, object]] = {
        "503": {"kind": "status", "code": 503, "error": "overloaded"},
        "500": {"kind": "status", "code": 500, "error": "inference_failed"},
        "reset": {"kind": "reset"},
        "silence": {"kind": "silence"},
    }
    for name, fault in faults.items():
        for rate in (3.0, 30.0):
            async with replicas(2, **fault) as found, FakeOllama() as ollama:
                stack = client(found, ollama=ollama.base)
                async with stack.integration:
                    tally = await load(stack, 20.0, rate=rate)
                attempts, asked = len(stack.observer.of(AttemptStarted)), tally.outcomes.total()
                say(
                    f"outage by {name}, {rate:g} requests/s: {dict(tally.outcomes)},"
                    f" {attempts} attempts for {asked} requests: {attempts / asked:.2f} each,"
                    f" first token p50 {percentile(tally.first_tokens, 0.5):.2f} s"
                    f" max {max(tally.first_tokens):.2f} s"
                )


PARTS: dict[str, Callable[[], Coroutine[None, None, None]]] = {
    "killed": killed,
    "slow": slow,
    "local": local,
    "outage": outage,
}


async def measure(parts: list[str]) -> None:
    """Run the parts in order."""
    for name in parts:
        await PARTS[name]()


def main() -> None:
    """Run the chosen parts, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all of them")
    uvloop.run(measure(parser.parse_args().parts or list(PARTS)))


if __name__ == "__main__":
    main()
