"""Convert vLLM's outputs to the server-sent events of `engines.engine.Engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.core.errors import GenerationInterrupted
from mongars.core.generation import Usage
from mongars.protocol.logprobs import entry
from mongars.protocol.openai import chunk_body, usage_chunk_body
from mongars.protocol.sse import DONE, encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from vllm.logprobs import Logprob
    from vllm.outputs import CompletionOutput, RequestOutput

LEAST_LOGPROB = -9999.0
"""The log-probability reported for an impossible token, as in OpenAI's API: JSON has no infinity."""


class VllmEventWriter:
    """Converts vLLM's outputs for one answer to server-sent events with OpenAI's `chat.completion.chunk` objects.

    `answer_id` and `model` are fields of every object, as is `created`, the time in Unix seconds. `top_logprobs`: how
    many alternatives per token to report; 0: none.
    """

    def __init__(self, *, answer_id: str, model: str, created: int, top_logprobs: int) -> None:
        self._head: dict[str, Any] = {"answer_id": answer_id, "model": model, "created": created}
        self._top_logprobs = top_logprobs

    async def write(self, outputs: AsyncIterator[RequestOutput]) -> AsyncGenerator[bytes, None]:
        """Yield the server-sent events of the answer: chat role, text, finish reason, usage, and `[DONE]`.

        Each of `outputs` must contain only the tokens that are new since the last one. Raises `GenerationInterrupted`
        if the outputs end before the answer is complete.
        """
        yield self._event({"role": "assistant", "content": None})
        finish_reason, prompt_tokens, tokens, cached = None, 0, 0, 0
        async for output in outputs:
            piece = output.outputs[0]
            tokens += len(piece.token_ids)
            prompt_tokens = len(output.prompt_token_ids or ()) or prompt_tokens
            cached = output.num_cached_tokens or cached
            entries = self._entries(piece)
            if piece.text or entries:
                yield self._event({"content": piece.text}, logprobs=entries)
            finish_reason = piece.finish_reason
        if finish_reason in {None, "abort", "error"}:
            detail = "The engine stopped before the answer was complete."
            raise GenerationInterrupted(detail)
        yield self._event({}, finish_reason="length" if finish_reason == "length" else "stop")
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=tokens, cached_tokens=cached)
        yield encode_event(usage_chunk_body(**self._head, usage=usage)) + DONE

    def _event(
        self,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> bytes:
        body = chunk_body(**self._head, delta=delta, finish_reason=finish_reason)
        if logprobs:
            body["choices"][0]["logprobs"] = {"content": logprobs}
        return encode_event(body)

    def _entries(self, piece: CompletionOutput) -> list[dict[str, Any]]:
        """The log-probabilities of the tokens in `piece` as objects in OpenAI's format, one per token.

        Keys: `token`, `logprob`, `bytes` and `top_logprobs`, a list of such objects for the likeliest alternatives.
        Empty if the request did not ask for log-probabilities.
        """
        return [
            {
                **_entry(alternatives[token]),
                "top_logprobs": [
                    _entry(other)
                    for other in sorted(alternatives.values(), key=lambda each: each.rank)
                    if other.rank <= self._top_logprobs
                ],
            }
            for token, alternatives in zip(piece.token_ids, piece.logprobs or (), strict=False)
        ]


def _entry(logprob: Logprob) -> dict[str, Any]:
    text = logprob.decoded_token or ""
    found = entry(text, max(logprob.logprob, LEAST_LOGPROB))
    return {name: found[name] for name in ("token", "logprob", "bytes")}
