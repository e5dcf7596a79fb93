"""A prompt that is too long for one model: which other provider has a context window that holds it.

Only a provider whose window is known to hold the prompt is used; another one would probably refuse it
after a long wait. The prompt's size is the token count reported by the model that refused it or, without
one, the prompt's number of bytes, which is an upper bound: every token has at least one byte.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mongars.core.errors import ContextLengthExceeded
    from mongars.core.generation import GenerationRequest
    from mongars.inference.provider import Provider


MAX_PROMPT_TOKENS = 2**20
"""Upper bound for a prompt's size in tokens; larger counts reported by a server are reduced to it."""


def with_prompt_size(request: GenerationRequest, error: ContextLengthExceeded) -> GenerationRequest:
    """A copy of the request with `prompt_tokens` set to the number of tokens that `error` reports for the prompt.

    If `error` reports none, it is the number of bytes of the prompt, which is an upper bound. At most
    `MAX_PROMPT_TOKENS`.
    """
    size = min(MAX_PROMPT_TOKENS, error.prompt_tokens or request.prompt_bytes)
    return replace(request, prompt_tokens=size)


async def fits_context(provider: Provider, request: GenerationRequest) -> bool:
    """Whether the provider reports a context window with room for `request.prompt_tokens` and at least one token more.

    False if the provider does not report its context window. `prompt_tokens` None counts as 0.
    """
    window = await provider.context_tokens()
    return window is not None and window > (request.prompt_tokens or 0)
