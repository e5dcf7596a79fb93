"""A prompt that is too long for one model: which other provider has a context window for it.

Only a provider whose window is known to hold the prompt is used; a guess could cost a long wait for
another refusal. The prompt's size is the token count of the model that refused it, or its number of
bytes if the refusal had no count: a token has at least one byte.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.errors import ContextLengthExceeded
    from mongars.core.generation import GenerationRequest
    from mongars.inference.provider import Provider


MAX_PROMPT_TOKENS = 2**20
"""Larger token counts in a refusal are reduced to this."""


def with_prompt_size(request: GenerationRequest, error: ContextLengthExceeded) -> GenerationRequest:
    """The request with `prompt_tokens` set from the refusal, or from its bytes."""
    size = min(MAX_PROMPT_TOKENS, error.prompt_tokens or request.prompt_bytes)
    return replace(request, prompt_tokens=size)


async def fits_context(provider: Provider, request: GenerationRequest) -> bool:
    """Whether its context window holds `prompt_tokens` and at least one token of an answer."""
    window = await provider.context_tokens()
    return window is not None and window > (request.prompt_tokens or 0)
