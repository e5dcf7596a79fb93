"""Creates chunks, with events in OpenAI's format, from an answer that arrived in another format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.core.generation import Chunk
from mongars.protocol.openai import REASONING, chunk_body, usage_chunk_body
from mongars.protocol.sse import encode_event

if TYPE_CHECKING:
    from mongars.core.generation import FinishReason, Usage


class ChunkWriter:
    """Creates the chunks of one answer: pieces of text, then the finish reason, then the token counts if known.

    Each chunk contains an event in OpenAI's format with the given id, time (`created`, Unix seconds) and model.
    """

    def __init__(self, *, answer_id: str, created: int, model: str) -> None:
        self._answer_id = answer_id
        self._created = created
        self._model = model
        self._delta: dict[str, Any] = {"role": "assistant"}

    def text(self, text: str, logprobs: list[dict[str, Any]] | None = None) -> Chunk:
        """A chunk with a piece of text.

        `logprobs`: the log-probability entries of its tokens, in OpenAI's format; None without them. The event of the
        first chunk of an answer also contains the message's role, `assistant`.
        """
        delta, self._delta = {**self._delta, "content": text}, {}
        return Chunk(
            text=text,
            logprobs=tuple(entry["logprob"] for entry in logprobs or ()),
            raw=self._raw(delta, logprobs=logprobs),
        )

    def reasoning(self, text: str) -> Chunk:
        """A chunk with a piece of the model's reasoning, which precedes the text of the answer.

        In its event, the reasoning is in the field `reasoning_content` of `delta`.
        """
        delta, self._delta = {**self._delta, REASONING: text}, {}
        return Chunk(reasoning=text, raw=self._raw(delta))

    def finish(self, reason: FinishReason) -> Chunk:
        """A chunk with the reason why the answer ended, to be sent after the last text."""
        return Chunk(finish_reason=reason, raw=self._raw({}, reason))

    def usage(self, usage: Usage) -> Chunk:
        """A chunk with the token counts of the answer, to be sent last."""
        body = usage_chunk_body(
            answer_id=self._answer_id, created=self._created, model=self._model, usage=usage
        )
        return Chunk(usage=usage, raw=encode_event(body))

    def _raw(
        self,
        delta: dict[str, Any],
        finish_reason: FinishReason | None = None,
        *,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> bytes:
        body = chunk_body(
            answer_id=self._answer_id,
            created=self._created,
            model=self._model,
            delta=delta,
            finish_reason=finish_reason,
        )
        if logprobs:
            body["choices"][0]["logprobs"] = {"content": logprobs}
        return encode_event(body)
