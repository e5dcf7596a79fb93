"""Measure the Serve application: what Ray Serve adds to the bare engine, and how replicas scale.

`python -m benchmarks.serving` starts its own clusters and compares them with the bare engine, interleaved, in one
run. Only the ratios are comparable between machines.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import psutil

from benchmarks.foundation import (
    bare_engine,
    engine_stream,
    milliseconds,
    model_path,
    rate,
    say,
    unique,
)
from mongars.core.clock import SystemClock
from mongars.serving.config import EngineSpec, ReplicaConfig, ServingConfig
from mongars.testing.ray_cluster import ray_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mongars.engines.llama_cpp.engine import LlamaCppEngine

CLOCK = SystemClock()
SLOTS = 8
FIRST_TOKENS = 61
ROUNDS = 5
TOKENS = 192
UNARY = 200
SCALES = (1, 2, 4, 8)
STEADY_SECONDS = 12.0
OVERLOAD_SECONDS = 60.0
CONTENT = b'"delta":{"content":"'


def real(**options: object) -> ServingConfig:
    """The configuration with the real model."""
    engine = EngineSpec(model_path=str(model_path()), slots=SLOTS)
    return ServingConfig(replica=ReplicaConfig(engine=engine), **options)


def fixed_rate(replicas: int) -> ServingConfig:
    """The configuration with engines that make 20 tokens per second and slot, and need no core."""
    engine = EngineSpec(kind="fake", slots=4, token_delay=0.05)
    return ServingConfig(
        replica=ReplicaConfig(engine=engine), replicas=replicas, cpus_per_replica=0.1
    )


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that opens as many connections as it needs."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        yield http


async def serve_stream(
    http: aiohttp.ClientSession, url: str, text: str, *, max_tokens: int
) -> tuple[float, int]:
    """The seconds to the first content, and the number of content events, through Serve."""
    body = {
        "prompt": text,
        "temperature": 0,
        "top_p": 0.9,
        "max_tokens": max_tokens,
        "stream": True,
    }
    began, first, count = CLOCK.monotonic(), 0.0, 0
    async with http.post(url + "/generate", json=body) as response:
        response.raise_for_status()
        async for block in response.content.iter_any():
            found = block.count(CONTENT)
            if found and not count:
                first = CLOCK.monotonic() - began
            count += found
    return first, count


async def first_token(http: aiohttp.ClientSession, url: str, engine: LlamaCppEngine) -> None:
    """Print what Serve adds to the first token, one stream at a time."""
    bare, serve = [], []
    for _ in range(FIRST_TOKENS):
        bare.append((await engine_stream(engine, unique("Say hello."), 2))[0])
        serve.append((await serve_stream(http, url, unique("Say hello."), max_tokens=2))[0])
    added = statistics.median(second - first for first, second in zip(bare, serve, strict=True))
    say(f"first token, bare engine          {milliseconds(bare)}")
    say(f"first token, through Serve        {milliseconds(serve)}   added {added * 1000:.1f} ms")


async def throughput(http: aiohttp.ClientSession, url: str, engine: LlamaCppEngine) -> None:
    """Print tokens per second through Serve and without it, measured in turn."""
    for streams in (1, 4, 8):
        pairs = []
        for _ in range(ROUNDS):
            alone = await rate(lambda text: engine_stream(engine, text, TOKENS), streams)
            serve = await rate(
                lambda text: serve_stream(http, url, text, max_tokens=TOKENS), streams
            )
            pairs.append((alone, serve))
        alone, serve = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(second / first for first, second in pairs)
        say(
            f"tokens/s, {streams} stream(s)             bare {alone:6.1f}   Serve {serve:6.1f}"
            f"   ratio {ratio:.3f}"
        )


async def unary(http: aiohttp.ClientSession, url: str) -> tuple[list[float], float]:
    """The seconds per small response, one by one, and the responses per second over 20 connections."""

    async def get() -> float:
        began = CLOCK.monotonic()
        async with http.get(url + "/healthz") as response:
            await response.read()
        return CLOCK.monotonic() - began

    async def loop() -> None:
        for _ in range(UNARY // 4):
            await get()

    alone = [await get() for _ in range(UNARY)]
    began = CLOCK.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(loop())
    return alone, 20 * (UNARY // 4) / (CLOCK.monotonic() - began)


def replica_memory() -> str:
    """The memory of the replica's process and its engine's, in MB, private and shared."""
    parts = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "LLMDeployment" in line or "llama_cpp.child" in line:
            used = process.memory_full_info()
            name = "engine" if "child" in line else "replica"
            parts.append(
                f"{name} pid {process.pid}: {used.rss / 1e6:.0f} MB resident,"
                f" {used.uss / 1e6:.0f} MB its own"
            )
    return "; ".join(parts)


async def through(*, haproxy: bool) -> None:
    """Measure Serve with one proxy: deployment, memory, and the cost compared with the bare engine."""
    config = real(haproxy=haproxy)
    say("HAProxy:" if haproxy else "Ray's proxy:")
    async with ray_cluster(2, haproxy=haproxy) as cluster:
        say(f"--deploy to HEALTHY               {await cluster.deploy(config):7.1f} s")
        say(f"the same again, nothing changed   {await cluster.deploy(config):7.1f} s")
        async with client() as http:
            await serve_stream(http, cluster.url, "Warm up.", max_tokens=2)
            say(f"memory                            {replica_memory()}")
            async with bare_engine(SLOTS) as engine:
                await first_token(http, cluster.url, engine)
                await throughput(http, cluster.url, engine)


async def proxies() -> None:
    """Print the cost of small responses with Ray's proxy and with HAProxy, in turn, on two clusters."""
    async with ray_cluster(2) as plain, ray_cluster(2, haproxy=True) as fast, client() as http:
        await plain.deploy(fixed_rate(1))
        await fast.deploy(fixed_rate(1).model_copy(update={"haproxy": True}))
        sides: dict[str, list[tuple[list[float], float]]] = {"Ray's proxy": [], "HAProxy": []}
        for _ in range(3):
            sides["Ray's proxy"].append(await unary(http, plain.url))
            sides["HAProxy"].append(await unary(http, fast.url))
        for name, rounds in sides.items():
            alone = [value for values, _ in rounds for value in values]
            per_second = statistics.median(rate for _, rate in rounds)
            say(f"unary, {name:<27}{milliseconds(alone)}   {per_second:.0f}/s at 20 connections")


