"""The built-in embedding model has the tokens and vectors of its authors' own software."""

from __future__ import annotations

import pytest

from engines.embedding_bench import Reference, cosine, embedding_file, minilm, references
from mongars.core.clock import SystemClock
from mongars.core.errors import ContextLengthExceeded
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.embedder import LlamaCppEmbedder
from mongars.engines.llama_cpp.wordpiece import WordPiece
from mongars.engines.provisioning.gguf import gguf_values

REFERENCES = references()
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def wordpiece() -> WordPiece:
    found = WordPiece.of(gguf_values(embedding_file()))
    assert found is not None
    return found


@pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES)
def test_texts_are_cut_into_the_same_tokens(wordpiece, reference: Reference) -> None:
    """The tokens of each reference text are equal: case, accents, numbers, scripts, control characters, long words."""
    assert wordpiece.encode(reference.text) == reference.tokens


async def test_vectors_are_those_of_the_reference() -> None:
    """Each vector has a cosine of at least 0.999 with the reference, up to the longest text that the model accepts."""
    texts = [reference.text for reference in REFERENCES.values()]
    async with minilm() as embedder:
        found = await embedder.embed(texts)
    assert found.prompt_tokens == sum(len(each.tokens) for each in REFERENCES.values())
    cosines = {
        name: cosine(vector, reference.vector)
        for vector, (name, reference) in zip(found.vectors, REFERENCES.items(), strict=True)
    }
    worst = min(cosines, key=cosines.__getitem__)
    assert cosines[worst] >= 0.999, worst


async def test_model_that_names_no_pooling_gets_the_mean(base_model) -> None:
    """A GGUF model without a pooling type and with another tokenizer gives one vector per text, the mean."""
    config = LlamaCppConfig(
        model_path=base_model, model_name="m", slots=1, context_tokens=64, embedding=True
    )
    embedder = LlamaCppEmbedder(config, clock=SystemClock())
    await embedder.start()
    try:
        cat, kitten, tax = (await embedder.embed(["a cat", "the cat", "income tax law"])).vectors
        assert cosine(cat, kitten) > cosine(cat, tax)
        with pytest.raises(ContextLengthExceeded, match="300") as caught:
            await embedder.embed(["fine", "hello" + " hello" * 299])
        assert (caught.value.prompt_tokens, caught.value.context_tokens) == (300, 64)
    finally:
        await embedder.aclose()
