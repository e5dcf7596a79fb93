"""A prompt that is too long for one model: who else is asked.

Only a provider whose window is known to hold the prompt; a guess would cost its time, and the caller's.
The prompt's size is the refusing model's count, or where it did not say, its bytes: no token is
smaller than one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.errors import ContextLengthExceeded
    from mongars.core.generation import GenerationRequest
    from mongars.inference.provider import Provider


MAX_PROMPT_TOKENS = 2**20
"""Tokens; no model fits_context more, and no count of a peer is believed beyond it."""


def with_prompt_size(request: GenerationRequest, error: ContextLengthExceeded) -> GenerationRequest:
    """The request, with the size of its prompt."""
    size = min(MAX_PROMPT_TOKENS, error.prompt_tokens or request.prompt_bytes)
    return replace(request, prompt_tokens=size)


async def fits_context(provider: Provider, request: GenerationRequest) -> bool:
    """Whether its window has room for the with_prompt_size prompt and at least one token of an answer."""
    window = await provider.context_tokens()
    return window is not None and window > (request.prompt_tokens or 0)
