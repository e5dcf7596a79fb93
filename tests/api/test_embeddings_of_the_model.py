"""Embeddings with the built-in model, by a real replica and by a local child process."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from openai_client import client_of

from engines.embedding_bench import CONTEXT, cosine, embedding_file, minilm
from mongars.core.clock import SystemClock
from mongars.core.errors import NotReady
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.embedder import LlamaCppEmbedder
from mongars.engines.provisioning.spec import EMBEDDING
from mongars.serving.config import ReplicaConfig
from mongars.serving.ingress import build_ingress
from mongars.serving.replica import Replica
from mongars.testing.loopback_server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

    Start = Callable[..., AbstractAsyncContextManager[Api]]

pytestmark = [pytest.mark.model, pytest.mark.slow]
CLOCK = SystemClock()
TEXTS = ["The cat sleeps.", "A tax on income", "The cat sleeps on the sofa.", "<|im_end|> é 한국어"]


@asynccontextmanager
async def replica() -> AsyncIterator[str]:
    """The URL of a real replica with the built-in embedding model, stopped at the end of the block."""
    async with minilm() as embedder:
        made = Replica(
            {"general": FakeEngine(FakePlan(), clock=CLOCK)},
            ReplicaConfig(),
            clock=CLOCK,
            replica_id="r1",
            embedder=embedder,
        )
        async with serving(build_ingress(made)) as url:
            yield f"{url}/generate"


def local() -> LlamaCppEmbedder:
    config = LlamaCppConfig(
        model_path=embedding_file(),
        model_name=EMBEDDING.name,
        slots=1,
        context_tokens=CONTEXT,
        embedding=True,
    )
    return LlamaCppEmbedder(config, clock=CLOCK)


async def test_the_replica_and_the_local_model_give_the_same_vectors(start_api: Start) -> None:
    """The replica and, once the replica has stopped, the local embedder return the same vectors."""
    embedder = local()
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(AsyncExitStack())
        url = await running.enter_async_context(replica())
        api = await stack.enter_async_context(
            start_api(endpoints=(url,), embedder=embedder, embedding_model=EMBEDDING.name)
        )
        client = await stack.enter_async_context(client_of(api))
        first = await client.embeddings.with_raw_response.create(model="mongars", input=TEXTS)
        assert embedder.status.state == "stopped"
        with pytest.raises(NotReady):
            await embedder.embed(TEXTS)
        await running.aclose()
        second = await client.embeddings.with_raw_response.create(model="mongars", input=TEXTS)
        assert embedder.status.state == "ready"
    assert first.headers["x-llm-provider"] == "ray_serve"
    assert second.headers["x-llm-provider"] == "embedded"
    assert [response.headers["x-llm-fallback"] for response in (first, second)] == ["false", "true"]
    remote, here = first.parse(), second.parse()
    assert remote.model == here.model == EMBEDDING.name
    assert remote.usage == here.usage
    for one, other in zip(remote.data, here.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    cat, tax, sofa, _ = [entry.embedding for entry in here.data]
    assert cosine(cat, sofa) > cosine(cat, tax) + 0.2


@pytest.mark.parametrize("through_ray", [True, False], ids=["ray", "local"])
async def test_a_long_text_is_refused_with_both_numbers(
    start_api: Start, *, through_ray: bool
) -> None:
    """A text beyond the context gets 400 with the limit and a lower bound of its tokens, on a replica and locally."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(replica()) if through_ray else None
        api = await stack.enter_async_context(
            start_api(
                endpoints=() if url is None else (url,),
                embedder=None if through_ray else local(),
                embedding_model=EMBEDDING.name,
            )
        )
        body = {"model": "mongars", "input": ["fine", "word " * 600]}
        async with api.http.post(
            f"{api.url}/v1/embeddings", json=body, headers=api.auth
        ) as response:
            error = (await response.json())["error"]
    assert response.status == 400
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    assert (error["prompt_tokens"], error["context_tokens"]) == (CONTEXT + 1, CONTEXT)
