"""Tests that need vLLM are collected only with `-m vllm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_pool import asked_for, vllm_engines

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

__all__ = ["vllm_engines"]  # a fixture


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.name.startswith("test_vllm_") and not asked_for(config, "vllm"):
        return True
    return None
