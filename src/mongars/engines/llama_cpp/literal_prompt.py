"""Send requests whose texts look like control tokens to llama.cpp as tokens instead of text.

```
messages ─► /apply-template with placeholders ─► control tokens of the template | plain text
         ─► /tokenize (plain text: no control tokens) ─► tokens ─► /v1/completions
```

The response then contains `text_completion` events; `as_chat` converts them to chat events.

Only the chat endpoint separates a model's reasoning from its answer, and builds grammars from the `response_format`
of such a model. Requests that need either use it, with the characters of each marker (the text of a control token)
separated.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from mongars.core.control_tokens import Placeholders
from mongars.engines.llama_cpp.refusal import refusal_of
from mongars.protocol.body import json_object
from mongars.protocol.sse import EventSplitter, encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from mongars.engines.llama_cpp.supervisor import LlamaCppSupervisor
    from mongars.engines.llama_cpp.vocabulary import Vocabulary

CHAT_COMPLETIONS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
_OF_CHATS = {"messages", "logprobs", "top_logprobs"}
_ONLY_IN_CHATS = ("response_format", "tools", "json_schema")


async def ask(child: LlamaCppSupervisor, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST a JSON `body` to the URL path `path` of the llama.cpp child process; returns the response's JSON object.

    Raises `NotReady` while the child does not run or if it responds with status 503, `ContextLengthExceeded` if it
    reports a prompt that is too long, `InvalidRequest` for status 400 or 422, `InferenceFailed` for another error
    status, `InvalidAnswer` if the response is no JSON object, and `aiohttp.ClientError` or `OSError` if the connection
    fails.
    """
    async with child.post(path, body) as response:
        if response.status != HTTPStatus.OK:
            raise await refusal_of(response)
        return json_object(await response.read())


async def text_tokens(
    child: LlamaCppSupervisor, content: str | list[str | int], *, add_special: bool = False
) -> list[int]:
    """Tokenize `content` with the child's model; texts of control tokens, such as `<|im_end|>`, count as plain text.

    `content` is a text, or a list of texts and of token ids, which stay unchanged. `add_special`: add the tokens that
    the model requires at the beginning and end of every prompt. Raises a `MongarsError`, such as `NotReady`, if the
    child does not run or responds with an error, and `aiohttp.ClientError` or `OSError` if the connection fails.
    """
    body = {"content": content, "add_special": add_special, "parse_special": False}
    tokens: list[int] = (await ask(child, "/tokenize", body))["tokens"]
    return tokens


async def without_control_tokens(
    child: LlamaCppSupervisor, body: dict[str, Any], vocabulary: Vocabulary
) -> tuple[str, dict[str, Any]]:
    """Convert the JSON `body` of a chat request so that llama.cpp reads no message text as a control token.

    `vocabulary` has the control tokens of the child's model. Returns the URL path to send the request to, and the
    converted body: `/v1/chat/completions` and `body` itself if no text looks like a control token; otherwise
    `/v1/completions` with a prompt of token ids; or, for a reasoning model or a request with a response format, JSON
    schema or tools, the chat path with invisible characters inside those texts. Raises a `MongarsError`, such as
    `NotReady`, if the child does not run or responds with an error, and `aiohttp.ClientError` or `OSError` if the
    connection fails.
    """
    texts = [message["content"] for message in body["messages"]]
    if not any(map(vocabulary.markers.may_occur_in, texts)):
        return CHAT_COMPLETIONS, body
    if vocabulary.reasons or any(body.get(name) for name in _ONLY_IN_CHATS):
        broken = map(vocabulary.markers.broken, texts)
        return CHAT_COMPLETIONS, {**body, "messages": _with_contents(body["messages"], broken)}
    return COMPLETIONS, await _completion_body(child, body, vocabulary)


async def _completion_body(
    child: LlamaCppSupervisor, body: dict[str, Any], vocabulary: Vocabulary
) -> dict[str, Any]:
    messages = body["messages"]
    placeholders = Placeholders.instead_of([message["content"] for message in messages])
    hidden = _with_contents(messages, placeholders.contents())
    rendered = (await ask(child, "/apply-template", {"messages": hidden}))["prompt"]
    # For the empty text llama.cpp inserts the token that begins every prompt, if there is one.
    mixed = ["", *vocabulary.mixed_prompt(rendered, placeholders)]
    tokens = await text_tokens(child, mixed, add_special=True)
    return {
        **{name: value for name, value in body.items() if name not in _OF_CHATS},
        **({"n_probs": body["top_logprobs"]} if body.get("logprobs") else {}),
        "prompt": tokens,
    }


def _with_contents(messages: list[dict[str, Any]], contents: Iterable[str]) -> list[dict[str, Any]]:
    pairs = zip(messages, contents, strict=True)
    return [{**message, "content": content} for message, content in pairs]


async def as_chat(blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Convert llama.cpp's stream of `text_completion` events to one of `chat.completion.chunk` events.

    `blocks` are server-sent events in blocks of bytes. Yields events with the chat role, the text, the finish reason
    and the usage, then `[DONE]`; an error event stays as it is.
    """
    splitter, started = EventSplitter(), False
    async for block in blocks:
        for event in splitter.feed(block):
            if event.is_done:
                yield event.raw
                continue
            body = json_object(event.data)
            if "choices" not in body:  # an error, which has the same form in a chat
                yield event.raw
                continue
            chunks = _chat_chunks(body)
            if not started:
                chunks.insert(0, _chunk(body, [_choice({"role": "assistant", "content": None})]))
                started = True
            yield b"".join(map(encode_event, chunks))


def _chat_chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for choice in body["choices"]:
        logprobs = choice.get("logprobs")
        if choice["text"] or logprobs:
            found.append(_chunk(body, [_choice({"content": choice["text"]}, logprobs=logprobs)]))
        if choice["finish_reason"] is not None:
            found.append(_chunk(body, [_choice({}, finish_reason=choice["finish_reason"])]))
    counts: dict[str, Any] = {name: body[name] for name in ("usage", "timings") if name in body}
    if "usage" in counts:
        found.append({**_chunk(body, []), **counts})
    return found


def _chunk(body: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    common = ("created", "id", "model", "system_fingerprint")
    shared = {name: body[name] for name in common if name in body}
    return {"choices": choices, **shared, "object": "chat.completion.chunk"}


def _choice(
    delta: dict[str, Any],
    *,
    finish_reason: str | None = None,
    logprobs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    choice: dict[str, Any] = {"finish_reason": finish_reason, "index": 0, "delta": delta}
    return choice if logprobs is None else {**choice, "logprobs": logprobs}
