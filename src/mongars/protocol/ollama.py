"""Client side of Ollama's chat protocol: writes requests and parses the lines of a streamed answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mongars.core.control_tokens import COMMON_MARKERS, Markers
from mongars.core.errors import (
    ContextLengthExceeded,
    InferenceFailed,
    InvalidAnswer,
)
from mongars.core.generation import Chunk, Origin, Usage
from mongars.protocol.body import json_object
from mongars.protocol.chunks import ChunkWriter
from mongars.protocol.logprobs import named
from mongars.protocol.openai import finish_reason_from, reasoning_in
from mongars.protocol.problems import count_or_0
from mongars.protocol.response_format import schema_of
from mongars.protocol.sampling_fields import sampling_writer
from mongars.protocol.schema.enforced import check_conversion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mongars.core.generation import GenerationRequest

LONGEST_LINE = 4 * 1024 * 1024


COMMON = Markers(COMMON_MARKERS)
_SAMPLING = sampling_writer("ollama")
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
"""Token types of GGUF that Ollama recognises in a rendered prompt."""


def chat_request(
    request: GenerationRequest, *, model: str, markers: Markers = COMMON
) -> dict[str, Any]:
    """The JSON body of Ollama's `POST /api/chat` for a streamed answer.

    `markers`: the model's control tokens, such as `<|im_end|>`. Those in messages must be read as text; Ollama accepts
    no token ids, so each one that a message contains is interrupted by an invisible character (`SEPARATOR`). Raises
    `ParameterUnsupported` for a parameter or a part of a response format that Ollama does not support.
    """
    sampling = request.sampling
    options = _SAMPLING.write(sampling)
    messages = markers.broken_messages(request.messages)
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "stream": True,
        # Otherwise Ollama silently shortens a prompt that exceeds its context window.
        "truncate": False,
        "shift": False,
        "options": options,
    }
    if sampling.logprobs:
        body["logprobs"] = True
        if sampling.top_logprobs:
            body["top_logprobs"] = sampling.top_logprobs
    check_conversion(sampling.response_format)
    schema = schema_of(sampling.response_format)
    if schema is not None:
        body["format"] = schema or "json"
    return body


def origin_named(model: str) -> Origin:
    """The `Origin` of an answer by the Ollama model `model`: without an adapter, and with `degraded` true.

    `degraded`: the engine `ollama` cannot use the adapters of this deployment.
    """
    return Origin(model=model, engine="ollama", degraded=True)


def same_model(wanted: str, found: str) -> bool:
    """Whether two names of Ollama models are equal, case included; a name without a tag has the tag `latest`."""
    return tagged(wanted) == tagged(found)


def tagged(name: str) -> str:
    """The name of an Ollama model with its tag; `:latest` is appended if no colon follows the last `/`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def models_in(listed: dict[str, Any]) -> list[str] | None:
    """The model names in a response of `GET /api/tags`; None if it is not a response of an Ollama server.

    `listed`: the decoded body. It is not Ollama's if its field `models` is absent or neither a list nor null.
    """
    entries = listed.get("models", ...)
    if entries is None:  # some versions send null for an empty list
        return []
    if not isinstance(entries, list):
        return None
    return [str(entry.get("name")) for entry in entries if isinstance(entry, dict)]


def window_in(shown: dict[str, Any]) -> int | None:
    """The model's maximum context window in tokens, from a response of `POST /api/show`; None if it has none.

    `shown`: the decoded body, whose field `model_info` has the value.
    """
    info = shown.get("model_info")
    if not isinstance(info, dict):
        return None
    found = info.get(f"{info.get('general.architecture')}.context_length")
    return found if isinstance(found, int) and found > 0 else None


def markers_in(answer: bytes) -> Markers:
    """The model's control tokens, such as `<|im_end|>`, from the body of a verbose `POST /api/show` response.

    The common ones (`COMMON`) are always included, and are the only ones if the response lists no tokens. Raises
    `InvalidAnswer` if `answer` is not a JSON object.
    """
    shown = json_object(answer)
    info, template = shown.get("model_info"), str(shown.get("template"))
    if not isinstance(info, dict):
        return COMMON
    tokens, types = info.get("tokenizer.ggml.tokens"), info.get("tokenizer.ggml.token_type")
    if not (isinstance(tokens, list) and isinstance(types, list)):
        return COMMON
    found = [
        str(token)
        for token, kind in zip(tokens, types, strict=False)
        if kind in {_UNKNOWN, _CONTROL} or (kind == _USER_DEFINED and str(token) in template)
    ]
    return Markers([*COMMON_MARKERS, *found])


