"""OpenAI's older completions protocol (`/v1/completions`): its requests and responses.

The prompt becomes one user message and is formatted by the model's chat template, like `prompt` of `/generate`:
the models served here are trained on conversations, not on continuing a text without a role.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from mongars.protocol.adapter_field import DemandsAdapter
from mongars.protocol.messages import ChatMessage, prompt_messages
from mongars.protocol.openai import StreamOptions, fingerprint_of, logprob_entries, usage_body
from mongars.protocol.sampling_fields import MAX_TOKENS_LIMIT, SamplingFields

if TYPE_CHECKING:
    from mongars.core.generation import Chunk, Message, Usage

MOST_ALTERNATIVES = 5
FIELD_NAMES = {"messages": "prompt"}
"""Fields of OpenAI's chat protocol that errors name, and the field of this protocol in its place."""


def _one_text(value: object) -> object:
    """The text of the field `prompt`: a string, or the only string in a list.

    Raises `ValueError` for several prompts, token ids, or another type.
    """
    found = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(found, str):
        return found
    entries = found if isinstance(found, list) else [found]
    if any(isinstance(entry, int | list) for entry in entries):
        message = "token numbers are not supported; send the prompt as text"
    elif entries and all(isinstance(entry, str) for entry in entries):
        message = "holds several prompts; send one request for each"
    else:
        message = "must be a text, or a list with one text"
    raise ValueError(message)


class CompletionRequest(SamplingFields, DemandsAdapter):
    """The body of `POST /v1/completions`: OpenAI's older protocol, with one prompt in place of messages."""

    model: str = Field(min_length=1)
    prompt: Annotated[str, BeforeValidator(_one_text, json_schema_input_type=str | list[str])]
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS_LIMIT)
    logprobs: Annotated[
        bool | None,
        WithJsonSchema(
            {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 5}, {"type": "null"}]}
        ),
    ] = None
    """Number of alternatives to list for each token of the response, 0 to 5; it is stored in `top_logprobs`."""
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, data: object) -> object:
        """Convert the number in the field `logprobs` to the chat protocol's `logprobs: true` and `top_logprobs`.

        `data`: the decoded request body; it is returned unchanged if the field is absent, null or a boolean, or if it
        is no object. Raises `ValueError` for any other value than a whole number from 0 to 5.
        """
        wanted = data.get("logprobs") if isinstance(data, dict) else None
        if not isinstance(data, dict) or wanted is None or isinstance(wanted, bool):
            return data
        if not isinstance(wanted, int) or not 0 <= wanted <= MOST_ALTERNATIVES:
            message = f"logprobs: must be a whole number from 0 to {MOST_ALTERNATIVES}"
            raise ValueError(message)
        return {**data, "logprobs": True, "top_logprobs": wanted}

    def to_messages(self) -> tuple[Message, ...]:
        """The prompt as one user message. Raises `PromptMissing` if it is blank."""
        return prompt_messages([ChatMessage(role="user", content=self.prompt)], field="prompt")


class ChoiceWriter:
    """Builds the entries of `choices` for one choice of a `/v1/completions` response.

    Keys of an entry: `index`, `text`, `finish_reason` and `logprobs`, which is None or has the lists `tokens`,
    `token_logprobs`, `top_logprobs` and `text_offset` (offset of each token in the text, in characters).
    """

    def __init__(self, index: int, *, alternatives: int | None) -> None:
        """`index`: the number of the choice. `alternatives`: how many alternative tokens are listed for each token.

        With 0, only the tokens themselves have log-probabilities; with None, there are none at all.
        """
        self._index = index
        self._alternatives = alternatives
        self._offset = 0
        self._logprobs: dict[str, list[Any]] = _no_logprobs()

    def piece(self, chunk: Chunk) -> dict[str, Any]:
        """The entry of `choices` for `chunk` in an event of a stream, with its log-probabilities.

        Call it for the chunks of the choice in order, as the offsets of tokens are counted from the first chunk on.
        """
        return self._choice(chunk.text, self._rated(chunk), chunk.finish_reason)

    def add(self, chunk: Chunk) -> None:
        """Collect the log-probabilities of a chunk of a non-streaming answer, for `whole`."""
        for name, values in self._rated(chunk).items():
            self._logprobs[name] += values

    def whole(self, text: str, finish_reason: str) -> dict[str, Any]:
        """The entry of `choices` for a non-streaming answer, with the log-probabilities collected by `add`."""
        return self._choice(text, self._logprobs, finish_reason)

    def _choice(
        self, text: str, logprobs: dict[str, list[Any]], finish_reason: str | None
    ) -> dict[str, Any]:
        rated: dict[str, Any] | None = None
        if self._alternatives is not None:
            rated = {**logprobs} if self._alternatives else {**logprobs, "top_logprobs": None}
        return {
            "index": self._index,
            "text": text,
            "logprobs": rated,
            "finish_reason": finish_reason,
        }

    def _rated(self, chunk: Chunk) -> dict[str, list[Any]]:
        found = _no_logprobs()
        if self._alternatives is None:
            return found
        end = self._offset + len(chunk.text)
        place = self._offset
        for entry in logprob_entries(chunk):
            found["tokens"].append(entry["token"])
            found["token_logprobs"].append(entry["logprob"])
            others = entry.get("top_logprobs") or ()
            found["top_logprobs"].append({o["token"]: o["logprob"] for o in others})
            found["text_offset"].append(place)
            place = min(
                end, place + len(entry["token"])
            )  # a token that is only part of a character adds no length
        self._offset = end
        return found


def _no_logprobs() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def text_body(
    choices: list[dict[str, Any]], *, answer_id: str, created: int, model: str
) -> dict[str, Any]:
    """OpenAI's `text_completion` object, which is a complete response, or one event of a stream.

    `choices`: entries made by `ChoiceWriter`. `answer_id`: its field `id`. `created`: Unix seconds.
    """
    return {
        "id": answer_id,
        "object": "text_completion",
        "created": created,
        "model": model,
        "system_fingerprint": fingerprint_of(model),
        "choices": choices,
    }


def with_usage(body: dict[str, Any], usage: Usage | None) -> dict[str, Any]:
    """A copy of the response object `body` with the field `usage`: the token counts, or null if they are unknown."""
    return {**body, "usage": None if usage is None else usage_body(usage)}
