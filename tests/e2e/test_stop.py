"""Stopping the stack."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import aiohttp
import pytest
from stack_runner import question, running_stack

from mongars.core.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e
CLOCK = SystemClock()


async def test_ctrl_c_stops_everything_in_time(tmp_path: Path, model_cache: Path) -> None:
    """Ctrl-C during an answer ends the stack within 15 s and leaves no process."""
    with running_stack(tmp_path / "home", model_cache) as stack:
        headers = {"Authorization": f"Bearer {stack.key}"}
        async with aiohttp.ClientSession(stack.url, headers=headers) as http:
            body = question("Tell me a very long story.", max_tokens=600, stream=True)
            async with http.post("/v1/chat/completions", json=body) as response:
                await response.content.readuntil(b"content")
                assert len(stack.owned()) > 5
                began = CLOCK.monotonic()
                stack.process.send_signal(signal.SIGINT)
                code = await asyncio.to_thread(stack.process.wait, 20)
        assert code == 0, stack.screen
        assert CLOCK.monotonic() - began < 15
        assert stack.owned() == []
        assert "Stopping" in stack.screen
