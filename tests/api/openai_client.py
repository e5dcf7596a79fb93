"""The official OpenAI client, and the messages that tests of the OpenAI endpoints send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai

if TYPE_CHECKING:
    from api_world import Api

QUESTION = [{"role": "user", "content": "good morning"}]
ANSWER = "[1] you said: good morning"


def client_of(api: Api, key: str | None = None) -> openai.AsyncOpenAI:
    """An official OpenAI client of `api` that does not retry; `key` defaults to the key of alice."""
    return openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=key or api.key, max_retries=0)
