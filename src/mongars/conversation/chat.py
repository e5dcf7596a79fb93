"""The chat use case: read the history, assemble the prompt, generate, and store the completed turn.

```
open ── history ── assemble ── generator.open ──> ChatStream ── chunks ... finish ── append
             ▲                     │
             └──────── shrink ◄────┘ context_length_exceeded, before the first token
```

A turn is a user's message and the answer to it. It is stored once, after the answer ended with a finish reason,
with the message as the user sent it. An answer that failed, was cut or was cancelled is not stored.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from mongars.conversation.history import NewTurn
from mongars.conversation.prompt import ContextBudget, assemble, shrink
from mongars.core.errors import ContextLengthExceeded, GenerationInterrupted, PromptMissing
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.core.ids import new_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from mongars.conversation.history import History, Turn
    from mongars.core.clock import Clock
    from mongars.core.deadline import Deadline
    from mongars.core.generation import Chunk, FinishReason, Origin, Usage
    from mongars.core.identity import Principal

_TRIES = 3  # fitted by estimate, fitted by the engine's counts, without any history


class RouteInfo(Protocol):
    """How an answer is produced: by which source of answers and endpoint, after how many attempts and what waiting."""

    @property
    def provider(self) -> str:
        """The source of answers that generates this answer: `ray_serve`, `ollama` or `embedded` (in this process)."""
        ...

    @property
    def endpoint(self) -> str:
        """The endpoint that generates this answer, without the scheme.

        `HOST:PORT/PATH` for Ray Serve, `HOST:PORT` for Ollama, `in-process` for the embedded engine.
        """
        ...

    @property
    def attempts(self) -> int:
        """The number of requests sent for this answer, over all providers (sources of answers)."""
        ...

    @property
    def fallback(self) -> bool:
        """Whether a provider (source of answers) that takes precedence was tried first and failed."""
        ...

    @property
    def waited(self) -> float:
        """Seconds before the first content during which a request to an endpoint or engine waited for its response.

        The rest of the time was needed by this process itself.
        """
        ...

    @property
    def cache(self) -> str | None:
        """How the answer cache was used for this answer: `hit`, `shared` or `miss`; None if it is never cached.

        `hit`: a stored answer. `shared`: a generation in progress for an identical request. `miss`: a new generation.
        """
        ...


class GeneratedChunks(Protocol):
    """An async iterator over the chunks (parts) of a streamed answer, in order.

    Iteration raises the errors of the stream, `GenerationInterrupted` if it is cut.
    """

    def __aiter__(self) -> GeneratedChunks:
        """Return this iterator."""
        ...

    async def __anext__(self) -> Chunk:
        """Wait for the next chunk and return it. Raises `GenerationInterrupted` if the answer is cut."""
        ...

    def ready(self) -> Sequence[Chunk]:
        """Remove and return the chunks that have arrived already, without waiting; they are not iterated again."""
        ...


class GeneratedStream(Protocol):
    """A streamed answer of a `Generator`; iterate it once.

    Iteration raises `GenerationInterrupted` if the answer is cut; without an error it is complete at the end.
    """

    @property
    def origin(self) -> Origin:
        """The model, engine, adapter and replica that generate this answer."""
        ...

    @property
    def route(self) -> RouteInfo:
        """How this answer is produced: provider and endpoint, attempts, waiting and cache use."""
        ...

    def __aiter__(self) -> GeneratedChunks:
        """The iterator over the answer's chunks, which can be read only once."""
        ...


