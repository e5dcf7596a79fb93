"""A deterministic engine without a model, for tests, demos and load experiments.

The answer is the words of `script(request)`, one word per token. Slots and context window limit requests as in
a real engine; failures and delays are set by a `FakePlan`. With an adapter, answers begin with the adapter's
name, so that the text shows which engine generated it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.core.errors import (
    ContextLengthExceeded,
    GenerationInterrupted,
    InferenceFailed,
    InvalidRequest,
    NotReady,
    ParameterUnsupported,
)
from mongars.core.generation import BASE_ADAPTER, GenerationRequest, Origin, Usage
from mongars.engines.engine import EngineStatus
from mongars.protocol.logprobs import entries
from mongars.protocol.openai import chunk_body, usage_chunk_body
from mongars.protocol.response_format import schema_of
from mongars.protocol.schema.validation import violation
from mongars.protocol.sse import DONE, encode_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.clock import Clock


BANNED = -100.0
"""The logit bias at or below which a token is never generated."""
LOGPROB = -0.5
"""The log-probability of every token, in answers to requests with `logprobs`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FakePlan:
    """The behaviour of a `FakeEngine` (an engine without a model, for tests), failures to simulate included.

    `slots`: requests answered at a time. `context_tokens`: the context window. `first_token_delay`: seconds before the
    first token, `token_delay`: seconds before each token. `cut_after_tokens`: interrupt every answer after that many
    tokens; None: never. `start_delay`: seconds that a start takes. `start_error`: the reason with which a start fails;
    None: it succeeds. `adapter_digest`: SHA-256 of the simulated adapter; None: no adapter. `adapter_version`: its
    name.
    """

    slots: int = 4
    context_tokens: int = 4096
    first_token_delay: float = 0.0
    token_delay: float = 0.0
    cut_after_tokens: int | None = None
    """Interrupt every answer after that many tokens; None: never."""
    start_delay: float = 0.0
    """Seconds that a start takes."""
    start_error: str | None = None
    """The reason with which the start fails; None: it succeeds."""
    adapter_version: str = BASE_ADAPTER
    adapter_digest: str | None = None
    """SHA-256 of the loaded adapter; None: no adapter."""

    @property
    def adapter(self) -> str | None:
        """The name of the simulated adapter, `VERSION@DIGEST` with 12 digits; None: no adapter."""
        digest = self.adapter_digest
        return None if digest is None else f"{self.adapter_version}@{digest[:12]}"


