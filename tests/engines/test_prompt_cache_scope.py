"""The engine's prompt cache is used only by the account that filled it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from mongars.core.clock import SystemClock
from mongars.core.errors import ContextLengthExceeded
from mongars.core.generation import GenerationRequest, Message, Sampling, Usage
from mongars.engines.choices import stream_choices
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.engines.llama_cpp.prompt_cache_slots import PromptCacheSlots
from support import eventually, read_all, read_stream, started

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mongars.engines.engine import Engine

SECRET = "I was born on 3 May 1961 and earn 5,217 euros a month. What should I save?"
WRONG_DAY = SECRET.replace("3 May", "4 May")
WRONG_SUM = SECRET.replace("5,217", "6,000")
STRANGER = "Which sea is the deepest of all, and how deep is it there?"
WINDOW = 512


def asked(scope: str | None, *texts: str, **sampling: object) -> GenerationRequest:
    """A conversation of the account `scope`, whose messages alternate, the user's first."""
    roles = ("user", "assistant") * len(texts)
    return GenerationRequest(
        messages=tuple(
            Message(role="user" if role == "user" else "assistant", content=text)
            for role, text in zip(roles, texts, strict=False)
        ),
        request_id="req-test",
        scope=scope,
        sampling=Sampling(**{"temperature": 0.0, "max_tokens": 4, **sampling}),
    )


async def folded(engine: Engine, request: GenerationRequest) -> tuple[str, Usage]:
    completion, _ = await read_all(engine, request)
    assert completion.usage is not None
    return completion.text, completion.usage


async def cached(engine: Engine, request: GenerationRequest) -> int:
    """The number of the prompt's tokens that the engine reused from its cache."""
    _, usage = await folded(engine, request)
    return usage.cached_tokens


def running(base_model: Path, **options: object) -> AbstractAsyncContextManager[Engine]:
    defaults = {"model_name": "m", "slots": 2, "context_tokens": WINDOW}
    config = LlamaCppConfig(model_path=base_model, **{**defaults, **options})
    return started(LlamaCppEngine(config, clock=SystemClock()))


@pytest.mark.model
@pytest.mark.parametrize("slots", [1, 2])
async def test_guessing_what_another_user_asked_reads_nothing(base_model: Path, slots: int) -> None:
    """Another account's guess of a prompt, exact or not, reuses no token."""
    async with running(base_model, slots=slots) as engine:
        for guess in (SECRET, WRONG_DAY, WRONG_SUM, STRANGER):
            await cached(engine, asked("anna", SECRET))
            assert await cached(engine, asked(f"ben {guess}", guess)) == 0, guess
            assert await cached(engine, asked(None, guess)) == 0, guess


@pytest.mark.model
async def test_own_conversation_is_read_once(base_model: Path) -> None:
    """The second message of a conversation reuses the tokens of the first, also after a request of another account."""
    async with running(base_model) as engine:
        text, usage = await folded(engine, asked("anna", SECRET))
        assert await cached(engine, asked("ben", SECRET)) == 0
        again = await cached(engine, asked("anna", SECRET, text, "And if I have children?"))
        assert again >= usage.prompt_tokens
        assert await cached(engine, asked("ben", SECRET)) > 0


@pytest.mark.model
async def test_refused_request_does_not_make_anothers_prompt_its_own(base_model: Path) -> None:
    """A request that is refused as too long does not let its account reuse the prompt in the slot."""
    async with running(base_model, slots=1) as engine:
        await cached(engine, asked("anna", SECRET))
        with pytest.raises(ContextLengthExceeded):
            await cached(engine, asked("ben", "word " * WINDOW * 2))
        assert await cached(engine, asked("ben", SECRET)) == 0


@pytest.mark.model
async def test_request_without_an_account_reuses_nothing_and_leaves_nothing(
    base_model: Path,
) -> None:
    """Requests without an account reuse no token, and no other request reuses theirs."""
    async with running(base_model, slots=1) as engine:
        for scope in (None, None, "ben", None):
            assert await cached(engine, asked(scope, SECRET)) == 0


@pytest.mark.model
async def test_operator_may_share_prompts_among_all(base_model: Path) -> None:
    """With the scope `shared`, a prompt is reused by all accounts."""
    async with running(base_model, slots=1, prompt_cache_scope="shared") as engine:
        await cached(engine, asked("anna", SECRET))
        assert await cached(engine, asked("ben", SECRET)) > 20


@pytest.mark.model
async def test_memory_for_finished_prompts_is_not_shared_either(base_model: Path) -> None:
    """Prompts in llama.cpp's memory beside the slots are not reused by other accounts either."""
    async with running(base_model, slots=1, prompt_cache_mib=64) as engine:
        await cached(engine, asked("anna", SECRET))
        await cached(engine, asked("cleo", STRANGER))
        assert await cached(engine, asked("ben", SECRET)) == 0


