"""Log-probabilities as clients receive them, whatever form the engine sends them in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from mongars.protocol.logprobs import entries, mended, named
from mongars.protocol.sse import DONE, EventSplitter, encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HALF = {"token": "\N{REPLACEMENT CHARACTER}", "bytes": [0xF0, 0x9F], "logprob": -1.5}
ODD = {"token": 'a"]}\\', "bytes": list(b'a"]}\\'), "logprob": -1}


def sent(*content: dict[str, Any]) -> bytes:
    return encode_event({"choices": [{"delta": {"content": ""}, "logprobs": {"content": content}}]})


async def read(raw: bytes, *, alternatives: bool, block: int) -> list[dict[str, Any]]:
    async def blocks() -> AsyncIterator[bytes]:
        for start in range(0, len(raw), block):
            yield raw[start : start + block]

    found = b"".join([each async for each in mended(blocks(), alternatives=alternatives)])
    events = EventSplitter().feed(found)
    assert events[-1].is_done
    return [orjson.loads(e.data)["choices"][0]["logprobs"]["content"] for e in events[:-1]]


def test_a_part_of_a_character_is_named_as_openai_does() -> None:
    """A token that is part of a character keeps its `bytes`, and its text lists them after `bytes:`, as OpenAI does."""
    found = named({**HALF, "top_logprobs": [{**HALF, "token": ""}]})
    assert found["token"] == "bytes:\\xf0\\x9f"
    assert found["top_logprobs"][0]["token"] == "bytes:\\xf0\\x9f"
    assert found["bytes"] == [0xF0, 0x9F]


def test_a_token_known_by_its_text_has_its_bytes() -> None:
    """A single token has the bytes of its text; for several tokens in one text `bytes` is None."""
    assert entries("é", [-1.0])[0]["bytes"] == [0xC3, 0xA9]
    assert [entry["bytes"] for entry in entries("", [-1.0])] == [None]
    assert [entry["bytes"] for entry in entries("ab", [-1.0, -2.0])] == [None, None]


@pytest.mark.parametrize("block", [7, 10_000])
async def test_alternatives_come_only_if_they_are_wanted(block: int) -> None:
    """Alternatives of a token are sent only if requested, whatever their characters and wherever the stream is cut."""
    entry = {**ODD, "top_logprobs": [ODD, {**ODD, "token": "[", "bytes": [91]}]}
    raw = sent(entry, entry) + sent({**HALF, "top_logprobs": [HALF]}) + DONE
    plain, half = await read(raw, alternatives=False, block=block)
    assert plain == [{**ODD, "top_logprobs": []}] * 2
    assert (half[0]["token"], half[0]["top_logprobs"]) == ("bytes:\\xf0\\x9f", [])
    wanted, half = await read(raw, alternatives=True, block=block)
    assert wanted == [entry, entry]
    assert half[0]["top_logprobs"][0]["token"] == "bytes:\\xf0\\x9f"


async def test_a_token_that_ends_within_a_character_is_named_by_its_bytes() -> None:
    """A token that ends within a character is named by its bytes, even if the engine shows the characters before."""
    entry = {"token": " ", "bytes": [0x20, 0xF0, 0x9F], "logprob": -1.0, "top_logprobs": []}
    ((found,),) = await read(sent(entry) + DONE, alternatives=True, block=10_000)
    assert found["token"] == "bytes:\\x20\\xf0\\x9f"