async def steady(http: aiohttp.ClientSession, url: str, callers: int) -> float:
    """Tokens per second with `callers` callers that send requests one after the other for `STEADY_SECONDS`."""
    until = CLOCK.monotonic() + STEADY_SECONDS

    async def caller() -> int:
        count = 0
        while CLOCK.monotonic() < until:
            count += (await serve_stream(http, url, "word " * 30, max_tokens=32))[1]
        return count

    began = CLOCK.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(caller()) for _ in range(callers)]
    return sum(task.result() for task in tasks) / (CLOCK.monotonic() - began)


async def scaling() -> None:
    """Print tokens per second for several numbers of replicas whose engines need no core."""
    async with ray_cluster(2) as cluster, client() as http:
        single = 0.0
        for replicas in SCALES:
            await cluster.deploy(fixed_rate(replicas))
            found = await steady(http, cluster.url, 4 * replicas)
            single = single or found
            say(
                f"{replicas} replica(s), fixed-rate engine    {found:7.1f} tokens/s"
                f"   {found / single:5.2f} times one replica"
            )


async def overload() -> None:
    """Send four times as many concurrent requests as a replica can hold, for a minute, with the real engine."""
    config = real()
    callers = 4 * config.replica.capacity
    statuses: Counter[str] = Counter()
    accepted: list[float] = []
    async with ray_cluster(2) as cluster, client() as http:
        await cluster.deploy(config)
        until = CLOCK.monotonic() + OVERLOAD_SECONDS

        async def caller() -> None:
            body = {"prompt": "Tell me about the sea.", "max_tokens": 16}
            while CLOCK.monotonic() < until:
                began = CLOCK.monotonic()
                async with http.post(cluster.url + "/generate", json=body) as response:
                    await response.read()
                    patient = "Retry-After" in response.headers
                    statuses[f"{response.status}{' with Retry-After' if patient else ''}"] += 1
                if response.status == HTTPStatus.OK:
                    accepted.append(CLOCK.monotonic() - began)
                else:
                    await CLOCK.sleep(0.25)

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        took = (await serve_stream(http, cluster.url, unique("Say hello."), max_tokens=2))[0]
    say(f"overload, {callers} callers, {OVERLOAD_SECONDS:.0f} s    {dict(statuses)}")
    say(f"  accepted answers                {milliseconds(accepted)}")
    say(f"  first token right afterwards    {took * 1000:7.1f} ms")


PARTS: dict[str, Callable[[], Awaitable[None]]] = {
    "serve": partial(through, haproxy=False),
    "haproxy": partial(through, haproxy=True),
    "proxies": proxies,
    "scaling": scaling,
    "overload": overload,
}


async def main(names: list[str]) -> None:
    """Run the named parts, by default all."""
    for name in names or PARTS:
        await PARTS[name]()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
