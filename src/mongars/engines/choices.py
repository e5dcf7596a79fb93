"""Generate several answers ("choices") to one request with engines that generate one at a time.

Each choice is sent to the engine as a separate request with a slot of its own; after the first one the prompt
is in the engine's cache. The streams are merged into one: each chunk has the index of its choice, and there is
one usage chunk at the end and one `[DONE]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from mongars.core.background import Background
from mongars.core.errors import (
    DeadlineExceeded,
    GenerationInterrupted,
    InvalidAnswer,
    MongarsError,
)
from mongars.core.generation import Usage
from mongars.protocol.openai import read_chunk, usage_chunk_body
from mongars.protocol.sse import DONE, EventSplitter, EventTooLarge, encode_event

if TYPE_CHECKING:
    from mongars.core.generation import GenerationRequest
    from mongars.protocol.sse import ServerEvent

HIGHEST_SEED = 2**63

OpenChoice = Callable[["GenerationRequest"], AbstractAsyncContextManager[AsyncIterator[bytes]]]


class _Merge:
    """Merges the event streams of all choices (answers) of one request; `next` returns the events as they arrive.

    `draw` generates one choice; it is run as a task for each of them. `open_one` opens the stream of a request for a
    single choice; at most `at_once` of these streams are open at a time.
    """

    def __init__(self, request: GenerationRequest, open_one: OpenChoice, at_once: int) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._request = request
        self._open = open_one
        self._ready: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._usage: dict[int, Usage] = {}
        self._last: dict[str, Any] = {}

    async def draw(self, index: int) -> None:
        """Generate the choice with the number `index` (from 0) and queue its server-sent events for `next`.

        An error is queued, too, instead of being raised here.
        """
        sampling = self._request.sampling
        seed = None if sampling.seed is None else (sampling.seed + index) % HIGHEST_SEED
        one = replace(self._request, sampling=replace(sampling, n=1, seed=seed))
        splitter = EventSplitter()
        try:
            async with self._turns, self._open(one) as blocks:
                async for block in blocks:
                    for event in splitter.feed(block):
                        self._take(index, event)
        except EventTooLarge as error:
            self._ready.put_nowait(InvalidAnswer(f"The engine sent {error}."))
        except Exception as error:  # noqa: BLE001 (raised by `next`, which would else wait without end)
            self._ready.put_nowait(error)
        else:
            self._ready.put_nowait(None)

    async def next(self) -> bytes | None:
        """Wait for the next server-sent event of any choice and return it; None once for each choice that completes.

        If a choice failed, raises the exception with which its generation ended.
        """
        item = await self._ready.get()
        if isinstance(item, Exception):
            raise item
        return item

    def _take(self, index: int, event: ServerEvent) -> None:
        if event.is_done:
            return
        usage = read_chunk(event).usage
        if usage is not None:
            self._usage[index] = usage
        body = orjson.loads(event.data)
        self._last = body
        if not body["choices"]:
            return
        body["choices"][0]["index"] = index
        body["id"] = f"chatcmpl-{self._request.request_id}"
        body.pop("usage", None)
        self._ready.put_nowait(encode_event(body))

    def ending(self) -> bytes:
        """The last bytes of the merged stream: a usage chunk with the tokens of all choices, and `[DONE]`.

        Only `[DONE]` if the engine reported no usage for one of the choices.
        """
        drawn = [self._usage[index] for index in sorted(self._usage)]
        if len(drawn) < self._request.sampling.n:
            return DONE
        usage = Usage(
            prompt_tokens=drawn[0].prompt_tokens,
            completion_tokens=sum(each.completion_tokens for each in drawn),
            cached_tokens=drawn[0].cached_tokens,
            per_choice=tuple(each.completion_tokens for each in drawn),
        )
        body = usage_chunk_body(
            answer_id=f"chatcmpl-{self._request.request_id}",
            created=int(self._last.get("created") or 0),
            model=str(self._last.get("model") or ""),
            usage=usage,
        )
        return encode_event(body) + DONE


@asynccontextmanager
async def stream_choices(
    request: GenerationRequest, open_one: OpenChoice, *, at_once: int
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Generate the `request.sampling.n` choices (answers) of a request as one stream of server-sent events.

    The events are `chat.completion.chunk` objects of OpenAI's format, then one with the token counts, then `[DONE]`.
    `open_one` takes a copy of the request for one choice and returns a context that yields its stream of events. At
    most `at_once` choices are generated at the same time, started in the order of their indexes. If the request has a
    seed, each choice's index is added to it. Leaving the context stops every choice.

    Entering raises an error of `open_one` or its stream that occurs before the first event of any choice. A later
    `MongarsError` of one choice ends the whole stream: with `DeadlineExceeded` if it is one, else with
    `GenerationInterrupted`.
    """
    merge = _Merge(request, open_one, at_once)
    async with AsyncExitStack() as stack:
        for index in range(request.sampling.n):
            work = Background(partial(merge.draw, index), name=f"choice-{index}")
            stack.push_async_callback(work.aclose)
            work.start()
        first = await merge.next()
        yield _merged(merge, request.sampling.n, first)


async def _merged(merge: _Merge, choices: int, first: bytes | None) -> AsyncIterator[bytes]:
    item = first
    going = choices
    while True:
        if item is None:
            going -= 1
        else:
            yield item
        if not going:
            break
        try:
            item = await merge.next()
        except (GenerationInterrupted, DeadlineExceeded):
            raise
        except MongarsError as error:
            detail = f"One of {choices} answers failed: {error}"
            raise GenerationInterrupted(detail) from error
    yield merge.ending()
