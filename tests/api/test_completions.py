"""`/v1/completions`, tested with the official client and with raw HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import orjson
import pytest
from openai_client import ANSWER, client_of

from mongars.engines.fake import FakePlan
from mongars.protocol.sse import EventSplitter
from support import eventually, impatient

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

    Start = Callable[..., AbstractAsyncContextManager[Api]]

PATH = "/v1/completions"
PROMPT = "good morning"


async def post(api: Api, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": "mongars", "prompt": PROMPT, **fields}
    async with api.http.post(api.url + PATH, json=body, headers=api.auth) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT]], ids=["text", "list"])
async def test_official_client_completes(api: Api, prompt: str | list[str]) -> None:
    """A prompt is sent as one user message; the response has its text, finish reason and token counts."""
    async with client_of(api) as client:
        answer = await client.completions.create(model="mongars", prompt=prompt)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == (ANSWER, "stop", None)
    assert answer.object == "text_completion"
    assert answer.model == "fake"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 5)


async def test_official_client_completes_in_a_stream(api: Api) -> None:
    """A streamed completion has one id, one finish reason, and the token counts in a last chunk without choices."""
    async with client_of(api) as client:
        stream = await client.completions.create(
            model="fake", prompt=PROMPT, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    choices = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(choice.text for choice in choices) == ANSWER
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 8
    assert not any(chunk.usage for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_counts_are_not_streamed_unless_wanted(api: Api) -> None:
    """Without `stream_options`, every streamed chunk has a choice and none has token counts."""
    async with client_of(api) as client:
        stream = await client.completions.create(model="fake", prompt=PROMPT, stream=True)
        chunks = [chunk async for chunk in stream]
    assert all(chunk.choices for chunk in chunks)
    assert not any("usage" in chunk.model_fields_set for chunk in chunks)


async def test_several_answers_come_with_their_indexes(api: Api) -> None:
    """With `n` = 2, the response, whole or streamed, has two choices, each with its index and text."""
    async with client_of(api) as client:
        whole = await client.completions.create(model="mongars", prompt=PROMPT, n=2)
        stream = await client.completions.create(model="mongars", prompt=PROMPT, n=2, stream=True)
        texts, finished = ["", ""], set()
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                if choice.finish_reason:
                    finished.add(choice.index)
    assert [(choice.index, choice.text) for choice in whole.choices] == [(0, ANSWER), (1, ANSWER)]
    assert texts == [ANSWER, ANSWER]
    assert finished == {0, 1}


@pytest.mark.parametrize("wanted", [0, 2])
async def test_logprobs_have_the_older_shape(api: Api, wanted: int) -> None:
    """Logprobs are lists of tokens, values and text offsets, the same in a whole and a streamed response."""
    async with client_of(api) as client:
        whole = await client.completions.create(model="mongars", prompt=PROMPT, logprobs=wanted)
        stream = await client.completions.create(
            model="mongars", prompt=PROMPT, logprobs=wanted, stream=True
        )
        parts = [c.choices[0].logprobs async for c in stream if c.choices[0].logprobs]
    rated = whole.choices[0].logprobs
    assert rated is not None
    assert "".join(rated.tokens or ()) == ANSWER
    assert rated.token_logprobs == [-0.5] * 5
    places = rated.text_offset or []
    assert all(ANSWER[place:].startswith(t) for place, t in zip(places, rated.tokens, strict=True))
    assert places == sorted(set(places))
    assert (rated.top_logprobs is None) == (wanted == 0)
    assert [token for part in parts for token in part.tokens or ()] == rated.tokens
    assert [place for part in parts for place in part.text_offset or ()] == places


async def test_parameters_reach_the_engine(api: Api) -> None:
    """`max_tokens`, `stop` and `logit_bias` change the answer of a completion as they do in a chat."""
    async with client_of(api) as client:
        cut = await client.completions.create(model="mongars", prompt=PROMPT, max_tokens=2)
        ended = await client.completions.create(
            model="mongars", prompt=PROMPT, stop=["said"], seed=1, temperature=0
        )
        biased = await client.completions.create(
            model="mongars", prompt=PROMPT, logit_bias={"1": -100}
        )
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == ("[1] you", "length")
    assert (ended.choices[0].text.strip(), ended.choices[0].finish_reason) == ("[1] you", "stop")
    assert biased.choices[0].text == "[1] said: good morning"


@pytest.mark.parametrize(
    ("demanded", "param"),
    [
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": [[1, 2], [3]]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": "many"}, "logprobs"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"grammar": "root ::= x"}, "grammar"),
    ],
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_demand_that_cannot_be_met_is_refused_by_name(
    api: Api, *, demanded: dict[str, Any], param: str, stream: bool
) -> None:
    """An unsupported or invalid parameter gets 400 with its name; token ids and several prompts get an explanation."""
    status, body = await post(api, **{"stream": stream, **demanded})
    assert (status, body["error"]["param"]) == (400, param)
    assert param in body["error"]["message"]
    if isinstance(demanded.get("prompt"), list) and demanded["prompt"]:
        word = "one request for each" if demanded["prompt"][0] == "a" else "token numbers"
        assert word in body["error"]["message"]


async def test_null_and_neutral_values_are_accepted(api: Api) -> None:
    """Optional parameters that are null or have their neutral value are accepted."""
    names = (
        *("best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n"),
        *("presence_penalty", "seed", "stop", "stream", "stream_options", "suffix"),
        *("temperature", "top_p", "user"),
    )
    assert (await post(api, **dict.fromkeys(names)))[0] == 200
    assert (await post(api, best_of=1, echo=False, suffix="", user="me", logprobs=False))[0] == 200


async def test_errors_are_openais(api: Api) -> None:
    """For an unknown model, a wrong key and too long a prompt, the official client raises its own exceptions."""
    async with client_of(api) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.completions.create(model="gpt-9", prompt=PROMPT)
        with pytest.raises(openai.BadRequestError) as full:
            await client.completions.create(model="mongars", prompt="word " * 300, stream=True)
    async with client_of(api, key="mg-wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.completions.create(model="mongars", prompt=PROMPT)
    assert (unknown.value.code, full.value.code) == ("model_not_found", "context_length_exceeded")


async def test_a_cut_stream_ends_with_an_error_event(start_api: Start) -> None:
    """A stream whose generation breaks off ends with an error event and no `[DONE]`; the official client raises."""
    async with start_api(FakePlan(cut_after_tokens=2)) as api:
        body = {"model": "mongars", "prompt": PROMPT, "stream": True}
        async with api.http.post(api.url + PATH, json=body, headers=api.auth) as response:
            events = EventSplitter().feed(await response.read())
        assert events[-1].name == "error"
        assert orjson.loads(events[-1].data)["error"]["code"] == "generation_interrupted"
        assert not any(event.is_done for event in events)
        async with client_of(api) as client:
            stream = await client.completions.create(model="fake", prompt=PROMPT, stream=True)
            with pytest.raises(openai.APIError):
                async for _ in stream:
                    pass


async def test_a_client_that_leaves_stops_the_engine(start_api: Start) -> None:
    """When the client disconnects, the engine stops generating within 0.2 s."""
    async with start_api(FakePlan(token_delay=0.2)) as api:

        async def read() -> None:
            await post(api)

        async with impatient(read) as client:
            await eventually(lambda: api.engine.busy == 1)
            await client.leave()
            await eventually(lambda: api.engine.busy == 0, seconds=0.2)
