"""The behaviour that every `Embedder` must have."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from engines.embedding_bench import CONTEXT, cosine, minilm
from mongars.core.errors import ContextLengthExceeded, InferenceFailed, NotReady
from mongars.engines.fake_embedder import FakeEmbedder
from support import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.engines.embedder import Embedder
    from mongars.engines.llama_cpp.embedder import LlamaCppEmbedder

TEXTS = ["The cat sleeps.", "A tax on income", "The cat sleeps on the sofa.", "numbers 1 2 3", "é"]


@asynccontextmanager
async def fake() -> AsyncIterator[FakeEmbedder]:
    embedder = FakeEmbedder(context_tokens=CONTEXT)
    await embedder.start()
    yield embedder
    await embedder.aclose()


KINDS = {"fake": fake, "llama_cpp": minilm}


@pytest.fixture(params=["fake", pytest.param("llama_cpp", marks=pytest.mark.model)])
async def embedder(request: pytest.FixtureRequest) -> AsyncIterator[Embedder]:
    async with KINDS[request.param]() as made:
        yield made


async def test_vectors_come_in_the_order_of_the_texts(embedder: Embedder) -> None:
    """Vectors are in the order of the texts, and a text has the same vector alone and in a batch."""
    many = TEXTS * 13  # more than any implementation embeds in one call
    together = await embedder.embed(many)
    assert len(together.vectors) == len(many)
    for text, vector in zip(TEXTS, together.vectors[-len(TEXTS) :], strict=True):
        (alone,) = (await embedder.embed([text])).vectors
        assert cosine(alone, vector) > 0.9999
    one = [(await embedder.embed([text])).prompt_tokens for text in TEXTS]
    assert together.prompt_tokens == 13 * sum(one)


async def test_vectors_have_unit_length_and_one_size(embedder: Embedder) -> None:
    """All vectors have length 1 and the same number of dimensions, so that a dot product is a cosine."""
    vectors = (await embedder.embed(TEXTS)).vectors
    assert len({len(vector) for vector in vectors}) == 1
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1.0] * len(TEXTS))


async def test_same_text_has_the_same_vector(embedder: Embedder) -> None:
    """The same text embedded twice has the same vector up to rounding."""
    first, second = [(await embedder.embed(["Good day"])).vectors[0] for _ in range(2)]
    assert first == pytest.approx(second, abs=1e-6)


async def test_what_is_alike_points_the_same_way(embedder: Embedder) -> None:
    """Texts of similar meaning have a clearly higher cosine than unrelated texts."""
    cat, tax, sofa, *_ = (await embedder.embed(TEXTS)).vectors
    assert cosine(cat, sofa) > cosine(cat, tax) + 0.2


async def test_model_names_itself(embedder: Embedder) -> None:
    """An embedding result has the name of the embedder's model."""
    assert (await embedder.embed(["a"])).model == embedder.model


async def test_no_texts_are_no_vectors(embedder: Embedder) -> None:
    """An empty batch gives no vectors, and an empty text gives a vector."""
    nothing = await embedder.embed([])
    assert (nothing.vectors, nothing.prompt_tokens) == ((), 0)
    assert len((await embedder.embed(["", " "])).vectors) == 2


async def test_longest_text_is_read_and_a_longer_one_refused(embedder: Embedder) -> None:
    """A text that fills the context is embedded; one token more is refused with both numbers."""
    short = (await embedder.embed(["word"])).prompt_tokens
    fits = "word" + " word" * (CONTEXT - short)
    assert (await embedder.embed([fits])).prompt_tokens == CONTEXT
    with pytest.raises(ContextLengthExceeded) as caught:
        await embedder.embed(["fine", f"{fits} word"])
    assert (caught.value.prompt_tokens, caught.value.context_tokens) == (CONTEXT + 1, CONTEXT)
    assert (await embedder.embed(["fine"])).vectors


async def test_many_callers_at_once_get_their_own_vectors(embedder: Embedder) -> None:
    """Of 64 calls at once, each gets the vector of its own text."""
    texts = [f"Town {index} has {index * 7} inhabitants." for index in range(64)]
    expected = (await embedder.embed(texts)).vectors
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(embedder.embed([text])) for text in texts]
    for call, vector in zip(calls, expected, strict=True):
        assert cosine(call.result().vectors[0], vector) > 0.9999


@pytest.mark.parametrize("texts", [["a"], []], ids=["a text", "none"])
async def test_stopped_embedder_is_not_ready(embedder: Embedder, texts: list[str]) -> None:
    """A stopped embedder raises `NotReady`, and stopping it twice is allowed."""
    await embedder.aclose()
    await embedder.aclose()
    assert embedder.status.state == "stopped"
    with pytest.raises(NotReady):
        await embedder.embed(texts)


@pytest.mark.model
async def test_killed_child_fails_its_calls_and_comes_back() -> None:
    """If the child process is killed, its calls fail, and a new child answers later calls."""
    async with minilm() as embedder:
        pid = embedder.status.pid
        assert pid is not None
        texts = ["word " * (CONTEXT - 2)] * 16
        async with asyncio.TaskGroup() as group:
            group.create_task(kill_when_busy(embedder, pid))
            with pytest.raises(InferenceFailed):
                await embedder.embed(texts)
        await eventually(
            lambda: embedder.status.state == "ready" and embedder.status.pid != pid, seconds=10
        )
        assert (await embedder.embed(["hello"])).vectors
        assert embedder.status.restarts == 1


async def kill_when_busy(embedder: LlamaCppEmbedder, pid: int) -> None:
    await eventually(lambda: embedder._child.silence > 0, seconds=10)
    os.kill(pid, signal.SIGKILL)
