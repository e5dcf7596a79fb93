"""Real vLLM engines for tests, loaded once per session, as a load takes half a minute."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from mongars.core.clock import SystemClock
from mongars.engines.provisioning.model_cache import find_model
from mongars.engines.vllm.config import VllmConfig
from mongars.engines.vllm.engine import VllmEngine
from mongars.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mongars.engines.adapter_folder import AdapterFolder

SLOTS = 2
CONTEXT = 512

VLLM = (
    pytest.mark.vllm,
    # vLLM and torch cause warnings of deprecated parts while they are imported.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(300),
)


def asked_for(config: pytest.Config, marker: str) -> bool:
    """Whether `-m` names the marker: tests that need an environment of their own run only then."""
    return marker in config.getoption("markexpr")


class VllmEngines:
    """Loaded engines, one per adapter; an engine that a test has ended is replaced."""

    def __init__(self) -> None:
        self._engines: dict[AdapterFolder | None, VllmEngine] = {}

    def make(self, adapter: AdapterFolder | None = None, **changes: object) -> VllmEngine:
        """A new engine that is not started; the caller must close it."""
        values: dict[str, object] = {
            "model_path": _model(),
            "model_name": "smollm2",
            "slots": SLOTS,
            "context_tokens": CONTEXT,
            "kv_cache_mib": 256,
            "enforce_eager": True,
            "max_lora_rank": 8,
            "adapter": adapter,
        }
        return VllmEngine(VllmConfig(**{**values, **changes}), clock=SystemClock())

    async def ready(self, adapter: AdapterFolder | None = None) -> VllmEngine:
        """A loaded engine, shared with other tests."""
        engine = self._engines.get(adapter)
        if engine is None or engine.status.state != "ready":
            if engine is not None:
                await engine.aclose()
            engine = self._engines[adapter] = self.make(adapter)
            await engine.start()
        return engine

    async def aclose(self) -> None:
        """Close all engines."""
        while self._engines:
            await self._engines.popitem()[1].aclose()


_POOL = pytest.StashKey[VllmEngines]()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_engines(pytestconfig: pytest.Config) -> AsyncIterator[VllmEngines]:
    """The engines of the whole session; empty until a test needs one."""
    pool = pytestconfig.stash.setdefault(_POOL, VllmEngines())
    yield pool
    await pool.aclose()
    # A load that failed leaves a socket context of vLLM's, and its collection causes a warning:
    # here that is ignored, at the end of the session it would fail the run.
    gc.collect()


def _model() -> Path:
    cache = load_settings().cache
    model = find_model(cache, "general")
    folder = None if model is None else cache / "hf" / model.digest
    if folder is None or not folder.is_dir():
        pytest.fail(f"No base model for vLLM in {cache}. Run: make test-vllm")
    return folder