def overflow_in(error: str, *, context_tokens: int) -> ContextLengthExceeded | None:
    """The error for a prompt that is too long, if the error text `error` of an Ollama server reports that; else None.

    Newer Ollama servers report both sizes, in tokens, in the text. For older ones, the prompt's size in the error is 0
    (unknown) and the window's size is `context_tokens`.
    """
    if "exceed" not in error or "context" not in error:
        return None
    try:
        found = json_object(error.encode()).get("error")
    except InvalidAnswer:
        found = None
    if not isinstance(found, dict):
        detail = (
            f"The prompt is too long. This model's maximum context length is {context_tokens}"
            " tokens. Please reduce the length of the messages."
        )
        return ContextLengthExceeded(detail, context_tokens=context_tokens)
    return ContextLengthExceeded(
        prompt_tokens=count_or_0(found.get("n_prompt_tokens")),
        context_tokens=count_or_0(found.get("n_ctx")) or context_tokens,
    )


class LineReader:
    """Parses the JSON lines of an answer streamed by Ollama into chunks.

    The event `raw` in each is in OpenAI's format, with `answer_id`, `created` (Unix seconds) and the model in it;
    `model` is used until a line names it.
    """

    def __init__(self, *, answer_id: str, created: int, model: str) -> None:
        self._answer_id = answer_id
        self._created = created
        self._writer = ChunkWriter(answer_id=answer_id, created=created, model=model)
        self._rest = bytearray()
        self.model: str | None = None
        """The model's name as reported by Ollama; None before the first line."""
        self.done = False
        """Whether the last line of the answer (`done: true`) has been read."""

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """Parse a block of bytes; yields the chunks of the lines that it completes, and keeps an incomplete line.

        Raises `InferenceFailed` for a line with an error, and `InvalidAnswer` for a malformed one or an incomplete one
        of more than `LONGEST_LINE` (4 MiB). Nothing is read after the line with `done: true`.
        """
        self._rest += block
        while not self.done and (end := self._rest.find(b"\n")) >= 0:
            line = bytes(self._rest[:end]).strip()
            del self._rest[: end + 1]
            if line:
                yield from self._read(json_object(line))
        if not self.done and len(self._rest) > LONGEST_LINE:
            detail = "Ollama sent a line that does not end."
            raise InvalidAnswer(detail)

    def _read(self, body: dict[str, Any]) -> Iterator[Chunk]:
        if body.get("error"):
            detail = f"Ollama reports: {body['error']}"
            raise InferenceFailed(detail)
        try:
            yield from self._chunks(body)
        except (KeyError, TypeError, AttributeError, ValueError) as exc:
            detail = "A line of Ollama's answer does not have the shape of one."
            raise InvalidAnswer(detail) from exc

    def _chunks(self, body: dict[str, Any]) -> Iterator[Chunk]:
        if self.model is None:
            self.model = str(body["model"])
            self._writer = ChunkWriter(
                answer_id=self._answer_id, created=self._created, model=self.model
            )
        text = body["message"].get("content")
        logprobs = _logprobs(body, text or "")
        if text is not None and not isinstance(text, str):
            detail = "A line of Ollama's answer holds content that is not text."
            raise InvalidAnswer(detail)
        reasoning = reasoning_in(body["message"])
        if reasoning:
            yield self._writer.reasoning(reasoning)
        if text or logprobs:
            yield self._writer.text(text or "", logprobs)
        if body.get("done"):
            yield self._writer.finish(finish_reason_from(body.get("done_reason")) or "stop")
            yield from self._counts(body)
            self.done = True

    def _counts(self, body: dict[str, Any]) -> Iterator[Chunk]:
        written = count_or_0(body.get("eval_count"))
        if written:
            # Ollama omits the prompt's count if the whole prompt was in its cache.
            prompt = count_or_0(body.get("prompt_eval_count"))
            yield self._writer.usage(Usage(prompt_tokens=prompt, completion_tokens=written))


def _logprobs(body: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """The log-probability entries in a line of the stream, in OpenAI's format.

    `body`: the decoded line. `text`: its text, used as the token of entries that have none. Empty if there are no
    entries, or if one is invalid, so that the text is still used.
    """
    found = body.get("logprobs") or ()
    try:
        return [named({"token": text, "top_logprobs": None, **entry}) for entry in found]
    except (KeyError, TypeError, AttributeError, ValueError):
        return []
