"""The built-in embedding model: its file, its engine, and the reference vectors of its authors' software."""

from __future__ import annotations

import base64
import json
import math
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mongars.core.clock import SystemClock
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.embedder import LlamaCppEmbedder
from mongars.engines.provisioning.model_cache import ModelCache
from mongars.engines.provisioning.spec import EMBEDDING
from mongars.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

CONTEXT = 512


@dataclass(frozen=True)
class Reference:
    text: str
    tokens: list[int]
    vector: tuple[float, ...]


def references() -> dict[str, Reference]:
    """The reference texts with tokens and vectors, by name; `embedding_reference.py` made them."""
    document = json.loads(Path(__file__).with_name("embedding_reference.json").read_bytes())
    return {
        name: Reference(entry["text"], entry["tokens"], _unpacked(entry["vector"]))
        for name, entry in document.items()
    }


def _unpacked(packed: str) -> tuple[float, ...]:
    data = base64.b64decode(packed)
    return struct.unpack(f"<{len(data) // 2}e", data)


def embedding_file() -> Path:
    """The path of the provisioned embedding model."""
    cache = load_settings().cache
    path = ModelCache(cache).path_of(EMBEDDING.sha256)
    if not path.is_file():
        pytest.fail(f"No embedding model in {cache}. Run: python -m scripts.provision_models")
    return path


@asynccontextmanager
async def minilm(
    *, context_tokens: int = CONTEXT, stuck_after: float = 30.0
) -> AsyncIterator[LlamaCppEmbedder]:
    """The built-in embedding model in llama.cpp, as a replica runs it.

    `stuck_after`: seconds without output, while there are requests, after which the child process is killed.
    """
    config = LlamaCppConfig(
        model_path=embedding_file(),
        model_name=EMBEDDING.name,
        slots=1,
        context_tokens=context_tokens,
        stuck_after=stuck_after,
        embedding=True,
    )
    embedder = LlamaCppEmbedder(config, clock=SystemClock())
    await embedder.start()
    try:
        yield embedder
    finally:
        await embedder.aclose()


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors: 1 if they have the same direction."""
    product = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))
