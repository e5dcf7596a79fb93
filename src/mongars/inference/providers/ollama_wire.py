"""Ollama's chat dialect: the request, and the lines of its streamed answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.core.errors import InferenceFailed, InvalidAnswer
from mongars.core.generation import Chunk, Origin, Usage
from mongars.inference.providers.answers import End
from mongars.inference.providers.wire import ChunkWriter, json_object
from mongars.protocol.openai import finish_reason_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mongars.core.generation import GenerationRequest

ADAPTER_VERSION = "base"
"""Ollama serves no adapter of ours: whatever it answers is the base model's, and degraded."""

LONGEST_LINE = 4 * 1024 * 1024


def chat_request(request: GenerationRequest, *, model: str) -> dict[str, Any]:
    """The body of `POST /api/chat`."""
    sampling = request.sampling
    options = {
        "num_predict": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "stream": True,
        "options": {name: value for name, value in options.items() if value is not None},
    }
    if sampling.logprobs:
        body["logprobs"] = True
    wanted = _format(sampling.response_format)
    if wanted is not None:
        body["format"] = wanted
    return body


def _format(response_format: dict[str, Any] | None) -> str | dict[str, Any] | None:
    """OpenAI's `response_format` in Ollama's words: a schema, or just `json`."""
    kind = (response_format or {}).get("type")
    if response_format is None or kind not in {"json_object", "json_schema"}:
        return None
    named = response_format.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    return schema if isinstance(schema, dict) else "json"


def origin_named(model: str) -> Origin:
    """An answer of that Ollama model."""
    return Origin(model=model, engine="ollama", adapter_version=ADAPTER_VERSION, degraded=True)


def same_model(wanted: str, found: str) -> bool:
    """Whether these name the same model; a name without a tag means `latest`."""
    return _tagged(wanted) == _tagged(found)


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


class OllamaDecoder:
    """Reads newline-delimited JSON; the events it writes are ours."""

    def __init__(self, *, answer_id: str, created: int, model: str) -> None:
        self._answer_id = answer_id
        self._created = created
        self._writer = ChunkWriter(answer_id=answer_id, created=created, model=model)
        self._rest = bytearray()
        self._named = False

    def feed(self, block: bytes) -> Iterator[Chunk | Origin | End]:
        """The items that this block completes. Raises `InferenceFailed` for an error in a line."""
        self._rest += block
        while (end := self._rest.find(b"\n")) >= 0:
            line = bytes(self._rest[:end]).strip()
            del self._rest[: end + 1]
            if line:
                yield from self._read(json_object(line))
        if len(self._rest) > LONGEST_LINE:
            detail = "Ollama sent a line that does not end."
            raise InvalidAnswer(detail)

    def closing(self) -> Chunk:
        """A finish chunk; never needed, since the last line always says why it ended."""
        return self._writer.finish("stop")

    def _read(self, body: dict[str, Any]) -> Iterator[Chunk | Origin | End]:
        if body.get("error"):
            detail = f"Ollama reports: {body['error']}"
            raise InferenceFailed(detail)
        try:
            yield from self._items(body)
        except (KeyError, TypeError, AttributeError, ValueError) as exc:
            detail = "A line of Ollama's answer does not have the shape of one."
            raise InvalidAnswer(detail) from exc

    def _items(self, body: dict[str, Any]) -> Iterator[Chunk | Origin | End]:
        if not self._named:
            self._named = True
            yield self._name(str(body["model"]))
        text = body["message"].get("content") or ""
        if text:
            yield self._writer.text(text, _logprobs(body))
        if body.get("done"):
            yield self._writer.finish(finish_reason_from(body.get("done_reason")) or "stop")
            yield from self._counts(body)
            yield End()

    def _name(self, model: str) -> Origin:
        self._writer = ChunkWriter(answer_id=self._answer_id, created=self._created, model=model)
        return origin_named(model)

    def _counts(self, body: dict[str, Any]) -> Iterator[Chunk]:
        if "eval_count" in body:
            # Ollama leaves the prompt's count out when all of it came from its cache.
            prompt = int(body.get("prompt_eval_count") or 0)
            usage = Usage(prompt_tokens=prompt, completion_tokens=int(body["eval_count"]))
            yield self._writer.usage(usage)


def _logprobs(body: dict[str, Any]) -> tuple[float, ...]:
    return tuple(float(entry["logprob"]) for entry in body.get("logprobs") or ())
