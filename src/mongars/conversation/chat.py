"""The chat use case: remember, assemble, generate, and store what was completed.

```
open ── history ── assemble ── generator.open ──> ChatStream ── chunks ... finish ── append
             ▲                     │
             └──────── shrink ◄────┘ context_length_exceeded, before the first token
```

A turn is stored once, after the answer ended with a finish reason, with the person's own words.
An answer that failed, was cut or was abandoned leaves no trace.
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

_TRIES = 3  # by our estimate, by the engine's numbers, without any history


class RouteInfo(Protocol):
    """Which provider generates a stream, and how it was reached."""

    @property
    def provider(self) -> str:
        """Name of the provider that generates the answer."""
        ...

    @property
    def endpoint(self) -> str:
        """Which of the provider's endpoints generates it."""
        ...

    @property
    def attempts(self) -> int:
        """How many attempts it took, over all providers."""
        ...

    @property
    def fallback(self) -> bool:
        """Whether a preferred provider failed before."""
        ...

    @property
    def waited(self) -> float:
        """Seconds until the first content spent waiting for endpoints and engines, not in this process."""
        ...

    @property
    def cache(self) -> str | None:
        """`hit`, `shared` or `miss`; None where the answer cache is not used."""
        ...


class GeneratedChunks(Protocol):
    """The chunks of a stream, in order; iterating raises what the stream raises."""

    def __aiter__(self) -> GeneratedChunks:
        """Itself."""
        ...

    async def __anext__(self) -> Chunk:
        """The next chunk, once it has arrived."""
        ...

    def ready(self) -> Sequence[Chunk]:
        """The chunks that have arrived and were not returned yet, without waiting."""
        ...


class GeneratedStream(Protocol):
    """A streamed answer. Iterating raises what `Generator` raises; a normal end is complete."""

    @property
    def origin(self) -> Origin:
        """The engine that produces the tokens."""
        ...

    @property
    def route(self) -> RouteInfo:
        """How that engine was reached."""
        ...

    def __aiter__(self) -> GeneratedChunks:
        """Its chunks. They are read once."""
        ...


class Generator(Protocol):
    """Generates answers to prompts. Errors known before the first token are raised on entering."""

    def open(
        self, request: GenerationRequest, *, deadline: Deadline | None = None
    ) -> AbstractAsyncContextManager[GeneratedStream]:
        """Answer one request by the deadline; leaving the context stops the work."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """How much of a conversation reaches the model.

    `context_tokens` is the model's window, `answer_tokens` the part of it that the history leaves
    free, `max_tokens` the longest answer (None: what the prompt leaves of the window),
    `history_turns` how many turns are read at most.
    """

    context_tokens: int = 4096
    answer_tokens: int = 512
    max_tokens: int | None = None
    history_turns: int = 50
    system_prompt: str | None = None


class ChatStream:
    """A streamed answer of a chat; iterate it once, to the end, to have it stored.

    Iterating raises `GenerationInterrupted` if the answer ends without a finish reason, and
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
        """The engine that produces the tokens."""
        return self._answer.origin

    @property
    def route(self) -> RouteInfo:
        """How that engine was reached."""
        return self._answer.route

    @property
    def text(self) -> str:
        """The text received so far; the whole answer once `turn` is set."""
        return "".join(self._pieces)

    @property
    def processing_time(self) -> float:
        """Seconds from the question to the end of the answer, or to now while it runs."""
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
        """The chunks that have arrived and were not returned yet, without waiting."""
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
    """Answers a user's messages with the earlier turns of the same session in the prompt."""

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
        """Answer `message`; see `ChatStream`. Leaving early abandons the answer and stores nothing.

        The turns of that session come before it. Without a session id, or with a blank one, a new
        session begins: nothing is remembered from others, and the stored turn names the new id.

        Raises `PromptMissing` for a blank message, `ContextLengthExceeded` if it does not fit
        even without history, `StorageUnavailable` if the history cannot be read, and whatever
        the generator raises.
        """
        if not message.strip():
            msg = "The message is blank."
            raise PromptMissing(msg)
        began = self._clock.monotonic()
        turns: Sequence[Turn] = ()
        if session_id:
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
        """Open the answer, with less history each time the engine finds the prompt too long."""
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