@pytest.mark.model
async def test_four_accounts_on_two_slots_are_all_answered(base_model: Path) -> None:
    """Four accounts on two slots each get the answer they get alone; a client that leaves frees its slot."""
    async with running(base_model) as engine:
        questions = {scope: f"Repeat the word {scope} three times" for scope in "abcd"}
        alone = {
            scope: (await folded(engine, asked(scope, text)))[0]
            for scope, text in questions.items()
        }

        async def turns(scope: str) -> None:
            for _ in range(3):
                leaving = engine.stream(asked(scope, STRANGER, max_tokens=200))
                async with leaving as blocks:
                    await anext(blocks)
                text, _ = await folded(engine, asked(scope, questions[scope]))
                assert text == alone[scope]

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for scope in questions:
                group.create_task(turns(scope))


@pytest.mark.model
async def test_several_answers_use_several_slots_of_one_account(base_model: Path) -> None:
    """`n` choices use `n` slots, and another account's guess afterwards reuses no token."""
    async with running(base_model) as engine:
        request = asked("anna", SECRET, n=2)
        both, _ = await read_stream(
            engine, stream_choices(request, engine.stream, at_once=2), choices=2
        )
        assert both.usage is not None
        assert both.usage.cached_tokens == 0
        assert await cached(engine, asked("ben", SECRET)) == 0


@pytest.mark.model
async def test_engine_that_was_killed_begins_with_empty_slots(base_model: Path) -> None:
    """After the child process was killed, its slots count as empty and requests are answered."""
    async with running(base_model, slots=1) as engine:
        await cached(engine, asked("anna", SECRET))
        assert engine.status.pid is not None
        before = psutil.Process(engine.status.pid)
        before.send_signal(signal.SIGKILL)
        await eventually(
            lambda: engine.status.state == "ready" and engine.status.pid != before.pid, seconds=10
        )
        assert await cached(engine, asked("ben", SECRET)) == 0
        assert await cached(engine, asked("ben", SECRET)) > 0


async def place(
    table: PromptCacheSlots, request: GenerationRequest, *, process: int = 1
) -> tuple[int, bool]:
    """Use a slot; returns its number, and whether its prompt may be reused."""
    async with table.hold(request.scope, request.messages, process=process) as held:
        held.prompt_started()
        return held.parameters["id_slot"], held.parameters["cache_prompt"]


async def test_conversation_finds_its_slot_among_others() -> None:
    """A conversation gets its own slot again: two of one account have one slot each, while there are enough."""
    table = PromptCacheSlots(3)
    assert await place(table, asked("anna", "sea")) == (0, False)
    assert await place(table, asked("anna", "sky")) == (1, False)
    assert await place(table, asked("ben", "sea")) == (2, False)
    assert await place(table, asked("anna", "sea", "deep", "how?")) == (0, True)
    assert await place(table, asked("anna", "sky", "blue", "why?")) == (1, True)
    assert await place(table, asked("ben", "sea", "deep", "how?")) == (2, True)


async def test_slot_used_least_recently_is_taken_over() -> None:
    """A new account gets the slot that was used least recently, and does not reuse its prompt."""
    table = PromptCacheSlots(2)
    await place(table, asked("anna", "sea"))
    await place(table, asked("ben", "sky"))
    assert await place(table, asked("cleo", "sea")) == (0, False)
    assert await place(table, asked("anna", "sea")) == (1, False)


async def test_prompt_that_was_never_begun_is_not_in_the_slot() -> None:
    """After a request that was cancelled or refused, the slot's content counts as unknown and is not reused."""
    table = PromptCacheSlots(1)
    await place(table, asked("anna", "sea"))
    async with table.hold("ben", asked("ben", "sky").messages, process=1):
        pass
    assert await place(table, asked("ben", "sky")) == (0, False)
    assert await place(table, asked("anna", "sea")) == (0, False)


async def test_new_process_has_empty_slots() -> None:
    """The slots of a new process count as empty."""
    table = PromptCacheSlots(1)
    await place(table, asked("anna", "sea"), process=1)
    assert await place(table, asked("anna", "sea"), process=2) == (0, False)


async def test_busy_slots_are_waited_for() -> None:
    """With all slots busy, requests wait; one that is cancelled while waiting holds no slot."""
    table, request = PromptCacheSlots(1), asked("anna", "sea")
    async with table.hold(request.scope, request.messages, process=1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await place(table, request)
    assert (await place(table, request))[0] == 0
