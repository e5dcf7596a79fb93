"""Writing the chunks of an answer as the stream events of OpenAI's chat API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.protocol.openai import (
    REASONING,
    chunk_body,
    fingerprint_of,
    logprob_entries,
    usage_chunk_body,
)
from mongars.protocol.sse import DONE, encode_event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mongars.core.generation import Chunk, Usage


class ChatEvents:
    """Writes the events (server-sent, as bytes) of one streamed answer in OpenAI's format.

    They are the role of each choice, text, finish reason and token counts. `answer_id`, `created` (Unix seconds) and
    `model` are fields of every event. `with_usage`: the client requested token counts.
    """

    def __init__(self, *, answer_id: str, created: int, model: str, with_usage: bool) -> None:
        self.named: dict[str, Any] = {
            "answer_id": answer_id,
            "created": created,
            "model": model,
        }
        self.fingerprint: str | None = fingerprint_of(model)
        """The field `system_fingerprint` of every event; None: the events do not have the field."""
        self.started: set[int] = set()
        """The indexes of the choices whose first event, with the role, has been written."""
        self.moved_to: str | None = None
        """The model of the endpoint that continues the answer; None while the first endpoint serves it."""
        self._with_usage = with_usage
        self._usage: Usage | None = None

    def events(self, chunks: Iterable[Chunk]) -> bytes:
        """The bytes of the events for these chunks of the answer; empty if they need no event."""
        return b"".join([self._event(chunk) for chunk in chunks])

    def end(self) -> bytes:
        """The last bytes of the stream: `[DONE]`, after an event with token counts if the client requested them.

        That event is left out if no chunk had token counts.
        """
        if self._usage is None or not self._with_usage:
            return DONE
        return self.usage(self._usage) + DONE

    def usage(self, usage: Usage) -> bytes:
        """The bytes of the event that contains the token counts `usage` and no text."""
        return self._encoded(usage_chunk_body(**self._name(), usage=usage))

    def role(self, index: int) -> bytes:
        """The bytes of the first event of the choice `index`, which carries the role `assistant`."""
        self.started.add(index)
        return self._write({"role": "assistant", "content": ""}, index)

    def content(self, chunk: Chunk) -> bytes:
        """The bytes of the events for a chunk's reasoning, text and finish reason; absent parts have no event."""
        written = b""
        if chunk.reasoning:
            written = self._write({REASONING: chunk.reasoning}, chunk.index)
        if chunk.text or chunk.logprobs:  # a token that is part of a character has no text
            logprobs = logprob_entries(chunk)
            written += self._write({"content": chunk.text}, chunk.index, logprobs=logprobs)
        if chunk.finish_reason is not None:
            written += self._write({}, chunk.index, finish_reason=chunk.finish_reason)
        return written

    def _event(self, chunk: Chunk) -> bytes:
        self._usage = chunk.usage or self._usage
        if not (chunk.text or chunk.reasoning or chunk.logprobs) and chunk.finish_reason is None:
            return b""
        role = b"" if chunk.index in self.started else self.role(chunk.index)
        return role + self.content(chunk)

    def _write(
        self,
        delta: dict[str, Any],
        index: int,
        *,
        finish_reason: str | None = None,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> bytes:
        body = chunk_body(**self._name(), delta=delta, finish_reason=finish_reason, index=index)
        if logprobs:
            body["choices"][0]["logprobs"] = {"content": logprobs}
        if self._with_usage:
            body["usage"] = None
        return self._encoded(body)

    def _encoded(self, body: dict[str, Any]) -> bytes:
        if self.moved_to is None and self.fingerprint is None:
            del body["system_fingerprint"]
        elif self.moved_to is None:
            body["system_fingerprint"] = self.fingerprint
        return encode_event(body)

    def _name(self) -> dict[str, Any]:
        if self.moved_to is not None:
            return {**self.named, "model": self.moved_to}
        return self.named
