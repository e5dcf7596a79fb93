"""The fake Ollama server's responses without faults: text of the fake engine under Ollama's rules for options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.engines.fake import LOGPROB, count_prompt, planned

if TYPE_CHECKING:
    from mongars.core.clock import Clock
    from mongars.testing.faults import Echo

CREATED_AT = "2025-01-08T12:00:00Z"


async def echo(
    request: web.Request, body: dict[str, Any], fault: Echo, *, clock: Clock
) -> web.StreamResponse:
    """Stream the response to the request body `body` of `/api/chat`: a text that repeats the last message.

    It respects the options `num_ctx` (the context window in tokens, by default `fault.context_tokens`), `num_predict`,
    `stop` and `repeat_penalty`, and the field `logprobs`. A prompt that leaves no room in the window is answered with
    400 if `truncate` is false. `fault.token_delay` is the seconds before each token, measured by `clock`.
    """
    asked = _generation(body)
    window = (body.get("options") or {}).get("num_ctx") or fault.context_tokens
    prompt = count_prompt(asked)
    if prompt >= window and body.get("truncate") is False:
        return web.json_response({"error": _overflow(prompt, window)}, status=400)
    words, reason = planned(asked, room=window - prompt)
    head = {"model": body["model"], "created_at": CREATED_AT}
    response = web.StreamResponse()
    response.content_type = "application/x-ndjson"
    await response.prepare(request)
    for word in words:
        await clock.sleep(fault.token_delay)
        message = {"role": "assistant", "content": word}
        line = {**head, "message": message, "done": False}
        if body.get("logprobs"):
            line["logprobs"] = [{"token": word, "logprob": LOGPROB, "bytes": list(word.encode())}]
        await _line(response, line)
    end = {
        **head,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": reason,
        "prompt_eval_count": prompt,
        "eval_count": len(words) or 1,
    }
    await _line(response, end)
    await response.write_eof()
    return response


def shown_model(*, context_tokens: int, verbose: bool) -> dict[str, Any]:
    """The JSON body of the response of Ollama's `/api/show`, as a real server writes it.

    `context_tokens` is the model's context window; token lists are null unless `verbose`.
    """
    vocabulary = {
        "tokenizer.ggml.tokens": ["a", "<|turn|>", "<note>", "<table>"],
        "tokenizer.ggml.token_type": [1, 3, 4, 4],
    }
    return {
        "modelfile": "FROM fake",
        "parameters": 'stop "<|im_end|>"',
        "template": "{{ .Prompt }}<note>",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "135M",
            "quantization_level": "Q8_0",
        },
        "model_info": {
            "general.architecture": "llama",
            "general.parameter_count": 134_515_008,
            "llama.block_count": 30,
            "llama.context_length": context_tokens,
            "llama.embedding_length": 576,
            **{name: found if verbose else None for name, found in vocabulary.items()},
        },
        "capabilities": ["completion"],
        "modified_at": CREATED_AT,
    }


def _generation(body: dict[str, Any]) -> GenerationRequest:
    options = body.get("options") or {}
    return GenerationRequest(
        messages=tuple(Message(role=m["role"], content=m["content"]) for m in body["messages"]),
        request_id="ollama",
        sampling=Sampling(
            max_tokens=options.get("num_predict"),
            stop=tuple(options.get("stop") or ()),
            repetition_penalty=options.get("repeat_penalty"),
        ),
    )


def _overflow(prompt: int, window: int) -> str:
    """The error text with which a real Ollama server refuses a prompt that is too long: a JSON object as text.

    `prompt` and `window` are the numbers of tokens of the prompt and of the context.
    """
    error = {
        "code": 400,
        "message": f"request ({prompt} tokens) exceeds the available context size ({window} tokens)",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": prompt,
        "n_ctx": window,
    }
    return orjson.dumps({"error": error}).decode()


async def _line(response: web.StreamResponse, body: dict[str, Any]) -> None:
    await response.write(orjson.dumps(body) + b"\n")
