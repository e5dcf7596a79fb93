"""Prompt assembly: includes as much of a conversation as fits the model's context window, newest turns first.

Sizes are estimated, because only the engine has the tokenizer. If the engine refuses a prompt as too long,
`shrink` computes a smaller budget from the token counts in the refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.generation import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mongars.conversation.history import Turn

_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBudget:
    """The limit on the size of a prompt: `context_tokens` for prompt and answer together, less `answer_tokens`.

    `answer_tokens` is the part reserved for the answer. Both are numbers of tokens.
    """

    context_tokens: int
    answer_tokens: int

    @property
    def room(self) -> int:
        """The number of tokens that this budget leaves for the prompt; at least 0."""
        return max(0, self.context_tokens - self.answer_tokens)


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of one message: its UTF-8 bytes / 3, rounded up, plus 8 for the chat template.

    High for prose (about four bytes per token), too low for text that a small vocabulary splits into single bytes. Only
    the engine's count is exact.
    """
    return -(-len(text.encode()) // _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE


def estimate_prompt(messages: Iterable[Message]) -> int:
    """Estimated number of tokens of a whole prompt: the sum of `estimate_tokens` over its messages."""
    return sum(estimate_tokens(message.content) for message in messages)


def assemble(
    turns: Sequence[Turn], message: str, *, system: str | None, budget: ContextBudget
) -> tuple[Message, ...]:
    """Put together the messages of a prompt: `system`, the newest turns that fit, oldest first, then `message`.

    `system` None or empty: no system message. `turns` are given newest first; those without a message or an answer are
    skipped. A turn is included whole or not at all, and after the first that does not fit no older one is included, so
    that the conversation has no gaps. `system` and `message` are always included: the estimate of the result exceeds
    `budget.room` only if those two alone do.
    """
    head = (Message(role="system", content=system),) if system else ()
    tail = (Message(role="user", content=message),)
    left = budget.room - estimate_prompt(head + tail)
    kept: list[Message] = []
    for turn in turns:
        if not turn.query.strip() or not turn.response.strip():
            continue  # rows of earlier versions may lack one half
        pair = _pair(turn)
        left -= estimate_prompt(pair)
        if left < 0:
            break
        kept[:0] = pair
    return (*head, *kept, *tail)


def shrink(
    budget: ContextBudget,
    sent: Iterable[Message],
    *,
    prompt_tokens: int,
    context_tokens: int,
) -> ContextBudget:
    """A budget for the next try after an engine refused the prompt `sent`, assembled with `budget`, as too long.

    `prompt_tokens` is the engine's count of `sent`, `context_tokens` its context window; 0: not reported. The `room` of
    the result is smaller than `estimate_prompt(sent)`, so that `assemble` includes fewer turns: the estimate, scaled by
    the ratio of `context_tokens` without the answer to `prompt_tokens`; half of it if either is 0. The part reserved
    for the answer becomes at most half of `context_tokens`, if that is reported.
    """
    estimate = estimate_prompt(sent)
    answer = budget.answer_tokens
    if prompt_tokens <= 0 or context_tokens <= 0:
        room = estimate // 2
    else:
        answer = min(answer, context_tokens // 2)
        room = estimate * (context_tokens - answer) // prompt_tokens
    # Strictly less than what was refused, or the next try would send the same prompt.
    room = max(0, min(room, budget.room, estimate - 1))
    return ContextBudget(context_tokens=room + answer, answer_tokens=answer)


def _pair(turn: Turn) -> tuple[Message, Message]:
    return (
        Message(role="user", content=turn.query),
        Message(role="assistant", content=turn.response),
    )
