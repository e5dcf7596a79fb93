"""A running stack (`mongars up`) for each module of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from stack_runner import SECRETS, Stack, provider_becomes, running_stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def model_cache(base_model: Path) -> Path:
    """The model cache that has the base model at `<cache>/blobs/sha256/<digest>`."""
    return base_model.parents[2]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack") / "home"
    with running_stack(home, model_cache, **SECRETS) as started:
        yield started


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {stack.key}"}
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(stack.url, headers=headers, connector=connector) as session:
        # Tests run in any order, and after some of them the stack needs time to recover.
        await provider_becomes(session, "ray_serve", seconds=60)
        yield session
