"""Compare two versions of the gateway: `python -m benchmarks.gateway_versions BEFORE AFTER`.

BEFORE and AFTER are checkouts, such as `git worktree add ../before COMMIT` makes; both run with this interpreter
and its packages, in front of the same model server with canned answers. Processes differ by some percent from
start to start, so both are started several times, and measured in turn, round after round, each time. For CPU time
per request, latency and rate, the output has the median of AFTER / BEFORE over all pairs of neighbouring
measurements, and the median of each start. Linux only: CPU time is read from `/proc`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import uvloop

from benchmarks.foundation import say
from benchmarks.gateway import (
    LOAD_CORE,
    Gateway,
    choose,
    good,
    mongars,
    percentile,
    pin,
    ready,
    resident,
    upstream,
)
from benchmarks.gateway_load import Target, closed_loop

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

STARTS, ROUNDS, REQUESTS, STREAMS = 5, 10, 300, 64
Figures = dict[str, float]
Pairs = dict[str, list[tuple[float, float]]]


def started(checkout: Path, name: str, model: Target) -> AbstractContextManager[Gateway]:
    """The API process of a checkout, with the packages of this interpreter."""
    source = str(checkout / "src")
    return mongars(f"http://127.0.0.1:{model.port}/generate", name=name, PYTHONPATH=source)


def cpu_seconds(process: psutil.Process) -> float:
    """The CPU seconds of all threads of a process, more precise than the clock ticks of `stat`."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


async def measured(gateway: Gateway, requests: int, *, stream: bool) -> Figures:
    """The figures of one round: one connection for CPU time and latency, sixteen for the rate."""
    assert gateway.process is not None  # noqa: S101 - `started` gives one
    target, kind = gateway.target, "streamed" if stream else "whole"
    before = cpu_seconds(gateway.process)
    seen, _ = await closed_loop(target, connections=1, requests=requests, stream=stream)
    used = cpu_seconds(gateway.process) - before
    seconds = [one.seconds for one in good(seen, target.name)]
    busy, took = await closed_loop(target, connections=16, requests=requests, stream=stream)
    return {
        f"{kind}: CPU per request, us": used / requests * 1e6,
        f"{kind}: latency p50, us": percentile(seconds, 0.5) * 1e6,
        f"{kind}: latency p99, us": percentile(seconds, 0.99) * 1e6,
        f"{kind}: requests/s at 16": len(good(busy, target.name)) / took,
    }


async def paced(gateway: Gateway) -> Figures:
    """The CPU time per stream, for streams whose words come one by one, as from a model."""
    assert gateway.process is not None  # noqa: S101 - `started` gives one
    before = cpu_seconds(gateway.process)
    seen, _ = await closed_loop(
        gateway.target, connections=STREAMS, requests=2 * STREAMS, stream=True
    )
    used = cpu_seconds(gateway.process) - before
    answers = len(good(seen, gateway.target.name))
    return {f"{STREAMS} paced streams: CPU each, us": used / answers * 1e6}


def add(pairs: Pairs, found: dict[str, Figures]) -> None:
    """Add the figures of two neighbouring measurements as pairs."""
    for name, value in found["before"].items():
        pairs[name].append((value, found["after"][name]))


async def one_start(
    model: Target, both: tuple[Gateway, Gateway], *, rounds: int, requests: int
) -> Pairs:
    """The pairs of figures of one start of both versions; which one is measured first alternates."""
    before, after = both
    pairs: Pairs = defaultdict(list)
    for gateway in both:
        await ready(gateway)
    for number in range(rounds):
        order = (before, after) if number % 2 else (after, before)
        for stream in (False, True):
            found = {
                gateway.target.name: await measured(gateway, requests, stream=stream)
                for gateway in order
            }
            add(pairs, found)
    await choose(model, "paced")
    for order in (both, both[::-1]):
        add(pairs, {gateway.target.name: await paced(gateway) for gateway in order})
    sizes = [resident(gateway.process) for gateway in both if gateway.process]
    pairs["memory after the rounds, MiB"].append((sizes[0], sizes[1]))
    return pairs


def ratio(pairs: list[tuple[float, float]]) -> float:
    """The median of after / before."""
    return statistics.median(after / before for before, after in pairs)


def show(starts: list[Pairs]) -> None:
    """Print one line per figure."""
    for name in starts[0]:
        pairs = [pair for start in starts for pair in start[name]]
        before, after = (statistics.median(side) for side in zip(*pairs, strict=True))
        each = " ".join(f"{ratio(start[name]):.3f}" for start in starts)
        say(f"{name:<31} {before:7.0f} {after:7.0f}  ratio {ratio(pairs):.3f}  starts {each}")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="per round and kind")
    chosen = parser.parse_args()
    if not Path("/proc/self/schedstat").exists():
        sys.exit("CPU times are read from /proc/PID/task/*/schedstat, which is not here.")
    pin(psutil.Process(), LOAD_CORE)
    starts = []
    for _ in range(chosen.starts):
        with ExitStack() as stack:
            model = stack.enter_context(upstream(LOAD_CORE))
            before = stack.enter_context(started(chosen.before.resolve(), "before", model))
            after = stack.enter_context(started(chosen.after.resolve(), "after", model))
            measuring = one_start(
                model, (before, after), rounds=chosen.rounds, requests=chosen.requests
            )
            starts.append(uvloop.run(measuring))
    show(starts)


if __name__ == "__main__":
    main()
