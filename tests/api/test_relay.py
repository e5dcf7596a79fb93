"""`Relay`: how the events of a model server are passed on to a client of the API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mongars.api.chat_events import ChatEvents
from mongars.api.relay import Relay
from mongars.core.generation import Chunk, Usage
from mongars.protocol.openai import chunk_body, read_chunk, usage_body, usage_chunk_body
from mongars.protocol.sse import DONE, EventSplitter, encode_event
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, Body, FaultyResponse, Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

USAGE = Usage(prompt_tokens=3, completion_tokens=2)


def said(delta: dict[str, Any], **more: Any) -> Chunk:
    """A chunk with the raw event of a model server, including an unknown field."""
    finish = more.get("finish_reason")
    body = chunk_body(
        answer_id="theirs", created=7, model="m", delta=delta, finish_reason=finish
    ) | {"system_fingerprint": "b1"}
    return Chunk(text=delta.get("content") or "", finish_reason=finish, raw=encode_event(body))


def relay(*, with_usage: bool = True) -> Relay:
    return Relay(answer_id="ours", created=1, model="ours", with_usage=with_usage)


def bodies(events: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in EventSplitter().feed(events) if not event.is_done]


def test_events_are_passed_on_byte_for_byte() -> None:
    """Events of the model server are passed on byte for byte, unknown fields included."""
    chunks = [said({"role": "assistant", "content": ""}), said({"content": "é"})]
    assert relay(with_usage=False).events(chunks) == chunks[0].raw + chunks[1].raw


@pytest.mark.parametrize("started", [True, False])
def test_events_of_one_chunk_are_passed_on_as_they_are(*, started: bool) -> None:
    """Several events in one chunk stay separate; with usage requested, each has `usage: null`."""
    first = [said({"role": "assistant", "content": ""})] if started else []
    alike = [said({"content": text}) for text in ("}", "b", "é")]
    chunk = Chunk(text="}bé", raw=b"".join(each.raw for each in alike))
    events = relay(with_usage=False).events([*first, chunk])
    assert events.endswith(chunk.raw)
    assert len(bodies(events)) == 4  # one event has the role, from the engine or added
    counted = bodies(relay().events([*first, chunk]))
    assert all(body["usage"] is None for body in counted)
    assert {body["id"] for body in counted} == {"theirs"}
    texts = [body["choices"][0]["delta"]["content"] for body in counted]
    assert texts == ["", "}", "b", "é"]


@pytest.mark.parametrize("text", ["é", '"usage":5}', "}\n\n"])
def test_with_counts_requested_every_other_event_has_null_usage(text: str) -> None:
    """With usage requested, `usage` is null in every event but the last, whatever the text."""
    chunks = [said({"content": "a"}), said({"content": text}), Chunk(text="b")]
    passing = relay()
    found = bodies(passing.events([*chunks, Chunk(usage=USAGE)]) + passing.end())
    assert [body["usage"] is None for body in found] == [True] * 4 + [False]
    assert found[2] == json.loads(chunks[1].raw.removeprefix(b"data: ")) | {"usage": None}


def test_events_of_one_answer_have_one_fingerprint() -> None:
    """All events of an answer have one fingerprint: the engine's, none if it sends none, ours without engine events."""
    found = bodies(relay().events([said({"content": "a"}), Chunk(text="b")]))
    assert {body["system_fingerprint"] for body in found} == {"b1"}
    bare = encode_event({"id": "x", "choices": [{"delta": {"content": "a"}}]})
    found = bodies(relay().events([Chunk(text="a", raw=bare), Chunk(text="b")]))
    assert not any("system_fingerprint" in body for body in found)
    found = bodies(relay().events([Chunk(text="a"), Chunk(text="b")]))
    (ours,) = {body["system_fingerprint"] for body in found}
    assert ours.startswith("fp_")


