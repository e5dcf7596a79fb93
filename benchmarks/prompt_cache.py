"""Measure the cost of separating users' prompts in the engine's cache.

`python -m benchmarks.prompt_cache` runs two llama.cpp engines, one for each scope of the cache, and sends both the
same requests, in turn, in one run: further turns of one user's conversation, and first questions of different users
with the same system prompt. Only the ratios are comparable between machines.
"""

from __future__ import annotations

import asyncio
import statistics
from contextlib import AsyncExitStack

from benchmarks.foundation import CLOCK, milliseconds, model_path, say
from mongars.core.generation import GenerationRequest, Message, PromptCacheScope, Sampling
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter

SLOTS = 4
ROUNDS = 6
TURNS = 4
SCOPES: tuple[PromptCacheScope, ...] = ("shared", "user")
SYSTEM = (
    "You answer questions of the members of a sailing club about boats, weather, knots and safety. "
    "Be short, name sources where you know them, and say so where you do not know. "
) * 9
"""About 300 tokens."""
CONTENT = b'"content":"'

Figures = dict[str, dict[PromptCacheScope, list[tuple[float, int]]]]
"""Seconds to the first token, and the number of the prompt's tokens that were not in the cache."""


async def started(scope: PromptCacheScope, stack: AsyncExitStack) -> LlamaCppEngine:
    """An engine with that cache scope, which is stopped with the stack."""
    config = LlamaCppConfig(
        model_path=model_path(), model_name="bench", slots=SLOTS, prompt_cache_scope=scope
    )
    engine = LlamaCppEngine(config, clock=CLOCK)
    await engine.start()
    stack.push_async_callback(engine.aclose)
    return engine


async def ask(engine: LlamaCppEngine, user: str, messages: list[Message]) -> tuple[float, int]:
    """The seconds to the first token, and the number of the prompt's tokens that were not in the cache."""
    request = GenerationRequest(
        messages=tuple(messages),
        request_id="bench",
        scope=user,
        sampling=Sampling(temperature=0.0, max_tokens=12),
    )
    began, first = CLOCK.monotonic(), 0.0
    splitter, read = EventSplitter(), 0
    async with engine.stream(request) as blocks:
        async for block in blocks:
            if not first and CONTENT in block:
                first = CLOCK.monotonic() - began
            for event in splitter.feed(block):
                usage = None if event.is_done else read_chunk(event).usage
                if usage is not None:
                    read = usage.prompt_tokens - usage.cached_tokens
    return first, read


async def conversation(engine: LlamaCppEngine, user: str) -> list[tuple[float, int]]:
    """The figures of each turn of a conversation after the first."""
    messages = [Message(role="system", content=SYSTEM)]
    waits = []
    for turn in range(TURNS):
        messages.append(Message(role="user", content=f"{user}: what about point {turn} of it?"))
        waits.append(await ask(engine, user, messages))
        messages.append(Message(role="assistant", content=f"Point {turn} is well known."))
    return waits[1:]


async def first_question(engine: LlamaCppEngine, user: str) -> list[tuple[float, int]]:
    """The figures of a new user's first question."""
    system = Message(role="system", content=SYSTEM)
    question = Message(role="user", content=f"I am {user}. Which knot holds best?")
    return [await ask(engine, user, [system, question])]


async def main() -> None:
    """Print medians and ranges, and the ratio of `user` to `shared`."""
    kinds = {
        "follow-up turns of one user": conversation,
        "new users, 300 tokens in common": first_question,
    }
    figures: Figures = {kind: {scope: [] for scope in SCOPES} for kind in kinds}
    async with AsyncExitStack() as stack:
        engines = {scope: await started(scope, stack) for scope in SCOPES}
        for engine in engines.values():
            await first_question(engine, "nobody")
        for kind, measured in kinds.items():
            for number in range(ROUNDS):
                order = SCOPES if number % 2 else tuple(reversed(SCOPES))
                for scope in order:
                    found = await measured(engines[scope], f"user {kind} {number}")
                    figures[kind][scope] += found
    for kind, by_scope in figures.items():
        for scope, values in by_scope.items():
            seconds, tokens = zip(*values, strict=True)
            read = statistics.median(tokens)
            say(f"{kind:33} {scope:7} {milliseconds([*seconds])}   {read:g} tokens read")
        shared, user = (statistics.median([s for s, _ in by_scope[scope]]) for scope in SCOPES)
        say(f"{kind:33} user / shared: {user / shared:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
