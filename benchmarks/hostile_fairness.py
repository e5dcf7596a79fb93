"""Measure how long one user waits for the first token while another one floods the same server.

Part of `benchmarks.hostile`. One user sends requests of several long answers each; the other one sends five short
requests, one after another, without the flood and during it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from benchmarks.foundation import say
from mongars.core.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

CLOCK = SystemClock()
FLOOD_REQUESTS = 14
CHOICES = 8
QUESTIONS = 5
PATIENCE = 60.0
"""Seconds that a short request may take."""
LONG = "Tell me a very long story about the sea, with a hundred chapters. Never stop."


@dataclass(slots=True)
class Seen:
    """The results of the flood: statuses, and the seconds of each choice since its first token."""

    statuses: Counter[str] = field(default_factory=Counter)
    choices: list[float] = field(default_factory=list)
    tokens: int = 0


class User:
    """A user who sends chat completions with a key of their own."""

    def __init__(self, http: aiohttp.ClientSession, port: int, key: str) -> None:
        self._http = http
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"}
        self.providers: Counter[str] = Counter()

    async def ask(self) -> tuple[float, float]:
        """The seconds to the first token of a short request (infinite if refused), and to its end."""
        began, first = CLOCK.monotonic(), float("inf")
        try:
            async with asyncio.timeout(PATIENCE):
                async for body in self._chunks("Say hi.", n=1, max_tokens=8):
                    if first == float("inf") and body["choices"][0]["delta"].get("content"):
                        first = CLOCK.monotonic() - began
        except (aiohttp.ClientError, PermissionError, TimeoutError):
            return float("inf"), CLOCK.monotonic() - began
        return first, CLOCK.monotonic() - began

    async def flood(self, seen: Seen, *, tokens: int) -> None:
        """Send one request of many long choices."""
        began: dict[int, float] = {}
        ended: set[int] = set()
        try:
            async for body in self._chunks(LONG, n=CHOICES, max_tokens=tokens):
                choice = body["choices"][0]
                now = CLOCK.monotonic()
                seen.tokens += 1
                start = began.setdefault(choice["index"], now)
                if choice["finish_reason"]:
                    seen.choices.append(now - start)
                    ended.add(choice["index"])
        except PermissionError as refused:
            seen.statuses[str(refused)] += 1
        except aiohttp.ClientError as broken:
            seen.statuses[f"200, then {broken}"] += 1
        else:
            seen.statuses["200"] += 1
        finally:
            now = CLOCK.monotonic()
            seen.choices += [now - at for index, at in began.items() if index not in ended]

    async def _chunks(self, text: str, *, n: int, max_tokens: int) -> AsyncIterator[dict]:  # type: ignore[type-arg]
        body = {
            "model": "mongars",
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "n": n,
            "max_tokens": max_tokens,
            "temperature": 1.0,
        }
        async with self._http.post(self._url, json=body, headers=self._headers) as response:
            if response.status != 200:  # noqa: PLR2004
                raise PermissionError(response.status)
            self.providers[response.headers.get("x-llm-provider", "")] += 1
            async for line in response.content:
                if line.startswith(b"data: {"):
                    if b'"error"' in line[:12]:
                        raise aiohttp.ClientError(line[6:].decode())
                    found = json.loads(line[6:])
                    if found.get("choices"):
                        yield found


def key_of(name: str, environment: Mapping[str, str]) -> str:
    """A new key of a new account."""
    command = [sys.executable, "-m", "mongars"]
    options: Any = {"env": dict(environment), "capture_output": True, "text": True}
    creation = [*command, "users", "create", name, "--password-stdin"]
    subprocess.run(creation, input="only-for-this-bench\n", check=True, **options)  # noqa: S603
    done = subprocess.run([*command, "keys", "create", name], check=True, **options)  # noqa: S603
    return next(word for word in str(done.stdout).split() if word.startswith("mg"))


async def fairness(port: int, environment: Mapping[str, str], *, tokens: int) -> None:
    """Print how long the second user waited."""
    keys = [
        await asyncio.to_thread(key_of, name, environment) for name in ("alice", "bob", "carol")
    ]
    timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        first, second, third = (User(http, port, key) for key in keys)
        await second.ask()
        idle = [(await second.ask())[0] for _ in range(QUESTIONS)]
        seen = Seen()
        async with asyncio.TaskGroup() as group:
            flood = [
                group.create_task(first.flood(seen, tokens=tokens)) for _ in range(FLOOD_REQUESTS)
            ]
            await CLOCK.sleep(5)
            asked = [await second.ask() for _ in range(QUESTIONS)]
            newcomer = (await third.ask())[0]
            while not seen.choices and not all(task.done() for task in flood):
                await CLOCK.sleep(0.5)
            for task in flood:
                task.cancel()
    during = [each[0] for each in asked]
    generation = max(seen.choices, default=float("nan"))
    bound = 2 * statistics.median(idle) + generation
    answered = sum(each < float("inf") for each in during)
    say(
        f"fairness: {answered} of {QUESTIONS} questions answered beside {FLOOD_REQUESTS} requests of"
        f" n={CHOICES}, {tokens} tokens; first token idle {_shown(idle)} s, beside the flood"
        f" {_shown(during)} s, of a user not seen before {newcomer:.2f} s; one generation {generation:.1f} s;"
        f" 2 x idle + one generation = {bound:.1f} s: {'kept' if max(*during, newcomer) <= bound else 'BROKEN'}."
        f" The questions went to {dict(second.providers)}; the flood got {dict(seen.statuses)},"
        f" {seen.tokens} tokens, from {dict(first.providers)}."
    )


def _shown(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} (at most {max(times):.2f})"
