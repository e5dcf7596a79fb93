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
    """A copy of a chat request's JSON body with which llama.cpp continues the answer that begins with `text`.

    `partial_tokens` is the number of tokens of `text`; `max_tokens`, if set, is reduced by it, to at least 1.
    """
    ending = {"role": "assistant", "content": text}
    limit = body.get("max_tokens")
    left = {} if limit is None else {"max_tokens": max(1, limit - partial_tokens)}
    return {**body, "messages": [*body["messages"], ending], **left}


async def whole_counts(
    blocks: AsyncIterator[bytes], *, partial_tokens: int, limit: int | None
) -> AsyncGenerator[bytes, None]:
    """Correct the token counts of a continued answer: its beginning counts as part of the answer, not of the prompt.

    `blocks` is llama.cpp's stream of server-sent events; yields them with the usage corrected. `partial_tokens` is the
    number of tokens of the beginning. If that is `limit` (the request's `max_tokens`; None: no limit) or more, the
    generated text is dropped and the finish reason is `length`.
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
        details = usage.get("prompt_tokens_details")
        if details:  # llama.cpp counts cached tokens of the beginning as well
            details["cached_tokens"] = min(details["cached_tokens"], usage["prompt_tokens"])
    return encode_event(body)
