from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import (
    EndpointUnreachable,
    GenerationInterrupted,
    InferenceFailed,
    InvalidAnswer,
    InvalidRequest,
    PromptMissing,
)
from mongars.core.generation import Origin, Usage
from mongars.inference.retry.failures import EmptyAnswer
from mongars.inference.streams.decoding import SseDecoder
from mongars.inference.streams.reader import AnswerReader
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.generate import origin_body
from mongars.protocol.openai import chunk_body, usage_chunk_body
from mongars.protocol.sse import DONE, encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLOCK = SystemClock()


def chunk(delta: dict[str, object], finish_reason: str | None = None) -> bytes:
    return encode_event(
        chunk_body(answer_id="x", created=0, model="m", delta=delta, finish_reason=finish_reason)
    )


META = encode_event(origin_body(Origin(model="m", engine="e", adapter_version="v9")), name="meta")
ROLE = chunk({"role": "assistant", "content": ""})
FINISH = chunk({}, "stop")
USAGE = encode_event(
    usage_chunk_body(
        answer_id="x", created=0, model="m", usage=Usage(prompt_tokens=3, completion_tokens=2)
    )
)
ERROR = encode_event({"content": "", "error": "inference_failed", "detail": "boom"}, name="error")
MALFORMED = b'data: {"choices": [\n\n'


def text(content: str) -> bytes:
    return chunk({"content": content})


async def blocks_of(*blocks: bytes, then: Exception | None = None) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block
        await CLOCK.sleep(0)
    if then is not None:
        raise then


def reader(
    *blocks: bytes, then: Exception | None = None, idle: float = 5.0, choices: int = 1
) -> AnswerReader:
    return AnswerReader(
        blocks_of(*blocks, then=then),
        SseDecoder(),
        origin=Origin(model="unknown", engine="unknown"),
        idle=idle,
        deadline=Deadline.after(CLOCK, 10),
        choices=choices,
    )


async def read(answer: AnswerReader) -> str:
    await answer.commit()
    return "".join([chunk.text async for chunk in answer])


async def read_into(accumulated: AnswerAccumulator, answer: AnswerReader) -> None:
    async for chunk in answer:
        accumulated.add(chunk)


async def test_a_healthy_answer() -> None:
    """A complete stream gives text, origin and usage, and the raw bytes of each chunk."""
    answer = reader(META, ROLE, text("Hello"), text(" you"), FINISH, USAGE, DONE)
    await answer.commit()
    assert answer.origin.adapter_version == "v9"
    chunks = [chunk async for chunk in answer]
    assert b"".join(chunk.raw for chunk in chunks) == b"".join(
        [ROLE, text("Hello"), text(" you"), FINISH, USAGE]
    )
    assert answer.usage == Usage(prompt_tokens=3, completion_tokens=2)
    assert answer.state == "complete"


@given(st.data())
def test_blocks_may_be_cut_anywhere(data: st.DataObject) -> None:
    """Text is read correctly if network blocks end inside events or characters."""
    said = data.draw(st.text(alphabet="aé€😀\n ", min_size=1).filter(str.strip))
    whole = META + ROLE + b"".join(map(text, said)) + FINISH + DONE
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=30)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def run() -> str:
        return await read(reader(*parts))

    assert asyncio.run(run()) == said


@pytest.mark.parametrize(
    ("blocks", "error"),
    [
        ([META, ROLE], EndpointUnreachable),
        ([META, ROLE, DONE], EmptyAnswer),
        ([META, ROLE, FINISH, DONE], EmptyAnswer),
        ([META, text("  \n"), FINISH, DONE], EmptyAnswer),
        ([META, ERROR], InferenceFailed),
        ([META, MALFORMED], InvalidAnswer),
        ([b"event: meta\ndata: 7\n\n"], InvalidAnswer),
        ([encode_event({"error": "prompt_missing", "detail": "?"}, name="error")], PromptMissing),
    ],
    ids=["closed", "done", "finish", "blank", "error", "malformed", "bad meta", "caller"],
)
async def test_before_the_first_content_every_failure_is_raised(
    blocks: list[bytes], error: type[Exception]
) -> None:
    """A failure before the first text is raised by `commit`, so that another provider can be tried."""
    with pytest.raises(error):
        await reader(*blocks).commit()


