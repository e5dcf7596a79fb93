"""Combines the chunks of a stream into a complete answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.core.errors import InvalidAnswer
from mongars.core.generation import Choice, Completion

if TYPE_CHECKING:
    from mongars.core.generation import Chunk, FinishReason, Origin, Usage


class _PartialChoice:
    """The chunks received so far of one choice (one of the `n` answers)."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None


class AnswerAccumulator:
    """Combines the chunks of a stream into a `Completion`; `choices` is the number of answers in the stream."""

    def __init__(self, choices: int = 1) -> None:
        self._parts = [_PartialChoice() for _ in range(choices)]
        self._usage: Usage | None = None

    def add(self, chunk: Chunk) -> None:
        """Add the next chunk. Raises `InvalidAnswer` for a choice that was not requested."""
        if chunk.usage is not None:
            self._usage = chunk.usage
        if not 0 <= chunk.index < len(self._parts):
            detail = f"The answer has a choice {chunk.index}; {len(self._parts)} were requested."
            raise InvalidAnswer(detail)
        part = self._parts[chunk.index]
        part.texts.append(chunk.text)
        if chunk.reasoning:
            part.reasoning.append(chunk.reasoning)
        if chunk.logprobs:
            part.logprobs.extend(chunk.logprobs)
        if chunk.finish_reason is not None:
            part.finish_reason = chunk.finish_reason

    @property
    def text(self) -> str:
        """The text of the first choice so far."""
        return "".join(self._parts[0].texts)

    @property
    def usage(self) -> Usage | None:
        """The token counts; None until the engine has sent them."""
        return self._usage

    @property
    def finish_reason(self) -> FinishReason | None:
        """The finish reason of the first choice; None until the engine has sent it."""
        return self._parts[0].finish_reason

    @property
    def finished(self) -> bool:
        """Whether every choice has a finish reason."""
        return all(part.finish_reason is not None for part in self._parts)

    def completion(self, origin: Origin) -> Completion:
        """The whole answer. Raises `InvalidAnswer` if a choice has no finish reason."""
        choices = []
        for part in self._parts:
            if part.finish_reason is None:
                detail = "The answer ended without a finish reason."
                raise InvalidAnswer(detail)
            choice = Choice(
                text="".join(part.texts),
                finish_reason=part.finish_reason,
                logprobs=tuple(part.logprobs),
                reasoning="".join(part.reasoning),
            )
            choices.append(choice)
        return Completion(choices=tuple(choices), usage=self._usage, origin=origin)
