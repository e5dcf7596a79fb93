"""Measure the cost of the API as a gateway, compared with LiteLLM's proxy and a direct connection.

`python -m benchmarks.gateway [PART ...]` starts a model server with canned answers and one worker of each gateway,
and sends requests to each in turn, round after round. On Linux the gateways run on the first core, one at a time;
the load generator and the model server share the second. The direct connection goes to a model server on the first
core, so that it also crosses from one core to the other and back. `--litellm PATH` is the program of LiteLLM's
proxy, which has its own environment (`make bench` makes it); without it LiteLLM is left out.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import psutil
import uvloop

from benchmarks.foundation import say
from benchmarks.gateway_load import Target, closed_loop, connect, paced_streams
from benchmarks.gateway_upstream import MODES, WORDS
from mongars.core.clock import SystemClock
from mongars.settings import child_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.gateway_load import Seen

CLOCK = SystemClock()
ROUNDS = 5
THROUGHPUT_SECONDS = 1.5
LATENCY_REQUESTS = 400
MEMORY_REQUESTS = 100_000
STREAMS = (32, 64, 128, 256, 512)
GATEWAY_CORE, LOAD_CORE = 0, 1
START_SECONDS = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A server to measure, and its process, whose memory is measured, if it is a gateway."""

    target: Target
    process: psutil.Process | None = None


def free_port() -> int:
    """A port on which no program listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pin(process: psutil.Process, core: int) -> None:
    """Keep a process on one core, if the system supports that."""
    if hasattr(process, "cpu_affinity") and (os.cpu_count() or 1) > 1:
        process.cpu_affinity([core])


@contextmanager
def running(
    argv: list[str], core: int, environment: dict[str, str] | None = None
) -> Iterator[psutil.Process]:
    """Run a process until the block is left."""
    child = subprocess.Popen(  # noqa: S603 - our own command line
        argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    process = psutil.Process(child.pid)
    try:
        pin(process, core)
        yield process
    finally:
        for each in (*process.children(recursive=True), process):
            each.terminate()
        child.wait()


@contextmanager
def upstream(core: int) -> Iterator[Target]:
    """A model server with canned answers."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.gateway_upstream", str(port)]
    with running(argv, core):
        yield Target(name="direct", port=port)


@contextmanager
def mongars(endpoints: str, *, name: str = "monGARS", **variables: str) -> Iterator[Gateway]:
    """The API process, started by `mongars api`, with its own database and these variables."""
    port, key = free_port(), secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as home:
        changes = {
            "MONGARS_HOME": home,
            "MONGARS_BOOTSTRAP_API_KEY": key,
            "USE_RAY_SERVE": "true",
            "RAY_SERVE_URL": endpoints,
            "RAY_CLIENT_MAX_CONNECTIONS": "1024",
            "RAY_CLIENT_MAX_KEEPALIVE": "1024",
            **variables,
        }
        argv = [sys.executable, "-m", "mongars", "api", "--port", str(port)]
        with running(argv, GATEWAY_CORE, child_environment(changes)) as process:
            headers = {"authorization": f"Bearer {key}"}
            target = Target(name=name, port=port, headers=headers, model="mongars")
            yield Gateway(target=target, process=process)


