"""Measures two versions of the Serve application side by side: `python -m benchmarks.serving_versions BEFORE AFTER`.

BEFORE and AFTER are checkouts, such as `git worktree add ../before COMMIT` makes. Each runs on a Ray cluster of its
own, with this interpreter and its packages, and a bare llama.cpp engine runs beside them. All three wait while another
is measured, and the order changes from round to round. Each line gives the medians and the median over all rounds of
AFTER / BEFORE; for the first token, what each version adds to the bare engine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import cycle, permutations
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.foundation import bare_engine, engine_stream, model_path, rate, say, unique
from benchmarks.serving import SLOTS, client, serve_stream
from mongars.settings import child_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STARTS, ROUNDS, FIRST_TOKENS, TOKENS, STREAMS = 2, 8, 41, 192, (1, 4, 8)


SERVE = """
import asyncio, sys
from mongars.serving.config import EngineSpec, ReplicaConfig, ServingConfig
from mongars.testing.ray_cluster import ray_cluster

async def main(model_path, slots):
    engine = EngineSpec(model_path=model_path, slots=int(slots))
    async with ray_cluster(2) as cluster:
        await cluster.deploy(ServingConfig(replica=ReplicaConfig(engine=engine)))
        print(cluster.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*sys.argv[1:]))
"""
"""The program that runs a version: prints the application's base URL and stops at the end of standard input."""


@asynccontextmanager
async def running(checkout: Path) -> AsyncIterator[str]:
    """The base URL of a checkout's Serve application, which runs until the context is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", SERVE, str(model_path()), str(SLOTS)),
        env=child_environment({"PYTHONPATH": str(checkout / "src")}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None  # noqa: S101 - a pipe
    assert process.stdout is not None  # noqa: S101 - a pipe
    try:
        url = (await process.stdout.readline()).decode().strip()
        if not url:
            sys.exit(f"The application of {checkout} did not start.")
        yield url
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                await process.wait()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)


async def one_start(before: Path, after: Path, *, rounds: int) -> dict[str, list[dict[str, float]]]:
    """The figures of one start of both versions: a list of rounds per kind of measurement."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(client())
        engine = await stack.enter_async_context(bare_engine(SLOTS))
        urls = {
            "before": await stack.enter_async_context(running(before)),
            "after": await stack.enter_async_context(running(after)),
        }

        async def stream(way: str, text: str, *, tokens: int) -> tuple[float, int]:
            if way == "bare":
                return await engine_stream(engine, text, tokens)
            return await serve_stream(http, urls[way], text, max_tokens=tokens)

        orders = cycle(permutations(("bare", "before", "after")))
        for way in ("bare", "before", "after"):
            await stream(way, "Warm up.", tokens=2)
        found: dict[str, list[dict[str, float]]] = {"first token": []}
        for order in (next(orders) for _ in range(FIRST_TOKENS)):
            found["first token"].append(
                {way: (await stream(way, unique("Say hello."), tokens=2))[0] for way in order}
            )
        for streams in STREAMS:
            found[f"{streams}"] = [
                {
                    way: await rate(partial(stream, way, tokens=TOKENS), streams)
                    for way in next(orders)
                }
                for _ in range(rounds)
            ]
        return found


def show(found: dict[str, list[dict[str, float]]]) -> None:
    """One line per kind of measurement."""
    for name, rounds in found.items():
        bare, before, after = (
            statistics.median(each[way] for each in rounds) for way in ("bare", "before", "after")
        )
        if name == "first token":
            added = {
                way: statistics.median(each[way] - each["bare"] for each in rounds) * 1000
                for way in ("before", "after")
            }
            say(
                f"first token, ms: bare {bare * 1000:.1f}   before {before * 1000:.1f}   after {after * 1000:.1f}"
                f"   added before {added['before']:.1f}, after {added['after']:.1f}"
            )
            continue
        ratios = {
            pair: statistics.median(each[pair[0]] / each[pair[1]] for each in rounds)
            for pair in (("after", "before"), ("before", "bare"), ("after", "bare"))
        }
        shown = "   ".join(f"{one}/{other} {value:.3f}" for (one, other), value in ratios.items())
        say(
            f"tokens/s, {name} stream(s): bare {bare:.1f}   before {before:.1f}   after {after:.1f}   {shown}"
        )


async def measure(before: Path, after: Path, *, starts: int, rounds: int) -> None:
    """Start both versions several times; show each start, and all of them together."""
    together: dict[str, list[dict[str, float]]] = {}
    for number in range(starts):
        found = await one_start(before, after, rounds=rounds)
        say(f"start {number + 1}:")
        show(found)
        for name, values in found.items():
            together.setdefault(name, []).extend(values)
    say("all starts:")
    show(together)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args()
    measuring = measure(
        chosen.before.resolve(), chosen.after.resolve(), starts=chosen.starts, rounds=chosen.rounds
    )
    asyncio.run(measuring)


if __name__ == "__main__":
    main()