@pytest.mark.parametrize(
    ("blocks", "then"),
    [
        ([], None),
        ([], EndpointUnreachable("reset")),
        ([ERROR], None),
        ([ERROR, DONE], None),
        ([MALFORMED, text("more"), FINISH, DONE], None),
        ([b"data: [1]\n\n"], None),
        ([text("more")[:-7]], None),
        ([FINISH, ERROR], None),
    ],
    ids=[
        "close",
        "reset",
        "error",
        "error then done",
        "malformed",
        "no object",
        "half",
        "error after finish",
    ],
)
async def test_no_cut_ends_like_an_answer(blocks: list[bytes], then: Exception | None) -> None:
    """After text, an error, malformed event or end without finish reason and `[DONE]` raises; the text is delivered."""
    answer = reader(META, text("Once"), *blocks, then=then)
    await answer.commit()
    accumulated = AnswerAccumulator()
    with pytest.raises(GenerationInterrupted):
        await read_into(accumulated, answer)
    assert accumulated.text == "Once"
    assert answer.state == "cut"


@pytest.mark.parametrize(
    ("blocks", "then"),
    [([FINISH], None), ([FINISH, USAGE], None), ([FINISH], EndpointUnreachable("reset"))],
    ids=["no done", "usage but no done", "reset after the finish"],
)
async def test_a_finished_answer_is_complete_without_the_done_mark(
    blocks: list[bytes], then: Exception | None
) -> None:
    """A stream with a finish reason but without `[DONE]` is complete."""
    answer = reader(text("All"), *blocks, then=then)
    assert await read(answer) == "All"
    assert answer.state == "complete"


async def test_done_without_a_finish_reason_gets_one() -> None:
    """A stream that ends with `[DONE]` only gets the finish reason `stop`."""
    answer = reader(text("All"), DONE)
    await answer.commit()
    chunks = [chunk async for chunk in answer]
    assert chunks[-1].finish_reason == "stop"


async def test_unknown_events_and_comments_are_ignored() -> None:
    """Comments and events of an unknown name are ignored."""
    ping = b": ping\n\nevent: ping\ndata: {}\n\n"
    assert await read(reader(ping, text("a"), ping, text("b"), FINISH, DONE)) == "ab"


async def test_a_missing_choice_makes_the_answer_incomplete() -> None:
    """With one finish reason for two requested choices, `[DONE]` ends a cut stream, not a complete one."""
    answer = reader(META, ROLE, text("Hello"), FINISH, USAGE, DONE, choices=2)
    await answer.commit()
    with pytest.raises(GenerationInterrupted, match="choice is missing"):
        await read_into(AnswerAccumulator(2), answer)
    assert answer.state == "cut"


