"""Prompt assembly: as much of the conversation as fits the model's context, newest first.

Sizes are estimated, because the tokenizer lives with the engine. The engine's own count decides:
when it refuses a prompt with exact numbers, `shrink` turns those into a budget that fits.
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
    """How many tokens prompt and answer may take together, and what of that the answer keeps."""

    context_tokens: int
    answer_tokens: int

    @property
    def room(self) -> int:
        """Tokens left for the prompt, never negative."""
        return max(0, self.context_tokens - self.answer_tokens)


def estimate_tokens(text: str) -> int:
    """Tokens one message of that text takes, estimated: UTF-8 bytes / 3, plus the role markers.

    On the high side for prose (about four bytes a token), too low for text that a small
    vocabulary splits into single bytes. Only the engine's count is authoritative.
    """
    return -(-len(text.encode()) // _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE


def estimate_prompt(messages: Iterable[Message]) -> int:
    """Tokens of a whole prompt, estimated like `estimate_tokens`."""
    return sum(estimate_tokens(message.content) for message in messages)


def assemble(
    turns: Sequence[Turn], message: str, *, system: str | None, budget: ContextBudget
) -> tuple[Message, ...]:
    """The prompt: `system`, then the newest turns that fit, oldest first, then `message`.

    `turns` come newest first. A turn goes in whole or not at all, and none goes in once a newer
    one did not fit, so the conversation has no holes. `system` and `message` are always there:
    the estimate of the result exceeds `budget.room` only if those two alone do.
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
    """A budget that `sent` exceeds, after the engine refused it.

    `prompt_tokens` is the engine's count of `sent` and `context_tokens` its whole window; from
    their ratio to our estimate follows how much of the same kind of text fits. Without numbers
    (zeros) the room is halved. The answer keeps at most half of the window the engine named.
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
