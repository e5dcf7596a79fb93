"""Profile the gateway, as text: `python -m benchmarks.gateway_profile --py-spy PATH`.

Samples the API process with py-spy while 16 connections keep it busy, first with whole answers, then with streams,
and prints each function's share of the samples: with its callees, and alone.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import uvloop

from benchmarks.foundation import say
from benchmarks.gateway import LOAD_CORE, Gateway, World, mongars, pin, ready, upstream
from benchmarks.gateway_load import closed_loop

SECONDS = 10
RATE = 500
LEAST_SHARE = 0.01
WHOLE = 0.995
"""A function with a larger share only calls the event loop, and is left out."""
LINE = re.compile(r":\d+\)$")


async def sampled(gateway: Gateway, program: Path, *, stream: bool) -> str:
    """The stacks that py-spy recorded under load: one stack per line with its count."""
    if gateway.process is None:
        sys.exit("There is no process to look at.")
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "stacks")
        argv = [str(program), "record", "--format", "raw", "--output", str(found)]
        argv += ["--duration", str(SECONDS), "--rate", str(RATE)]
        argv += ["--pid", str(gateway.process.pid)]
        child = await asyncio.create_subprocess_exec(
            *argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await closed_loop(gateway.target, connections=16, seconds=SECONDS + 1, stream=stream)
        await child.wait()
        return await asyncio.to_thread(found.read_text)


def shares(stacks: str) -> list[tuple[float, float, str]]:
    """For every function its share with callees, its share alone and its name, the largest first."""
    inclusive, alone = Counter[str](), Counter[str]()
    total = 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [LINE.sub(")", frame) for frame in stack.split(";")]
        if not any("uvicorn" in frame for frame in frames):
            continue  # another thread
        total += int(count)
        alone[frames[-1]] += int(count)
        inclusive.update(dict.fromkeys(frames, int(count)))
    return [(n / total, alone[name] / total, name) for name, n in inclusive.most_common()]


async def measure(world: World, program: Path) -> None:
    """Profile whole answers, then streams."""
    gateway = world.ways[1]
    await ready(gateway)
    for stream in (False, True):
        stacks = await sampled(gateway, program, stream=stream)
        say(f"\n{'streams' if stream else 'whole answers'}: with callees, alone, function")
        for share, own, name in shares(stacks):
            if LEAST_SHARE <= share < WHOLE:
                say(f"{share * 100:5.1f} % {own * 100:5.1f} %  {name}")


def main() -> None:
    """Run the profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--py-spy", type=Path, required=True, help="py-spy's program")
    chosen = parser.parse_args()
    pin(psutil.Process(), LOAD_CORE)
    with (
        upstream(LOAD_CORE) as model,
        mongars(f"http://127.0.0.1:{model.port}/generate") as gateway,
    ):
        world = World(model=model, ways=(Gateway(target=model), gateway))
        uvloop.run(measure(world, chosen.py_spy))


if __name__ == "__main__":
    main()