@pytest.mark.parametrize(
    "odd",
    [
        encode_event({"choices": [{"delta": {"content": ["a", "list"]}}]}),
        encode_event({"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}),
        encode_event({"choices": [{"index": 1, "delta": {"content": "unasked"}}]}),
        encode_event({"adapter_version": "v" * 300, "model": "m"}, name="meta"),
    ],
    ids=["list", "two", "unasked", "long name"],
)
async def test_malformed_chunks_are_failures_of_the_server(odd: bytes) -> None:
    """A malformed chunk or event raises `InvalidAnswer`."""
    with pytest.raises(InvalidAnswer):
        await reader(META, odd, text("Hello"), FINISH, DONE).commit()


async def test_what_follows_the_end_is_dropped() -> None:
    """Text and further finish reasons after the first finish reason are dropped."""
    answer = reader(text("Hello"), FINISH, text(" more"), FINISH, DONE)
    assert await read(answer) == "Hello"
    assert answer.state == "complete"


@pytest.mark.parametrize("together", [1, 100])
async def test_blanks_without_text_are_no_answer(together: int) -> None:
    """Blank text is held back until other text follows, and refused beyond a limit."""
    with pytest.raises(InvalidAnswer, match="blank text"):
        await reader(*[text(" ") * together] * (10_000 // together)).commit()


async def test_text_that_arrives_together_is_one_chunk() -> None:
    """Consecutive text events in one network block become one chunk with all their bytes.

    An event that has to be parsed stays a chunk of its own.
    """
    together = [text("é"), text(" b"), text(" c")]
    quoted = text(' "d"')  # has to be parsed
    events = [ROLE, text("a"), *together, quoted, text(" e"), text(" f"), FINISH, USAGE]
    answer = reader(b"".join(events), DONE)
    await answer.commit()
    chunks = [chunk async for chunk in answer]
    assert [c.text for c in chunks] == ["", "a", "é b c", ' "d"', " e f", "", ""]
    assert chunks[2].raw == b"".join(together)
    assert b"".join(chunk.raw for chunk in chunks) == b"".join(events)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
async def test_byte_order_mark_and_line_ends_cost_no_text(size: int, end: bytes) -> None:
    """A byte order mark and any kind of line end are read correctly, however the network splits the stream."""
    whole = (text("Hello") + text(" you") + FINISH + DONE).replace(b"\n", end)
    data = b"\xef\xbb\xbf" + whole
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    assert await read(reader(*parts)) == "Hello you"


def odd(**changes: object) -> bytes:
    """A chunk whose only choice has these fields."""
    body = chunk_body(answer_id="x", created=0, model="m", delta={})
    return encode_event({**body, "choices": [{"index": 0, **changes}]})


@pytest.mark.parametrize(
    "event",
    [
        odd(),
        odd(delta=None),
        odd(delta={"content": None}),
        odd(delta={}, logprobs={"content": [{"token": "a", "logprob": None}]}),
        odd(delta={}, logprobs={"content": None}),
        odd(delta={}, logprobs=[]),
        encode_event({"id": "x", "choices": None}),
        encode_event({"type": "ping"}),
        encode_event({"id": "x", "choices": [], "usage": {"total_tokens": 3}}),
        encode_event({"id": "x", "choices": [], "usage": {"prompt_tokens": None}}),
        b"dat: {}\n\n",
        b"id: 7\nretry: 10\n\n",
        b": comment\n\n",
    ],
    ids=lambda event: event.decode().strip()[-50:],
)
async def test_what_carries_no_text_costs_no_answer(event: bytes) -> None:
    """Unusual events without text, before, between and after the text, do not change the text."""
    answer = reader(event, text("Hello"), event, text(" you"), event, FINISH, event, DONE)
    assert await read(answer) == "Hello you"


@pytest.mark.parametrize(
    "count", [1e30, -1, "many", None], ids=["huge", "negative", "words", "null"]
)
async def test_counts_that_cannot_be_read_are_left_out(count: object) -> None:
    """Invalid token counts are dropped from usage and raw events, and the text is kept."""
    usage = {"prompt_tokens": 1, "completion_tokens": count}
    event = encode_event({"id": "x", "choices": [], "usage": usage})
    answer = reader(event, text("Hello"), FINISH, event, DONE)
    await answer.commit()
    chunks = [chunk async for chunk in answer]
    assert "".join(chunk.text for chunk in chunks) == "Hello"
    assert answer.usage is None
    assert b"usage" not in b"".join(chunk.raw for chunk in chunks)


REFUSED = encode_event(
    {"content": "", "error": "invalid_request", "detail": "stop: too early", "param": "stop"},
    name="error",
)


@pytest.mark.parametrize("peer", ["engine", "replica"])
async def test_an_error_of_the_request_is_no_interruption(peer: str) -> None:
    """An `InvalidRequest` error within a stream is raised as such, not as an interruption: a retry would fail, too."""
    if peer == "engine":
        refusal = InvalidRequest("stop: too early", param="stop")
        answer = reader(META, text("{"), then=refusal)
    else:
        answer = reader(META, text("{"), REFUSED)
    with pytest.raises(InvalidRequest, match="stop: too early"):
        await read(answer)
    assert answer.state == "cut"
