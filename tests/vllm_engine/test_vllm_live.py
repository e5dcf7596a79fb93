"""Real vLLM: formats, log-probabilities, adapters, cancellation, failures and shutdown."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import psutil
import pytest
from adapter_files import as_published, write_adapter

from mongars.core.errors import (
    ContextLengthExceeded,
    GenerationInterrupted,
    InferenceFailed,
    InvalidRequest,
    NotReady,
)
from mongars.core.generation import GenerationRequest, Message, Origin, Sampling
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter
from support import eventually
from vllm_pool import CONTEXT, SLOTS, VLLM

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.engines.adapter_folder import AdapterFolder
    from mongars.engines.vllm.engine import VllmEngine
    from vllm_pool import VllmEngines

pytestmark = [*VLLM, pytest.mark.asyncio(loop_scope="session")]

SEA = "Tell me what the sea looks like on a calm day"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def ask(text: str, **sampling: object) -> GenerationRequest:
    return GenerationRequest(
        messages=(Message(role="user", content=text),),
        request_id="req-test",
        sampling=Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling}),
    )


def shaped(schema: dict[str, object]) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


async def chunks(engine: VllmEngine, request: GenerationRequest) -> list[dict[str, object]]:
    splitter, found = EventSplitter(), []
    async with engine.stream(request) as blocks:
        async for block in blocks:
            found += [orjson.loads(e.data) for e in splitter.feed(block) if not e.is_done]
    return found


async def answer(engine: VllmEngine, request: GenerationRequest) -> AnswerAccumulator:
    splitter, accumulated = EventSplitter(), AnswerAccumulator()
    async with engine.stream(request) as blocks:
        async for block in blocks:
            for event in splitter.feed(block):
                if not event.is_done:
                    accumulated.add(read_chunk(event))
    return accumulated


def processes() -> set[psutil.Process]:
    """The processes of engines, without Python's resource tracker, which runs as long as Python."""
    return {
        process
        for process in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(process.cmdline())
    }


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> AdapterFolder:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "loud")


async def test_schema_is_kept(vllm_engines: VllmEngines) -> None:
    """The answer to a request with a schema is JSON that follows the schema."""
    engine = await vllm_engines.ready()
    accumulated = await answer(
        engine, ask("Describe a person", max_tokens=100, response_format=shaped(PERSON))
    )
    person = json.loads(accumulated.text)
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


async def test_any_json_object_is_json(vllm_engines: VllmEngines) -> None:
    """With `json_object` the answer begins as a JSON object."""
    engine = await vllm_engines.ready()
    accumulated = await answer(engine, ask("Say hello", response_format={"type": "json_object"}))
    assert accumulated.text.startswith("{")


