"""The local embedder: started on demand, stopped when idle, one batch at a time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import (
    AllProvidersFailed,
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    MongarsError,
    Overloaded,
)
from mongars.core.observe import Silent
from mongars.engines.fake_embedder import FakeEmbedder
from mongars.inference.config import InferenceConfig
from mongars.inference.embedding import TextBatch, pieces
from mongars.inference.embedding_service import EmbeddingService
from mongars.inference.events import EmbeddingsEnded, LocalFailed
from mongars.inference.local_embedder import LocalEmbedder
from mongars.testing.recording import RecordingObserver
from support import eventually, impatient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mongars.core.observe import Observer
    from mongars.engines.embedder import Embeddings
    from mongars.inference.embedding import EmbeddedBatch

CLOCK = SystemClock()
MODEL = "fake-embedding"


class SlowEmbedder(FakeEmbedder):
    """A fake embedder that counts its starts and the batches begun and finished; `seconds`: time of each batch."""

    def __init__(self, *, seconds: float = 0.0, start_error: str = "") -> None:
        super().__init__()
        self.starts = self.begun = self.finished = 0
        self._seconds = seconds
        self._start_error = start_error

    async def start(self) -> None:
        self.starts += 1
        await CLOCK.sleep(0.02)
        if self._start_error:
            raise InferenceFailed(self._start_error)
        await super().start()

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        self.begun += 1
        await CLOCK.sleep(self._seconds)
        found = await super().embed(texts)
        self.finished += 1
        return found


@asynccontextmanager
async def service(
    embedder: FakeEmbedder, *, observer: Observer | None = None, **limits: float
) -> AsyncIterator[EmbeddingService]:
    config = InferenceConfig(endpoints=(), use_ray=False)
    provider = LocalEmbedder(embedder, config, **limits)
    made = EmbeddingService((provider,), clock=CLOCK, observer=observer or Silent())
    async with made:
        yield made


def batch(*texts: str, scope: str = "alice") -> TextBatch:
    return TextBatch(texts=texts, model=MODEL, request_id="req-1", scope=scope)


async def embed(
    made: EmbeddingService, *texts: str, seconds: float = 10.0, scope: str = "alice"
) -> EmbeddedBatch:
    return await made.embed(batch(*texts, scope=scope), Deadline.after(CLOCK, seconds))


async def test_the_embedder_is_started_once_for_all_requests() -> None:
    """The embedder is started by the first request, and ten requests at once wait for the same start."""
    embedder = SlowEmbedder()
    async with service(embedder) as made:
        assert embedder.starts == 0
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(embed(made, f"text {n}")) for n in range(10)]
        assert {call.result().route.provider for call in calls} == {"embedded"}
        assert not any(call.result().route.fallback for call in calls)
        assert embedder.starts == 1
    assert embedder.status.state == "stopped"


async def test_a_batch_without_texts_is_refused() -> None:
    """A batch without texts is the caller's error, and the embedder is not started for it."""
    embedder = SlowEmbedder()
    async with service(embedder) as made:
        with pytest.raises(InvalidRequest, match="no texts"):
            await embed(made)
    assert embedder.starts == 0


async def test_an_idle_embedder_is_stopped_and_started_again() -> None:
    """An idle embedder is stopped, and the next request starts it again."""
    embedder = SlowEmbedder()
    async with service(embedder, idle_seconds=0.1) as made:
        await embed(made, "tea")
        await eventually(lambda: embedder.status.state == "stopped")
        await embed(made, "tea")
        assert embedder.starts == 2


async def test_a_failed_start_is_reported_and_tried_again() -> None:
    """If the embedder fails to start, the error has the reason, and the next request starts it again."""
    embedder, observer = SlowEmbedder(start_error="no weights"), RecordingObserver()
    async with service(embedder, observer=observer) as made:
        for _ in range(2):
            with pytest.raises(AllProvidersFailed, match="no weights"):
                await embed(made, "tea")
    assert embedder.starts == 2
    assert len(observer.of(LocalFailed)) == 2


async def test_the_deadline_bounds_the_work() -> None:
    """A request with a deadline of 0.1 s fails with `DeadlineExceeded` while the embedder works."""
    async with service(SlowEmbedder(seconds=5)) as made:
        with pytest.raises(AllProvidersFailed) as caught:
            await embed(made, "tea", seconds=0.1)
    assert isinstance(caught.value.causes[0][1], DeadlineExceeded)


async def test_a_full_queue_refuses_at_once() -> None:
    """With one batch in progress and one waiting, the third is refused as overloaded with a `retry_after`."""
    embedder = SlowEmbedder(seconds=0.3)
    async with service(embedder, waiting=1) as made, asyncio.TaskGroup() as group:
        group.create_task(embed(made, "first"))
        await eventually(lambda: embedder.begun == 1)
        group.create_task(embed(made, "second"))
        await CLOCK.sleep(0.02)
        with pytest.raises(AllProvidersFailed) as caught:
            await embed(made, "third")
    assert isinstance(caught.value.causes[0][1], Overloaded)
    assert caught.value.retry_after is not None


async def test_a_large_batch_lets_another_account_in_between() -> None:
    """Another account's text is embedded after the current piece of a large batch, not after the whole batch."""
    embedder = SlowEmbedder(seconds=0.05)
    async with service(embedder) as made, asyncio.TaskGroup() as group:
        large = group.create_task(embed(made, *[f"text {n}" for n in range(1280)]))
        await eventually(lambda: embedder.begun == 1)
        await embed(made, "tea", scope="bob")
        assert embedder.finished <= 3
        assert not large.done()
    assert len(large.result().vectors) == 1280


async def test_a_client_that_leaves_stops_the_work_and_frees_the_place() -> None:
    """When the client disconnects, no further piece of its batch is begun, and the next request is served."""
    embedder, observer = SlowEmbedder(seconds=0.2), RecordingObserver()
    async with service(embedder, observer=observer) as made:

        async def work() -> None:
            await embed(made, *[f"text {n}" for n in range(1280)])

        async with impatient(work) as client:
            await eventually(lambda: embedder.begun == 1)
            await client.leave()
        assert (await embed(made, "tea")).prompt_tokens == 1
        assert (embedder.begun, embedder.finished) == (2, 1)
    assert [event.outcome for event in observer.of(EmbeddingsEnded)] == ["cancelled", "success"]


async def test_pieces_keep_order_and_bounds() -> None:
    """A batch is divided into pieces by number of texts and bytes, in order; one larger text is a piece of its own."""
    small = [f"{n}" for n in range(300)]
    assert [len(piece.texts) for piece in pieces(batch(*small))] == [128, 128, 44]
    large = ["x" * 100_000, "y" * 20_000, "z" * 20_000, "w" * 200_000, "v"]
    found = [piece.texts for piece in pieces(batch(*large))]
    assert [len(texts) for texts in found] == [2, 1, 1, 1]
    assert [text for texts in found for text in texts] == large


async def test_without_a_provider_the_setting_is_named() -> None:
    """Without a provider of embeddings, the error names RAY_EMBEDDING_MODEL."""
    made = EmbeddingService((), clock=CLOCK, observer=Silent())
    with pytest.raises(MongarsError, match="RAY_EMBEDDING_MODEL"):
        await embed(made, "tea")