@contextmanager
def litellm(program: Path, model: Target) -> Iterator[Gateway]:
    """LiteLLM's proxy with one worker, a master key and no database."""
    port, key = free_port(), f"sk-{secrets.token_hex(16)}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.write_text(
            "model_list:\n"
            "  - model_name: canned\n"
            "    litellm_params:\n"
            "      model: openai/canned\n"
            f"      api_base: http://127.0.0.1:{model.port}/v1\n"
            "      api_key: none\n"
            "general_settings:\n"
            f"  master_key: {key}\n"
        )
        argv = [str(program), "--config", str(config), "--host", "127.0.0.1"]
        argv += ["--port", str(port), "--num_workers", "1"]
        environment = child_environment({"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
        with running(argv, GATEWAY_CORE, environment) as process:
            headers = {"authorization": f"Bearer {key}"}
            yield Gateway(
                target=Target(name="LiteLLM", port=port, headers=headers), process=process
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The model server and everything that is compared."""

    model: Target
    ways: tuple[Gateway, ...]
    """The direct connection, followed by the gateways."""


async def answers(target: Target) -> bool:
    """Whether the server answers correctly."""
    try:
        client = await connect(target)
    except OSError:
        return False
    seen = await client.ask(target.request(stream=False))
    client.close()
    return seen.ok


async def ready(gateway: Gateway) -> None:
    """Wait until the gateway answers, then send requests to warm it up."""
    began = CLOCK.monotonic()
    while CLOCK.monotonic() - began < START_SECONDS:
        if await answers(gateway.target):
            break
        await CLOCK.sleep(0.2)
    else:
        sys.exit(f"{gateway.target.name} did not answer within {START_SECONDS:g} s.")
    for stream in (False, True):
        await closed_loop(gateway.target, connections=4, requests=100, stream=stream)


async def choose(model: Target, mode: str) -> None:
    """Set the answer mode of a model server."""
    url = f"http://127.0.0.1:{model.port}/mode/{mode}"
    async with aiohttp.ClientSession() as http, http.post(url) as response:
        response.raise_for_status()


async def use(world: World, mode: str) -> None:
    """Set the answer mode of both model servers."""
    for model in (world.model, world.ways[0].target):
        await choose(model, mode)


def percentile(values: list[float], share: float) -> float:
    """The percentile `share` (0 to 1) of the values, by rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def good(seen: list[Seen], name: str) -> list[Seen]:
    """The correct answers; a line is printed if there are others."""
    wrong = sum(not one.ok for one in seen)
    if wrong:
        say(f"  {name}: {wrong} of {len(seen)} answers failed")
    return [one for one in seen if one.ok]


async def added_latency(world: World) -> None:
    """Print the latency that each gateway adds to the direct connection: one connection, instant answers."""
    await use(world, "instant")
    for stream, what in ((False, "whole answer"), (True, "first token")):
        sums: dict[str, list[tuple[float, float]]] = {}
        for _ in range(ROUNDS):
            for way in world.ways:
                seen, _ = await closed_loop(
                    way.target, connections=1, requests=LATENCY_REQUESTS, stream=stream
                )
                times = [
                    one.first_content if stream else one.seconds
                    for one in good(seen, way.target.name)
                ]
                found = (percentile(times, 0.5), percentile(times, 0.99))
                sums.setdefault(way.target.name, []).append(found)
        medians = {
            name: tuple(statistics.median(side) for side in zip(*rounds, strict=True))
            for name, rounds in sums.items()
        }
        p50, p99 = medians["direct"]
        say(f"{what}, 1 connection: direct p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")
        for name, (middle, high) in medians.items():
            if name != "direct":
                added = ((middle - p50) * 1e3, (high - p99) * 1e3)
                say(f"  {name:<8} added p50 {added[0]:6.2f} ms   p99 {added[1]:6.2f} ms")


async def throughput(world: World) -> None:
    """Print requests per second for several numbers of connections, and the ratio to LiteLLM."""
    for mode in ("instant", "20ms"):
        await use(world, mode)
        for connections in (1, 16, 64):
            rates: dict[str, list[float]] = {}
            for _ in range(ROUNDS):
                for way in world.ways:
                    seen, seconds = await closed_loop(
                        way.target, connections=connections, seconds=THROUGHPUT_SECONDS
                    )
                    rate = len(good(seen, way.target.name)) / seconds
                    rates.setdefault(way.target.name, []).append(rate)
            line = "   ".join(f"{n} {statistics.median(r):8.0f}" for n, r in rates.items())
            if "LiteLLM" in rates:
                pairs = zip(rates["monGARS"], rates["LiteLLM"], strict=True)
                line += f"   monGARS/LiteLLM {statistics.median(a / b for a, b in pairs):.1f}"
            say(f"requests/s, {mode} upstream, {connections:2} connections: {line}")


async def stalls(world: World) -> None:
    """Print the number of concurrent paced streams that pass without a stall."""
    await use(world, "paced")
    pace = MODES["paced"].between
    for way in world.ways:
        best = 0
        for streams in STREAMS:
            seen = await paced_streams(way.target, streams=streams, spread=pace * len(WORDS) / 2)
            longest = [one.longest_gap for one in seen]
            stalled = sum(not one.ok or one.longest_gap > 2 * pace for one in seen)
            say(
                f"{streams:4} streams of a word every {pace * 1e3:.0f} ms, {way.target.name:<8}"
                f" stalled {stalled:3}   longest gap p50 {percentile(longest, 0.5) * 1e3:5.0f} ms"
                f"  max {max(longest) * 1e3:5.0f} ms"
            )
            if stalled:
                break
            best = streams
        say(f"stall-free streams, {way.target.name}: {best}")
    await use(world, "instant")


async def memory(world: World) -> None:
    """Print the resident memory before, during and after many requests."""
    await use(world, "instant")
    for way in world.ways:
        if way.process is None or way.target.name == "LiteLLM":
            continue
        sizes = [resident(way.process)]
        for _ in range(10):
            half = MEMORY_REQUESTS // 20
            for stream in (False, True):
                seen, _ = await closed_loop(
                    way.target, connections=16, requests=half, stream=stream
                )
                good(seen, way.target.name)
            sizes.append(resident(way.process))
        shown = " ".join(f"{size:.0f}" for size in sizes)
        say(f"memory of {way.target.name} over {MEMORY_REQUESTS} requests, MiB: {shown}")
    for way in world.ways:
        if way.process is not None and way.target.name == "LiteLLM":
            say(f"memory of LiteLLM after its part of the above, MiB: {resident(way.process):.0f}")


def resident(process: psutil.Process) -> float:
    """The resident memory of a process and its children, in MiB."""
    processes = (process, *process.children(recursive=True))
    return float(sum(each.memory_info().rss for each in processes)) / 2**20


PARTS: dict[str, Callable[[World], object]] = {
    "latency": added_latency,
    "throughput": throughput,
    "memory": memory,
    "stalls": stalls,
}


async def measure(world: World, parts: list[str]) -> None:
    """Wait for every gateway and run the parts in order."""
    for way in world.ways:
        await ready(way)
    for name in parts:
        await PARTS[name](world)  # type: ignore[misc]


def main() -> None:
    """Run the chosen parts, by default all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all of them")
    parser.add_argument("--litellm", type=Path, help="LiteLLM's program")
    chosen = parser.parse_args()
    pin(psutil.Process(), LOAD_CORE)
    with ExitStack() as stack:
        model = stack.enter_context(upstream(LOAD_CORE))
        direct = stack.enter_context(upstream(GATEWAY_CORE))
        ways = [
            Gateway(target=direct),
            stack.enter_context(mongars(f"http://127.0.0.1:{model.port}/generate")),
        ]
        if chosen.litellm is not None:
            ways.append(stack.enter_context(litellm(chosen.litellm, model)))
        else:
            say("LiteLLM is not compared: name its program with --litellm.")
        world = World(model=model, ways=tuple(ways))
        uvloop.run(measure(world, chosen.parts or list(PARTS)))


if __name__ == "__main__":
    main()
