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
    """Which provider and endpoint generate an answer, after how many attempts and seconds of waiting, and cache use."""

    @property
    def provider(self) -> str:
        """Name of the provider that generates the answer."""
        ...

    @property
    def endpoint(self) -> str:
        """The provider's endpoint that generates the answer."""
        ...

    @property
    def attempts(self) -> int:
        """Number of requests sent for this answer, over all providers."""
        ...

    @property
    def fallback(self) -> bool:
        """Whether a preferred provider was tried first and failed."""
        ...

    @property
    def waited(self) -> float:
        """Seconds before the first content in which this process waited for endpoints and engines."""
        ...

    @property
    def cache(self) -> str | None:
        """`hit` (a stored answer), `shared` (a generation in progress for an identical request) or `miss` (a new one).

        None for a request whose answer is never cached.
        """
        ...


class GeneratedChunks(Protocol):
    """An async iterator over the chunks of an answer, in order; iteration raises the errors of the stream."""

    def __aiter__(self) -> GeneratedChunks:
        """Return this iterator."""
        ...

    async def __anext__(self) -> Chunk:
        """Wait for the next chunk and return it."""
        ...

    def ready(self) -> Sequence[Chunk]:
        """Remove and return the chunks that have arrived, without waiting."""
        ...


class GeneratedStream(Protocol):
    """A streamed answer. Iteration raises `GenerationInterrupted` if it is cut; otherwise it is complete at the end."""

    @property
    def origin(self) -> Origin:
        """Model, adapter and replica that generate the answer."""
        ...

    @property
    def route(self) -> RouteInfo:
        """Provider and endpoint that generate the answer, with the number of attempts, seconds of waiting and cache use."""
        ...

    def __aiter__(self) -> GeneratedChunks:
        """The iterator over the answer's chunks, which can be read only once."""
        ...


class Generator(Protocol):
    """Generates answers to prompts, such as `LLMIntegration`."""

    def open(
        self, request: GenerationRequest, *, deadline: Deadline | None = None
    ) -> AbstractAsyncContextManager[GeneratedStream]:
        """Start an answer; enters once its first content has arrived, and stops the generation on exit.

        Errors known before the first content are raised on entering. `deadline` None: the generator's default.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """How much of a conversation is sent to the model.

    `context_tokens`: the model's context window. `answer_tokens`: the part of it reserved for the answer.
    `max_tokens`: maximum length of the answer, None for what the prompt leaves of the window. `history_turns`:
    maximum number of earlier turns.
    """

    context_tokens: int = 4096
    answer_tokens: int = 512
    max_tokens: int | None = None
    history_turns: int = 50
    system_prompt: str | None = None


class ChatStream:
    """A streamed answer of a chat. Iterate it once, to the end: only then is the turn stored.

    Iteration raises `GenerationInterrupted` if the answer ends without a finish reason, and
    `StorageUnavailable` if the complete answer could not be stored.
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
        """Model, adapter and replica that generate the answer."""
        return self._answer.origin

    @property
    def route(self) -> RouteInfo:
        """Provider and endpoint that generate the answer, with the number of attempts, seconds of waiting and cache use."""
        return self._answer.route

    @property
    def text(self) -> str:
        """The text received so far; the whole answer once `turn` is set."""
        return "".join(self._pieces)

    @property
    def processing_time(self) -> float:
        """Seconds from the call of `Chat.open` to the end of the answer, or until now if it has not ended."""
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
        """Remove and return the chunks that have arrived, without waiting."""
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
    """Answers a user's messages, with the earlier turns of the same session in the prompt."""

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
        traceparent: str | None = None,
        deadline: Deadline | None = None,
    ) -> AsyncIterator[ChatStream]:
        """Start the answer to `message`; leaving the context before its end cancels it and stores nothing.

        The session's earlier turns are included in the prompt. Without a session id, or with a blank one, a new
        session is created, whose id is in the stored turn.

        Raises `PromptMissing` for a blank message, `ContextLengthExceeded` if the message does not fit
        even without history, `StorageUnavailable` if the history cannot be read, and the errors of the generator.
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
        """Start the answer; each time the engine refuses the prompt as too long, retry with less history.

        Raises `ContextLengthExceeded` if the prompt is too long without any history.
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
