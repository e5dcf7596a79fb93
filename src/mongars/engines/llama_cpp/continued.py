"""Continue an answer that was cut, with the token counts of the whole answer.

llama.cpp completes the last message of a conversation that ends with a message of the assistant. It counts the
beginning as part of the prompt; for the client it is part of the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.protocol.body import json_object
from mongars.protocol.sse import EventSplitter, encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from mongars.protocol.sse import ServerEvent


def continued_body(body: dict[str, Any], text: str, *, partial_tokens: int) -> dict[str, Any]:
    """A copy of the request `body` that makes llama.cpp continue the answer `text`, which has `partial_tokens` tokens.

    `max_tokens` is reduced by `partial_tokens`, to at least 1.
    """
    ending = {"role": "assistant", "content": text}
    limit = body.get("max_tokens")
    left = {} if limit is None else {"max_tokens": max(1, limit - partial_tokens)}
    return {**body, "messages": [*body["messages"], ending], **left}


async def whole_counts(
    blocks: AsyncIterator[bytes], *, partial_tokens: int, limit: int | None
) -> AsyncGenerator[bytes, None]:
    """Yield the events in `blocks`, with `partial_tokens` moved from the prompt's to the answer's token count.

    `blocks` is the stream of a continued answer whose beginning has `partial_tokens` tokens. If these are `limit` or
    more (None: no limit), generated text is dropped and the finish reason is `length`.
    """
    full = limit is not None and partial_tokens >= limit
    splitter = EventSplitter()
    async for block in blocks:
        for event in splitter.feed(block):
            yield event.raw if event.is_done else _recounted(event, partial_tokens, full=full)


def _recounted(event: ServerEvent, partial_tokens: int, *, full: bool) -> bytes:
    body = json_object(event.data)
    for choice in body.get("choices") or () if full else ():
        choice["delta"].pop("content", None)
        if choice.get("finish_reason") is not None:
            choice["finish_reason"] = "length"
    usage = body.get("usage")
    if usage:
        written = partial_tokens if full else usage["completion_tokens"] + partial_tokens
        usage["prompt_tokens"] -= partial_tokens
        usage["completion_tokens"] = written
        usage["total_tokens"] = usage["prompt_tokens"] + written
    return encode_event(body)
