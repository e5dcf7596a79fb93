"""Combines the chunks of a stream into a complete answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.core.errors import InvalidAnswer
from mongars.core.generation import Choice, Completion

if TYPE_CHECKING:
    from mongars.core.generation import Chunk, FinishReason, Origin, Usage


class _PartialChoice:
    """The parts received so far of one choice, that is, one of the `n` answers to a request."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None


class AnswerAccumulator:
    """Combines the chunks of a streamed answer into a `Completion`.

    `choices`: number of answers in the stream, which a request can ask for with `n`.
    """

    def __init__(self, choices: int = 1) -> None:
        self._parts = [_PartialChoice() for _ in range(choices)]
        self._usage: Usage | None = None

    def add(self, chunk: Chunk) -> None:
        """Add the next chunk of the stream. Raises `InvalidAnswer` if it belongs to a choice that was not requested."""
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
        """The text of the first choice, as far as its chunks were added."""
        return "".join(self._parts[0].texts)

    @property
    def usage(self) -> Usage | None:
        """The engine's token counts for the whole answer; None before a chunk with token counts has been added."""
        return self._usage

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first choice ended; None until a chunk with its finish reason has been added."""
        return self._parts[0].finish_reason

    @property
    def finished(self) -> bool:
        """Whether a finish reason was added for every choice, that is, all texts are complete."""
        return all(part.finish_reason is not None for part in self._parts)

    def completion(self, origin: Origin) -> Completion:
        """The complete answer; `origin`: the model, engine and adapter that generated it.

        Raises `InvalidAnswer` if a choice has no finish reason yet.
        """
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