class Generator(Protocol):
    """The interface of what generates answers, such as `LLMIntegration` with Ray Serve and its fallbacks."""

    def open(
        self, request: GenerationRequest, *, deadline: Deadline | None = None
    ) -> AbstractAsyncContextManager[GeneratedStream]:
        """Start the answer to `request`; a context that yields the answer as a stream.

        `deadline`: the time by which the answer must be complete; None: after the generator's own configured time
        limit. If it passes, entering raises a `WorldError`, or iteration `GenerationInterrupted`.

        Entering waits for the first content of the answer (text that is not blank, or reasoning), and raises the
        errors until then: `CallerError` for an unusable request, else `WorldError`. Leaving the context stops the
        generation.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """How much of a conversation is sent to the model; sizes in tokens.

    `context_tokens`: the model's context window. `answer_tokens`: the part of it reserved for the answer. `max_tokens`:
    the maximum length of an answer; None: what the prompt leaves of the window. `history_turns`: how many earlier turns
    (message and answer) are sent at most. `system_prompt`: text of a first system message; None: none.
    """

    context_tokens: int = 4096
    answer_tokens: int = 512
    max_tokens: int | None = None
    history_turns: int = 50
    system_prompt: str | None = None


class ChatStream:
    """The streamed answer to a message of a chat. Iterate it once, to the end: only then is the turn stored.

    Made by `Chat.open`. A turn is the user's message with its answer. Iteration raises `GenerationInterrupted` if the
    answer is cut or ends without a finish reason, and `StorageUnavailable` if the complete answer could not be stored.
    `turn` (the stored turn), `finish_reason` and `usage` are None until they are known.
    """

    def __init__(
        self,
        answer: GeneratedStream,
        store: Callable[[str], Awaitable[Turn]],
        *,
        clock: Clock,
        began: float,
    ) -> None:
        self._answer = answer
        self._chunks = aiter(answer)
        self._store = store
        self._clock = clock
        self._began = began
        self._pieces: list[str] = []
        self._seconds: float | None = None
        self._ended = False
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.turn: Turn | None = None

    @property
    def origin(self) -> Origin:
        """The model, engine, adapter and replica that generate this answer."""
        return self._answer.origin

    @property
    def route(self) -> RouteInfo:
        """How this answer is produced: provider and endpoint, attempts, waiting and cache use."""
        return self._answer.route

    @property
    def text(self) -> str:
        """The text of the answer received so far; all of it once `turn` is set."""
        return "".join(self._pieces)

    @property
    def processing_time(self) -> float:
        """Seconds from the call of `Chat.open` to the end of the answer; until now if that has not been reached."""
        if self._seconds is None:
            return self._clock.monotonic() - self._began
        return self._seconds

    def __aiter__(self) -> ChatStream:
        return self

    async def __anext__(self) -> Chunk:
        if self._ended:
            raise StopAsyncIteration
        self._ended = (
            True  # an exception or a cancellation below ends the stream: nothing is stored
        )
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            await self._complete()
            raise
        self._ended = False
        self._note(chunk)
        return chunk

    def ready(self) -> Sequence[Chunk]:
        """Remove and return the chunks that have arrived already, without waiting; they are not iterated again."""
        found = self._chunks.ready()
        for chunk in found:
            self._note(chunk)
        return found

    def _note(self, chunk: Chunk) -> None:
        if chunk.text:
            self._pieces.append(chunk.text)
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.usage = chunk.usage or self.usage

    async def _complete(self) -> None:
        self._seconds = self._clock.monotonic() - self._began
        if self.finish_reason is None:
            msg = "The answer ended without a finish reason; what came is not complete."
            raise GenerationInterrupted(msg)
        self.turn = await self._store(self.text)


class Chat:
    """Answers a user's messages, with the earlier turns (messages and answers) of the session in the prompt.

    `history` stores the turns; `generator` generates the answers; `config` limits the size of the prompt.
    """

    def __init__(
        self, history: History, generator: Generator, *, clock: Clock, config: ChatConfig
    ) -> None:
        self._history = history
        self._generator = generator
        self._clock = clock
        self._config = config

    @asynccontextmanager
    async def open(  # noqa: PLR0913 (each is a fact of one question)
        self,
        principal: Principal,
        message: str,
        *,
        request_id: str,
        session_id: str | None = None,
        task_type: str = "general",
        adapter: str | None = None,
        traceparent: str | None = None,
        deadline: Deadline | None = None,
    ) -> AsyncIterator[ChatStream]:
        """Start the answer to `message` of the user `principal`; a context that yields the answer as a stream.

        `session_id`: the session (conversation) whose earlier turns are included in the prompt; one without stored
        turns is begun. None or blank: a session with a new id is begun; the id is in the stored turn. `request_id`
        identifies the request in logs and responses, `traceparent` (W3C trace context) in traces; None: none.
        `task_type`: `code`, `coding` or `developer` for the coding model, any other text for the general one. `adapter`:
        the adapter that must answer, in the form of `GenerationRequest.adapter`; None: the active one. `deadline`: the
        time by which the answer must be complete; None: after the generator's own configured time limit. Leaving the
        context before the answer's end cancels it and stores nothing.

        Entering raises `PromptMissing` for a blank message, `ContextLengthExceeded` if the message does not fit the
        context window even without history, `StorageUnavailable` if the history cannot be read, another `CallerError`
        for an unusable request, and another `WorldError` if no answer can be started before the deadline. Later,
        iterating raises `GenerationInterrupted` if the answer is cut or the deadline passes, and `StorageUnavailable`
        if the complete answer cannot be stored.
        """
        if not message.strip():
            msg = "The message is blank."
            raise PromptMissing(msg)
        began = self._clock.monotonic()
        turns: Sequence[Turn] = ()
        if session_id and session_id.strip():
            turns = await self._history.latest(
                principal.username, limit=self._config.history_turns, session_id=session_id
            )
        else:
            session_id = new_id("session")

        async def store(text: str) -> Turn:
            return await self._history.append(
                NewTurn(
                    user_id=principal.username,
                    query=message,
                    response=text,
                    session_id=session_id,
                )
            )

        question = GenerationRequest(
            messages=(Message(role="user", content=message),),
            request_id=request_id,
            task_type=task_type,
            session_id=session_id,
            adapter=adapter,
            traceparent=traceparent,
            scope=principal.username,
        )
        async with AsyncExitStack() as stack:
            answer = await self._enter(stack, turns, question, deadline=deadline)
            yield ChatStream(answer, store, clock=self._clock, began=began)

    async def _enter(
        self,
        stack: AsyncExitStack,
        turns: Sequence[Turn],
        question: GenerationRequest,
        *,
        deadline: Deadline | None,
    ) -> GeneratedStream:
        """Start the answer to the message in `question`, with as many of the earlier `turns` as fit the context window.

        `turns` are newest first. Each time the engine refuses the prompt as too long, it is sent again with less
        history, the third time without any. Leaving `stack` ends the answer.

        Raises `ContextLengthExceeded` if the prompt is too long without any history, another `CallerError` for an
        unusable request, and a `WorldError` if no answer can be started; these are not tried again.
        """
        message = question.messages[0].content
        system = self._config.system_prompt
        budget = ContextBudget(
            context_tokens=self._config.context_tokens, answer_tokens=self._config.answer_tokens
        )
        bare = assemble((), message, system=system, budget=budget)
        tries = 0
        while True:
            tries += 1
            prompt = bare
            if tries < _TRIES:
                prompt = assemble(turns, message, system=system, budget=budget)
            sampling = Sampling(max_tokens=self._config.max_tokens, logprobs=True)
            request = replace(question, messages=prompt, sampling=sampling, shortens=prompt != bare)
            try:
                opened = self._generator.open(request, deadline=deadline)
                return await stack.enter_async_context(opened)
            except ContextLengthExceeded as error:
                if prompt == bare:
                    raise
                budget = shrink(
                    budget,
                    prompt,
                    prompt_tokens=error.prompt_tokens,
                    context_tokens=error.context_tokens,
                )
