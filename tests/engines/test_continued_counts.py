"""The token counts of an answer that llama.cpp continues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.engines.llama_cpp.continued import whole_counts
from mongars.protocol.body import json_object
from mongars.protocol.openai import usage_from
from mongars.protocol.sse import EventSplitter, encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def test_cached_tokens_never_exceed_the_prompt() -> None:
    """A prompt of 39 tokens, continued after 50 tokens of the answer that were all cached, has 39 cached tokens."""
    reported = {
        "choices": [],
        "usage": {
            "prompt_tokens": 89,
            "completion_tokens": 10,
            "total_tokens": 99,
            "prompt_tokens_details": {"cached_tokens": 78},
        },
    }

    async def blocks() -> AsyncIterator[bytes]:
        yield encode_event(reported)

    found = [block async for block in whole_counts(blocks(), partial_tokens=50, limit=None)]
    (event,) = EventSplitter().feed(b"".join(found))
    usage = usage_from(json_object(event.data)["usage"])
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (39, 60, 39)
