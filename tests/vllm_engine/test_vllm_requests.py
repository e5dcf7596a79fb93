"""Requests to vLLM and the events made from its outputs, tested without vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import ConfigurationError, GenerationInterrupted, InvalidRequest
from mongars.core.generation import Sampling
from mongars.engines.vllm import runtime_config
from mongars.engines.vllm.config import VllmConfig
from mongars.engines.vllm.engine import VllmEngine
from mongars.engines.vllm.events import VllmEventWriter
from mongars.engines.vllm.sampling import sampling_arguments, structure_arguments
from mongars.protocol.sse import EventSplitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Logprob:
    logprob: float
    rank: int
    decoded_token: str | None


@dataclass
class Piece:
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: list[dict[int, Logprob]] | None = None


@dataclass
class Output:
    outputs: list[Piece]
    prompt_token_ids: list[int] = field(default_factory=lambda: [1, 2, 3])
    num_cached_tokens: int | None = None


async def written(*pieces: Piece, top_logprobs: int = 0) -> list[dict[str, object]]:
    async def outputs() -> AsyncIterator[Output]:
        for piece in pieces:
            yield Output([piece], num_cached_tokens=2)

    writer = VllmEventWriter(answer_id="a", model="m", created=7, top_logprobs=top_logprobs)
    splitter = EventSplitter()
    events = [event async for block in writer.write(outputs()) for event in splitter.feed(block)]
    assert events[-1].is_done
    return [orjson.loads(event.data) for event in events[:-1]]


async def test_outputs_become_role_text_finish_and_usage() -> None:
    """Outputs of vLLM become chunks with role, text, finish reason and usage; one without text becomes no chunk."""
    events = await written(
        Piece("Hel", [1]), Piece("", [2]), Piece("lo", [3, 4]), Piece("", [5], "stop")
    )
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    assert deltas == [
        {"role": "assistant", "content": None},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


async def test_logprobs_have_the_form_of_openai() -> None:
    """Log-probabilities have OpenAI's form: one entry per token, alternatives by rank, -9999 for minus infinity."""
    table = {
        9: Logprob(-3.0, 3, "c"),
        7: Logprob(-0.5, 1, "é"),
        8: Logprob(-float("inf"), 2, None),
    }
    events = await written(Piece("c", [9], "length", [table]), top_logprobs=2)
    (entry,) = events[1]["choices"][0]["logprobs"]["content"]
    assert entry == {
        "token": "c",
        "logprob": -3.0,
        "bytes": [99],
        "top_logprobs": [
            {"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]},
            {"token": "", "logprob": -9999.0, "bytes": None},
        ],
    }


@pytest.mark.parametrize("reason", [None, "abort", "error"])
async def test_answer_that_vllm_broke_off_is_interrupted(reason: str | None) -> None:
    """An output that ends without a stop or the token limit raises `GenerationInterrupted`."""
    with pytest.raises(GenerationInterrupted):
        await written(Piece("Hel", [1], reason))


def test_open_parameters_are_the_models_own() -> None:
    """Parameters that a request leaves out have the model's defaults, except the token limit."""
    arguments = sampling_arguments(
        Sampling(
            temperature=0.0,
            stop=("a",),
            seed=0,
            logprobs=True,
            repetition_penalty=1.2,
            min_p=0.1,
            logit_bias=((5, -100.0),),
        ),
        {"temperature": 0.7, "top_k": 20, "max_tokens": 5},
    )
    assert arguments == {
        "temperature": 0.0,
        "top_k": 20,
        "stop": ["a"],
        "seed": 0,
        "repetition_penalty": 1.2,
        "min_p": 0.1,
        "logit_bias": {5: -100.0},
        "logprobs": 0,
        "max_tokens": None,
    }


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param({"type": "text"}, None, id="text"),
        pytest.param({"type": "json_object"}, {"json_object": True}, id="object"),
        pytest.param(
            {"type": "json_object", "schema": {"type": "object"}},
            {"json": {"type": "object"}},
            id="object-with-schema",
        ),
        pytest.param(
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
            {"json": {"type": "array"}},
            id="schema",
        ),
    ],
)
def test_response_formats(response_format: object, expected: object) -> None:
    """OpenAI's response formats become vLLM's constraints."""
    assert structure_arguments(response_format) == expected


@pytest.mark.parametrize(
    "response_format",
    [{}, {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}],
    ids=["empty", "unknown", "no-schema", "schema-missing"],
)
def test_unknown_response_format_is_the_callers_mistake(response_format: dict[str, object]) -> None:
    """An unknown response format is refused, not ignored."""
    with pytest.raises(InvalidRequest, match="response_format"):
        structure_arguments(response_format)


def test_reason_is_the_last_error_that_names_one(tmp_path: Path) -> None:
    """The reason is the first cause in vLLM's log, not the later errors that refer to it."""
    assert runtime_config.logged_reason(tmp_path) == ""
    (tmp_path / "vllm.log").write_text(
        "WorkerProc failed to start.\nTraceback (most recent call last):\n"
        "ValueError: No available memory for the cache blocks.\n"
        "EngineCore failed to start.\nTraceback (most recent call last):\n"
        "Exception: WorkerProc initialization failed. See stack trace for root cause.\n"
    )
    reason = runtime_config.logged_reason(tmp_path)
    assert reason == "ValueError: No available memory for the cache blocks."


def test_without_vllm_the_extra_is_named() -> None:
    """If vLLM is not installed, the error names the extra to install."""
    config = VllmConfig(model_path=Path("model"), model_name="m")
    with pytest.raises(ConfigurationError, match=r"'vllm' is not installed.*mongars\[vllm\]"):
        VllmEngine(config, clock=SystemClock())
