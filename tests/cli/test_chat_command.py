"""`mongars chat` against a fake API with its event format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mongars.cli.api_client import ApiClient
from mongars.cli.chat_command import ChatSession
from mongars.core.clock import SystemClock
from mongars.protocol.sse import DONE, encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def thinking_api() -> AsyncIterator[str]:
    """The URL of an API whose model streams reasoning before its answer."""

    async def chat(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for name, delta in (("reasoning", "let me "), ("reasoning", "see"), ("chunk", "Four.")):
            await response.write(encode_event({"delta": delta}, name=name))
        await response.write(
            encode_event({"usage": {"completion_tokens": 3}}, name="complete") + DONE
        )
        return response

    app = web.Application()
    app.router.add_post("/api/v1/conversation/chat", chat)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def test_thoughts_are_shown_apart_from_the_answer(thinking_api: str) -> None:
    """Reasoning is shown while it arrives, apart from the answer, which does not contain it."""
    texts: list[str] = []
    thoughts: list[str] = []
    session = ChatSession(ApiClient(thinking_api, key="k"), clock=SystemClock())
    said = await session.say("What is two and two?", texts.append, thoughts.append)
    assert (said.text, "".join(texts), "".join(thoughts)) == ("Four.", "Four.", "let me see")
