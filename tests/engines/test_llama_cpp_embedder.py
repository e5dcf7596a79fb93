"""What cancelled requests leave behind in the llama.cpp embedder."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import TYPE_CHECKING

import pytest

from engines.embedding_bench import minilm
from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import ContextLengthExceeded, DeadlineExceeded
from mongars.core.fair_queue import Share
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.serving.config import ReplicaConfig
from mongars.serving.replica import Replica
from support import eventually, impatient

if TYPE_CHECKING:
    from mongars.engines.llama_cpp.embedder import LlamaCppEmbedder

pytestmark = pytest.mark.model

CLOCK = SystemClock()
LONG = ["a b c d " * 100] * 128
LONG_TOKENS = 402
"""Tokens of each text in `LONG`."""


async def tokens_processed(embedder: LlamaCppEmbedder) -> int:
    """The number of tokens that the child process has processed since its start."""
    async with embedder._child.session.get("/metrics") as response:
        found = re.search(r"prompt_tokens_total (\d+)", await response.text())
    assert found is not None
    return int(found[1])


async def abandon(replica: Replica, texts: list[str]) -> None:
    """Send `texts` for the account `alice` and give up after 0.1 s, which is too short for them."""
    with pytest.raises(DeadlineExceeded):
        await replica.embed(texts, Deadline.after(CLOCK, 0.1), share=Share(scope="alice"))


async def leave(embedder: LlamaCppEmbedder) -> None:
    """Embed `LONG` and cancel that as soon as the child process has received the first text."""
    async with impatient(lambda: embedder.embed(LONG)) as client:
        await eventually(lambda: embedder._child.silence > 0, seconds=10)
        await client.leave()


def replica_with(embedder: LlamaCppEmbedder) -> Replica:
    engine = FakeEngine(FakePlan(), clock=CLOCK)
    return Replica(
        {"general": engine}, ReplicaConfig(), clock=CLOCK, replica_id="r1", embedder=embedder
    )


async def test_abandoned_requests_leave_a_text_or_two_of_work_to_other_accounts() -> None:
    """Five requests of 128 long texts that time out cost the child process a text or two each, not 16."""
    async with minilm() as embedder:
        replica = replica_with(embedder)
        for _ in range(5):
            await abandon(replica, LONG)
        await replica.embed(["word"], Deadline.after(CLOCK, 60), share=Share(scope="bob"))
        assert await tokens_processed(embedder) <= 15 * LONG_TOKENS


async def test_an_embedder_with_abandoned_requests_is_not_stuck() -> None:
    """After twenty requests that time out, the next one is answered by the same child process."""
    async with minilm(stuck_after=5) as embedder:
        replica = replica_with(embedder)
        for _ in range(20):
            await abandon(replica, LONG)
        await replica.embed(["word"], Deadline.after(CLOCK, 60), share=Share(scope="bob"))
        assert embedder.status.restarts == 0


async def test_a_cancelled_request_keeps_its_slot_until_the_child_has_finished_it() -> None:
    """While the child process works for a cancelled request, the next one is not sent to it."""
    async with minilm() as embedder:
        await leave(embedder)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await embedder.embed(["word"])
        await eventually(lambda: embedder._child.silence == 0, seconds=30)
        assert await tokens_processed(embedder) % LONG_TOKENS == 0  # not those of the word


async def test_closing_ends_the_work_of_cancelled_requests() -> None:
    """Closing the embedder while the child process works for a cancelled request ends that request, too."""
    async with minilm() as embedder:
        await leave(embedder)
        assert embedder._child.silence > 0
        await embedder.aclose()
        assert embedder._child.silence == 0


async def test_cancelled_requests_leave_one_thread_at_most() -> None:
    """Texts of many requests are tokenized in one thread of their own, not in the threads that everything shares."""
    async with minilm() as embedder:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(embedder.embed(["é " * 400] * 64)) for _ in range(16)]
            await CLOCK.sleep(0)  # all have begun
            for call in calls:
                call.cancel()
        names = [thread.name for thread in threading.enumerate()]
        assert sum(name.startswith("mongars-wordpiece") for name in names) == 1
        assert (
            sum(name.startswith("asyncio_") for name in names) <= 1
        )  # it has read the model's file


async def test_tokens_of_a_long_text_are_not_all_counted() -> None:
    """The error for a text that is too long says what it exceeds, since counting its tokens ends there."""
    async with minilm() as embedder:
        with pytest.raises(ContextLengthExceeded, match="is more than 512 tokens long") as caught:
            await embedder.embed(["fine", "word " * 100_000])
        assert (caught.value.prompt_tokens, caught.value.context_tokens) == (513, 512)