@pytest.mark.parametrize(
    "odd",
    [
        encode_event({"id": "theirs", "choices": [{"delta": {"role": "assistant"}}]}),
        encode_event({"id": "another", "choices": [{"delta": {}}]}),
        b"id: \xff\n" + encode_event({"id": "theirs", "choices": [{"delta": {}}]}),
        encode_event({"id": "theirs", "choices": [{"delta": {}}]}, name="message"),
    ],
    ids=["second role", "another id", "a field of its own", "a name"],
)
def test_what_an_answer_does_not_hold_is_not_passed_on(odd: bytes) -> None:
    """An irregular event (a second role, another id, extra fields) is replaced by a regular one with its text."""
    events = relay().events([said({"role": "assistant", "content": "a"}), Chunk(text="b", raw=odd)])
    first, second = bodies(events)
    assert second["choices"][0]["delta"] == {"content": "b"}
    assert (first["id"], second["id"]) == ("theirs", "theirs")
    assert odd not in events


def test_role_is_added_where_the_engine_left_it_out() -> None:
    """If the engine sends no role, one event with the role is added, under the engine's id."""
    found = bodies(relay().events([said({"content": "a"}), said({"content": "b"})]))
    assert [body["choices"][0]["delta"].get("role") for body in found] == ["assistant", None, None]
    assert {body["id"] for body in found} == {"theirs"}


