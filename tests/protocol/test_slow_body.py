"""Request bodies that arrive too slowly."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mongars.core.errors import InvalidRequest
from mongars.protocol.body import read_limited

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def test_body_that_never_ends_is_given_up() -> None:
    """A body that does not arrive within the time limit is refused."""

    async def half() -> AsyncIterator[bytes]:
        yield b'{"prompt"'
        await asyncio.Event().wait()

    with pytest.raises(InvalidRequest, match=r"did not arrive within 0\.05 s"):
        await read_limited(half(), declared="50", encoding=None, limit=1000, seconds=0.05)