async def test_characters_of_many_bytes_arrive_whole(vllm_engines: VllmEngines) -> None:
    """Each event has whole characters, even if a character has several tokens."""
    engine = await vllm_engines.ready()
    wanted = "日本語 😀 ñ"
    schema = shaped({"type": "string", "enum": [wanted]})
    events = await chunks(engine, ask("Say it", max_tokens=100, response_format=schema))
    texts = [e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"]]
    assert json.loads("".join(texts)) == wanted
    assert not any("�" in text for text in texts)


async def test_logprobs_of_every_token(vllm_engines: VllmEngines) -> None:
    """With `logprobs` each token has an entry with its alternatives; greedy decoding takes the most likely one."""
    engine = await vllm_engines.ready()
    events = await chunks(engine, ask(SEA, max_tokens=8, logprobs=True, top_logprobs=3))
    entries = [
        entry
        for event in events
        for choice in event["choices"]
        for entry in (choice["logprobs"] or {"content": []})["content"]
    ]
    assert len(entries) == events[-1]["usage"]["completion_tokens"] == 8
    for entry in entries:
        assert [len(entry["top_logprobs"]), entry["logprob"] <= 0] == [3, True]
        # Two tokens may be equally likely.
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"]


async def test_seed_makes_chance_repeatable(vllm_engines: VllmEngines) -> None:
    """The same seed gives the same answer, another seed another answer."""
    engine = await vllm_engines.ready()
    texts = [
        (await answer(engine, ask(SEA, temperature=1.5, seed=seed))).text for seed in (7, 7, 8)
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_repeated_prompt_is_read_from_the_cache(vllm_engines: VllmEngines) -> None:
    """A repeated prompt is reused from the cache, and the number of reused tokens is reported."""
    engine = await vllm_engines.ready()
    question = ask("Summarise: " + "the sea is calm today and blue " * 40, max_tokens=2)
    first, second = await answer(engine, question), await answer(engine, question)
    assert (first.usage and first.usage.cached_tokens) == 0
    assert second.usage is not None
    assert 0 < second.usage.cached_tokens < second.usage.prompt_tokens


@pytest.mark.parametrize(
    "schema", [{"type": "no-such-type"}, {"type": "string", "pattern": "(unclosed"}]
)
async def test_impossible_schema_is_the_callers_mistake(
    vllm_engines: VllmEngines, schema: dict[str, object]
) -> None:
    """A schema that vLLM cannot enforce is refused before the first byte, and the engine goes on answering."""
    engine = await vllm_engines.ready()
    with pytest.raises(InvalidRequest):
        await answer(engine, ask("Say hello", response_format=shaped(schema)))
    assert (await answer(engine, ask("Say hello"))).text


async def test_prompt_that_fills_the_context_is_refused(vllm_engines: VllmEngines) -> None:
    """A prompt without room for one token of an answer is refused."""
    engine = await vllm_engines.ready()
    short = await answer(engine, ask("word", max_tokens=1))
    assert short.usage is not None
    room = CONTEXT - short.usage.prompt_tokens
    fitting = await answer(engine, ask("word" + " word" * (room - 1), max_tokens=5))
    assert fitting.usage is not None
    assert (fitting.usage.prompt_tokens, fitting.usage.completion_tokens) == (CONTEXT - 1, 1)
    with pytest.raises(ContextLengthExceeded) as caught:
        await answer(engine, ask("word" + " word" * room, max_tokens=5))
    assert (caught.value.prompt_tokens, caught.value.context_tokens) == (CONTEXT, CONTEXT)


async def test_leaving_ends_the_work_inside_vllm(vllm_engines: VllmEngines) -> None:
    """Cancelled requests are removed from vLLM, both running and waiting ones."""
    engine = await vllm_engines.ready()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(answer(engine, ask(f"{n} {SEA}", max_tokens=400)))
            for n in range(SLOTS + 2)
        ]
        await eventually(lambda: engine.unfinished == SLOTS + 2, seconds=5)
        for task in tasks:
            task.cancel()
    await eventually(lambda: engine.unfinished == 0, seconds=5)
    async with asyncio.timeout(10):
        assert (await answer(engine, ask("Say hello", max_tokens=4))).text


async def test_words_of_users_are_written_nowhere(
    vllm_engines: VllmEngines, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither prompt nor answer is in the output or in a log."""
    engine = await vllm_engines.ready()
    with caplog.at_level("DEBUG"):
        await answer(engine, ask("My password is xyzzy-4711. Repeat my password."))
    out, err = capfd.readouterr()
    assert "xyzzy" not in out + err + caplog.text
    assert engine._folder is not None
    assert "xyzzy" not in (engine._folder / "vllm.log").read_text()


async def test_adapter_changes_the_answer_and_is_named(
    vllm_engines: VllmEngines, adapter: AdapterFolder
) -> None:
    """With an adapter the greedy answer differs, and the origin has the adapter's digest."""
    base, tuned = await vllm_engines.ready(), await vllm_engines.ready(adapter)
    assert base.origin == Origin(model="smollm2", engine="vllm")
    assert tuned.origin == Origin(
        model="smollm2", engine="vllm", adapter_version="v1", adapter_digest=adapter.digest
    )
    plain = (await answer(base, ask(SEA))).text
    changed = (await answer(tuned, ask(SEA))).text
    assert changed != plain
    assert (await answer(tuned, ask(SEA))).text == changed
    assert (await answer(base, ask(SEA))).text == plain


async def test_other_bytes_than_published_are_refused(
    vllm_engines: VllmEngines, adapter: AdapterFolder
) -> None:
    """An adapter whose digest does not match fails the start, before a process is started."""
    before = processes()
    engine = vllm_engines.make(replace(adapter, digest="0" * 64))
    with pytest.raises(InferenceFailed, match="is not what it should be"):
        await engine.start()
    assert engine.status.state == "failed"
    assert processes() == before
    assert engine.origin == Origin(model="smollm2", engine="vllm")
    await engine.aclose()


async def test_adapter_that_vllm_refuses_fails_the_start(
    vllm_engines: VllmEngines, tmp_path: Path
) -> None:
    """An adapter that vLLM does not support fails the start with vLLM's reason, and no process is left."""
    before = processes()
    unknown = write_adapter(tmp_path / "unknown", layers=1)
    config = unknown.path / "adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))
    engine = vllm_engines.make(as_published(unknown.path))
    with pytest.raises(InferenceFailed, match=r"could not be loaded: .*DoRA"):
        await engine.start()
    assert engine.status.state == "failed"
    assert processes() == before


async def test_adapter_of_another_model_is_refused(
    vllm_engines: VllmEngines, tmp_path: Path
) -> None:
    """An adapter of another model fails the start: vLLM would load it and answer like the base model."""
    stranger = write_adapter(tmp_path / "stranger", layers=31)
    engine = vllm_engines.make(stranger)
    with pytest.raises(InferenceFailed, match=r"is for 'model\.layers\.30\.self_attn\.q_proj'"):
        await engine.start()
    assert engine.origin == Origin(model="smollm2", engine="vllm")


async def test_a_failed_load_names_the_reason(vllm_engines: VllmEngines) -> None:
    """If vLLM fails to load, the error has the reason from vLLM's log, and no process is left."""
    before = processes()
    engine = vllm_engines.make(kv_cache_mib=1)
    with pytest.raises(InferenceFailed, match="memory") as caught:
        await engine.start()
    assert engine.status.detail == str(caught.value)
    assert processes() == before


async def test_folder_without_a_model_is_named(vllm_engines: VllmEngines, tmp_path: Path) -> None:
    """A folder without a model fails the start with an error that names the folder."""
    engine = vllm_engines.make(model_path=tmp_path)
    with pytest.raises(InferenceFailed, match=tmp_path.name):
        await engine.start()


async def test_start_that_is_broken_off_leaves_nothing(vllm_engines: VllmEngines) -> None:
    """A start that takes longer than `start_timeout` fails, and its processes are ended."""
    before = processes()
    engine = vllm_engines.make(start_timeout=9.0)
    with pytest.raises(InferenceFailed, match="did not load"):
        await engine.start()
    assert processes() == before
    assert engine.status.state == "failed"
    await engine.aclose()


async def test_killed_engine_cuts_the_stream_and_is_failed(vllm_engines: VllmEngines) -> None:
    """If vLLM's process is killed, the stream raises, the engine is `failed`, and no process is left."""
    others = processes()
    await vllm_engines.aclose()
    engine = await vllm_engines.ready()
    mine = processes() - others
    assert engine.status.pid is not None
    async with engine.stream(ask(SEA, max_tokens=400)) as blocks:
        await anext(blocks)
        psutil.Process(engine.status.pid).send_signal(signal.SIGKILL)
        with pytest.raises(GenerationInterrupted):
            [_ async for _ in blocks]
    assert engine.status.state == "failed"
    with pytest.raises(NotReady):
        await answer(engine, ask("Say hello"))
    await engine.aclose()
    await engine.aclose()
    assert not any(process.is_running() for process in mine)


async def test_engine_that_is_closed_leaves_no_process(
    vllm_engines: VllmEngines, adapter: AdapterFolder
) -> None:
    """Closing an engine ends all its processes, and a running stream raises `GenerationInterrupted`."""
    engine = await vllm_engines.ready(adapter)
    assert engine.status.pid is not None
    core = psutil.Process(engine.status.pid)
    family = [core, *core.children(recursive=True)]
    async with engine.stream(ask(SEA, max_tokens=400)) as blocks:
        await anext(blocks)
        await engine.aclose()
        with pytest.raises(GenerationInterrupted):
            [_ async for _ in blocks]
    assert not any(process.is_running() for process in family)
    assert engine.origin == Origin(model="smollm2", engine="vllm")