def test_answer_keeps_its_id_when_it_moves() -> None:
    """An answer continued by another engine keeps its first id and has one role; the model name changes."""
    passing = relay()
    events = passing.events([said({"role": "assistant", "content": "a"})])
    other = encode_event({"id": "another", "choices": []})
    rest = [Chunk(text="b", raw=other), Chunk(finish_reason="stop", raw=other)]
    events += passing.events(rest, moved_to="other")
    found = bodies(events)
    assert {(body["id"], body["created"]) for body in found} == {("theirs", 7)}
    assert [body["model"] for body in found] == ["m", "other", "other"]
    assert [body["choices"][0]["delta"] for body in found] == [
        {"role": "assistant", "content": "a"},
        {"content": "b"},
        {},
    ]
    assert found[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("asked", [True, False])
def test_counts_come_last_and_only_if_requested(asked: bool) -> None:
    """Usage that the engine sends early or twice is sent once, after the text, and only if requested."""
    passing = relay(with_usage=asked)
    counted = Chunk(usage=USAGE)
    events = passing.events([counted, said({"content": "a"}), counted])
    found = bodies(events + passing.end())
    assert [bool(body.get("usage")) for body in found] == [False, False, True][: 3 if asked else 2]
    assert all(("usage" in body) is asked for body in found)
    assert (events + passing.end()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("moved_to", [None, "other"])
@pytest.mark.parametrize("asked", [True, False])
def test_counts_on_the_finish_are_split_off_and_sent_only_if_requested(
    asked: bool, moved_to: str | None
) -> None:
    """Usage in the event with the finish reason is sent in an event of its own, and only if requested."""
    passing = relay(with_usage=asked)
    raw = encode_event({"id": "x", "choices": [{"delta": {}}], "usage": {"total_tokens": 5}})
    finish = Chunk(finish_reason="stop", usage=USAGE, raw=raw)
    events = passing.events([said({"content": "a"}), finish], moved_to=moved_to) + passing.end()
    found = bodies(events)
    assert found[2]["choices"][0]["finish_reason"] == "stop"
    counted = [bool(body.get("usage")) for body in found]
    assert counted == [False, False, False, True][: 4 if asked else 3]


def test_chunks_without_bytes_are_written() -> None:
    """Chunks without raw events are written as events with our own id."""
    chunks = [Chunk(text="Hello"), Chunk(finish_reason="length")]
    found = bodies(relay().events(chunks))
    assert [body["choices"][0]["delta"].get("content") for body in found] == ["", "Hello", None]
    assert found[-1]["choices"][0]["finish_reason"] == "length"
    assert {body["id"] for body in found} == {"ours"}


def seen(events: bytes) -> dict[str, Any]:
    """What a client reads from a stream: texts, reasoning, roles and finish reasons per choice, and usage."""
    found: dict[str, Any] = {"text": {}, "reasoning": {}, "finish": {}, "roles": [], "usage": []}
    for body in bodies(events):
        if body.get("usage"):
            found["usage"].append(body["usage"])
        for choice in body["choices"]:
            index, delta = choice["index"], choice["delta"]
            for name, field in (("text", "content"), ("reasoning", "reasoning_content")):
                before = found[name].get(index, "")
                found[name][index] = before + (delta.get(field) or "")
            found["roles"] += [index] if "role" in delta else []
            if choice["finish_reason"]:
                found["finish"][index] = choice["finish_reason"]
    assert events.endswith(DONE)
    return found


def sent(
    delta: dict[str, Any], *, index: int = 0, finish: str | None = None, usage: Usage | None = None
) -> Chunk:
    """A chunk as the gateway reads it from an engine's event."""
    body = chunk_body(
        answer_id="theirs", created=7, model="m", delta=delta, finish_reason=finish, index=index
    )
    raw = encode_event(body if usage is None else {**body, "usage": usage_body(usage)})
    (event,) = EventSplitter().feed(raw)
    return read_chunk(event)


COUNTED = usage_chunk_body(answer_id="theirs", created=7, model="m", usage=USAGE)
STREAMS = {
    "plain": [
        sent({"role": "assistant", "content": ""}),
        sent({"content": "a"}),
        sent({"content": "\n\n{é}"}),
        sent({}, finish="stop"),
        Chunk(usage=USAGE, raw=encode_event(COUNTED)),
    ],
    "no-role-and-counts-on-the-finish": [
        sent({"content": "a"}),
        sent({"content": "b"}, finish="length", usage=USAGE),
    ],
    "reasoning": [
        sent({"role": "assistant", "reasoning_content": "hm"}),
        sent({"reasoning_content": "so"}),
        sent({"content": "a"}),
        sent({}, finish="stop"),
    ],
    "two-choices": [
        sent({"role": "assistant", "content": "a"}),
        sent({"role": "assistant", "content": "x"}, index=1),
        sent({"content": "b"}),
        sent({}, finish="stop"),
        sent({}, index=1, finish="length"),
    ],
}


@pytest.mark.parametrize("with_usage", [True, False])
@pytest.mark.parametrize("chunks", STREAMS.values(), ids=STREAMS)
def test_relayed_and_written_events_say_the_same(chunks: list[Chunk], with_usage: bool) -> None:
    """Events passed on by `Relay` and events written by `ChatEvents` have the same content."""
    passing = relay(with_usage=with_usage)
    written = ChatEvents(answer_id="ours", created=1, model="ours", with_usage=with_usage)
    relayed = b"".join(passing.events([chunk]) for chunk in chunks) + passing.end()
    assert seen(relayed) == seen(written.events(chunks) + written.end())
    assert len(seen(relayed)["usage"]) <= int(with_usage)


@pytest.mark.parametrize("cache_bytes", [0, 1_000_000])
@pytest.mark.parametrize("block", [None, 1, 7])
async def test_moved_answer_reads_as_one(
    start_api: Callable[..., AbstractAsyncContextManager[Api]], block: int | None, cache_bytes: int
) -> None:
    """A stream cut by one replica and completed by another has one id, one role, the whole text and usage."""
    async with FakeReplica(FaultyResponse(cut_after=20, block=block)) as replica:
        replica.always = FaultyResponse(block=block)
        async with start_api(endpoints=(replica.url,), cache_bytes=cache_bytes) as api:
            body = {
                "model": "mongars",
                "messages": [{"role": "user", "content": "Say the words."}],
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            url = f"{api.url}/v1/chat/completions"
            async with api.http.post(url, json=body, headers=api.auth) as response:
                text = await response.read()
    found = bodies(text)
    deltas = [body["choices"][0]["delta"] for body in found if body["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == TEXT
    assert sum("role" in delta for delta in deltas) == 1
    assert len({body["id"] for body in found}) == 1
    assert found[-1]["usage"]["completion_tokens"] > 0
    assert text.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "function_call", "length"])
@pytest.mark.parametrize("shape", ["streamed", "in one piece"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_the_reason_an_upstream_gives_for_the_end_is_passed_on(
    start_api: Callable[..., AbstractAsyncContextManager[Api]],
    *,
    reason: str,
    shape: str,
    stream: bool,
) -> None:
    """The finish reason of a model server reaches the client, streamed or whole on either side."""
    event = chunk_body(answer_id="a", created=1, model="m", delta={"content": "Hi"})
    end = chunk_body(answer_id="a", created=1, model="m", delta={}, finish_reason=reason)
    whole = Body(data=json.dumps({"content": "Hi", "finish_reason": reason}).encode())
    events = encode_event(event) + encode_event(end) + DONE
    upstream = Body(data=events, media_type="text/event-stream")
    async with (
        FakeReplica(upstream if shape == "streamed" else whole) as replica,
        start_api(endpoints=(replica.url,)) as api,
    ):
        body = {"model": "mongars", "messages": [{"role": "user", "content": "?"}]}
        url = f"{api.url}/v1/chat/completions"
        async with api.http.post(url, json=body | {"stream": stream}, headers=api.auth) as response:
            assert response.headers["x-llm-provider"] == "ray_serve"
            found = bodies(await response.read()) if stream else [await response.json()]
    assert found[-1]["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize("stream", [True, False])
async def test_overhead_is_what_the_replica_did_not_take(
    start_api: Callable[..., AbstractAsyncContextManager[Api]], stream: bool
) -> None:
    """`x-llm-overhead-ms` excludes the 500 ms of the replica and includes the 1 s wait that it asked for."""
    slow = FaultyResponse(first_delay=0.5)
    busy = Status(code=503, error="overloaded", headers={"Retry-After": "1"})
    async with (
        FakeReplica(slow, busy, slow) as replica,
        start_api(endpoints=(replica.url,)) as api,
    ):
        found = []
        for _ in range(2):
            body = {
                "model": "mongars",
                "messages": [{"role": "user", "content": "Say the words."}],
                "stream": stream,
            }
            url = f"{api.url}/v1/chat/completions"
            async with api.http.post(url, json=body, headers=api.auth) as response:
                await response.read()
                found.append(float(response.headers["x-llm-overhead-ms"]))
    assert found[0] < 450
    assert found[1] > 950


@pytest.mark.parametrize("field", ["reasoning_content", "thinking"])
async def test_reasoning_reaches_openai_clients_apart_from_the_text(
    start_api: Callable[..., AbstractAsyncContextManager[Api]], field: str
) -> None:
    """Reasoning is returned in a field of its own, whole and streamed, and never in the content."""
    thinking = FaultyResponse(reasoning="let me see", reasoning_field=field)
    async with FakeReplica() as replica, start_api(endpoints=(replica.url,)) as api:
        replica.always = thinking
        ask = {"model": "mongars", "messages": [{"role": "user", "content": "Say the words."}]}
        url = f"{api.url}/v1/chat/completions"
        async with api.http.post(url, json=ask, headers=api.auth) as response:
            message = (await response.json())["choices"][0]["message"]
        async with api.http.post(url, json={**ask, "stream": True}, headers=api.auth) as response:
            deltas = [body["choices"][0]["delta"] for body in bodies(await response.read())]
    assert (message["content"], message["reasoning_content"]) == (TEXT, "let me see")
    assert "".join(delta.get("content") or "" for delta in deltas) == TEXT
    assert "".join(delta.get(field) or "" for delta in deltas) == "let me see"