class FakeEngine:
    """An `Engine` without a model, for tests and demos; its answers repeat the last message, one token per word.

    `plan` sets its slots, delays and simulated failures.
    """

    def __init__(self, plan: FakePlan, *, clock: Clock) -> None:
        self._plan = plan
        self._clock = clock
        self._free = asyncio.Semaphore(plan.slots)
        self._status = EngineStatus(state="stopped")
        self._pauses: set[asyncio.Timeout] = set()
        self.busy = 0
        """The number of slots in use."""

    @property
    def origin(self) -> Origin:
        """The `Origin` with model and engine `fake`, and the adapter that the `FakePlan` names."""
        return Origin(
            model="fake",
            engine="fake",
            adapter_version=self._plan.adapter_version,
            adapter_digest=self._plan.adapter_digest,
        )

    @property
    def continues(self) -> bool:
        """Always True: the engine continues any text that its answer begins with."""
        return True

    @property
    def slots(self) -> int:
        """How many requests the engine processes at the same time, as set in its `FakePlan`."""
        return self._plan.slots

    @property
    def status(self) -> EngineStatus:
        """The state that `start`, `fail` or `aclose` has set last; `stopped` before the first of these calls."""
        return self._status

    async def start(self) -> None:
        """Wait `FakePlan.start_delay` seconds and become ready.

        Raises `InferenceFailed` if the `FakePlan` has a `start_error`; the state is then `failed`.
        """
        self._status = EngineStatus(state="starting")
        await self._clock.sleep(self._plan.start_delay)
        if self._plan.start_error is not None:
            self._status = EngineStatus(state="failed", detail=self._plan.start_error)
            raise InferenceFailed(self._plan.start_error)
        self._status = EngineStatus(state="ready")

    async def fail(self, reason: str) -> None:
        """Set the state to `failed`, with `reason` as its detail; open streams end with `GenerationInterrupted`."""
        await self.aclose()
        self._status = EngineStatus(state="failed", detail=reason)

    async def aclose(self) -> None:
        """Set the state to `stopped`; open streams end with `GenerationInterrupted`."""
        self._status = EngineStatus(state="stopped")
        now = asyncio.get_running_loop().time()
        for pause in tuple(self._pauses):
            pause.reschedule(now)

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream the answer, which repeats the last message, one token per word.

        The words that are in `continue_from` are left out. Before the last message come the adapter's name, if there
        is one, and `[NUMBER OF MESSAGES] you said:`; not if the request has a JSON schema. Entering waits while all
        slots are in use, then `FakePlan.first_token_delay` seconds. It raises `NotReady` unless the state is `ready`,
        `ContextLengthExceeded` if the prompt fills the context window, and `ParameterUnsupported` for a JSON schema
        that the answer would violate. Iterating raises `GenerationInterrupted` if the engine is stopped or its
        `FakePlan` cuts the answer, and `InvalidRequest` if the answer does not begin with `continue_from`.
        """
        if self._status.state != "ready":
            detail = f"The engine is {self._status.state}."
            raise NotReady(detail, retry_after=1.0)
        check_schema(request)
        prompt_tokens = count_prompt(request)
        if prompt_tokens >= self._plan.context_tokens:
            raise ContextLengthExceeded(
                prompt_tokens=prompt_tokens, context_tokens=self._plan.context_tokens
            )
        async with self._free:
            self.busy += 1
            try:
                await self._pause(self._plan.first_token_delay)
                yield self._events(request, prompt_tokens)
            finally:
                self.busy -= 1

    async def _events(self, request: GenerationRequest, prompt_tokens: int) -> AsyncIterator[bytes]:
        name = request.request_id
        room = self._plan.context_tokens - prompt_tokens
        words, finish_reason = planned(request, room=room, adapter=self._plan.adapter)
        said = spoken(words, request)
        yield _event(name, {"role": "assistant", "content": None})
        for index, word in enumerate(words[said:], start=said):
            await self._pause(self._plan.token_delay)
            if index == self._plan.cut_after_tokens:
                detail = "The plan of the fake engine cuts the answer here."
                raise GenerationInterrupted(detail)
            logprobs = (LOGPROB,) if request.sampling.logprobs else ()
            yield _event(name, {"content": word}, logprobs=logprobs)
        yield _event(name, {}, finish_reason)
        # Engines count the end-of-answer token only if there is no other token.
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=len(words) or 1)
        yield (
            encode_event(usage_chunk_body(answer_id=name, created=0, model="fake", usage=usage))
            + DONE
        )

    async def _pause(self, seconds: float) -> None:
        pause = asyncio.timeout(None)
        try:
            async with pause:
                self._pauses.add(pause)
                try:
                    await self._clock.sleep(seconds)
                finally:
                    self._pauses.discard(pause)
        except TimeoutError:
            pass  # `aclose` ended the pause; the state is checked below
        if self._status.state != "ready":
            detail = "The engine was stopped while it was answering."
            raise GenerationInterrupted(detail)


def check_schema(request: GenerationRequest) -> None:
    """Raise `ParameterUnsupported` if the request has a JSON schema that the fake answer would violate."""
    schema = schema_of(request.sampling.response_format)
    if schema is not None and violation(" ".join(script(request)), schema) is not None:
        detail = (
            "response_format: the fake engine only repeats the last message, which does not follow"
            " the schema."
        )
        raise ParameterUnsupported(detail, param="response_format")


def count_prompt(request: GenerationRequest) -> int:
    """The number of prompt tokens of a request to the fake engine: one per word, plus one per message.

    A word is what white space separates.
    """
    return sum(len(message.content.split()) + 1 for message in request.messages)


def planned(
    request: GenerationRequest, *, room: int, adapter: str | None = None
) -> tuple[list[str], str]:
    """The tokens of the fake engine's answer to `request`, which repeats its last message, and the finish reason.

    A token is a word, each but the first with a space before it. The answer ends before the first stop text. The
    reason is `length` if it was then cut at `max_tokens` or at `room` (the tokens left in the context window), else
    `stop`. `adapter` is the adapter's name, with which the answer begins unless the request has a JSON schema; None:
    no adapter.
    """
    text = " ".join(_drawn(request, adapter))
    words = _tokens(_before_stop(text, request.sampling.stop))
    limit = min(request.sampling.max_tokens or room, room)
    return words[:limit], "length" if len(words) > limit else "stop"


def spoken(words: list[str], request: GenerationRequest) -> int:
    """How many of the fake answer's `words` are contained in `request.continue_from`, and so are not generated again.

    0 without `continue_from`.

    Raises `InvalidRequest` if the text of `continue_from` is not the beginning of the answer.
    """
    left = "" if request.continue_from is None else request.continue_from.text
    for index, word in enumerate(words):
        if not left:
            return index
        if not left.startswith(word):
            detail = "continue_from: not the beginning of what the fake engine generates."
            raise InvalidRequest(detail)
        left = left.removeprefix(word)
    return len(words)


def script(request: GenerationRequest, adapter: str | None = None) -> list[str]:
    """The words of the fake engine's answer: `[NUMBER OF MESSAGES] you said:`, then the words of the last message.

    If the request has a JSON schema, the last message alone. Otherwise, `adapter` (the adapter's name), if it is not
    None, is the first word.
    """
    last = request.messages[-1].content.split()
    if schema_of(request.sampling.response_format) is not None:
        return last
    named = [] if adapter is None else [adapter]
    return [*named, f"[{len(request.messages)}]", "you", "said:", *last]


def _drawn(request: GenerationRequest, adapter: str | None) -> list[str]:
    """The words of the fake engine's answer without those that the request's sampling parameters exclude.

    The answer is `adapter` (the adapter's name; None: left out), `[NUMBER OF MESSAGES] you said:` and the last
    message; with a JSON schema the last message alone. Its words are the vocabulary: token i is word i, and a logit
    bias of -100 or less excludes it. A repetition penalty above 1 removes repeated words.
    """
    sampling = request.sampling
    banned = {token for token, bias in sampling.logit_bias if bias <= BANNED}
    words = [word for index, word in enumerate(script(request, adapter)) if index not in banned]
    return list(dict.fromkeys(words)) if (sampling.repetition_penalty or 1) > 1 else words


def _tokens(text: str) -> list[str]:
    words = text.split(" ")
    return [word if index == 0 else f" {word}" for index, word in enumerate(words) if word]


def _before_stop(text: str, stop: tuple[str, ...]) -> str:
    cuts = [found for entry in stop if (found := text.find(entry)) >= 0]
    return text[: min(cuts)] if cuts else text


def _event(
    name: str,
    delta: dict[str, object],
    finish_reason: str | None = None,
    *,
    logprobs: tuple[float, ...] = (),
) -> bytes:
    body = chunk_body(
        answer_id=name, created=0, model="fake", delta=delta, finish_reason=finish_reason
    )
    if logprobs:
        content = entries(str(delta.get("content") or ""), logprobs)
        body["choices"][0]["logprobs"] = {"content": content}
    return encode_event(body)
