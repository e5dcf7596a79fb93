"""Runs every test that takes an `engine` against each kind of engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from engine_kinds import KINDS

from vllm_pool import asked_for, vllm_engines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.engines.engine import Engine
    from vllm_pool import VllmEngines

__all__ = ["vllm_engines"]  # a fixture


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        kinds = [
            pytest.param(name, id=name, marks=kind.marks)
            for name, kind in KINDS.items()
            if not kind.only_with or asked_for(metafunc.config, kind.only_with)
        ]
        metafunc.parametrize("engine", kinds, indirect=True)


@pytest_asyncio.fixture(loop_scope="session")
async def engine(
    request: pytest.FixtureRequest, vllm_engines: VllmEngines
) -> AsyncIterator[Engine]:
    # `vllm_engines` is a parameter since `getfixturevalue` cannot set up an async fixture here.
    async with KINDS[request.param].ready(request) as ready:
        yield ready
