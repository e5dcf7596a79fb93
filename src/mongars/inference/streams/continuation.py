"""Mid-stream failover: completing an answer elsewhere after its stream broke.

A *target* is a provider or, within Ray, an endpoint. The next target gets the same request together with the
text delivered so far. It does one of two things, and reports which:

- it *continues*: with the same model and adapter, it generates from where the delivered text ends,
  or from a word earlier (`resume_prefix`), which must then be generated again unchanged;
- it *restarts*: it generates the whole answer, which must start with exactly the delivered text;
  that part is not delivered again. If it differs, this target cannot complete the answer.

If no target can do either, `GenerationInterrupted` is raised. Answers that depend on more than their
text (a response format, several choices, delivered reasoning) are not completed elsewhere.
"""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from mongars.core.errors import GenerationInterrupted, InvalidAnswer, MongarsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from mongars.core.generation import Chunk, GenerationRequest, Origin, Usage
    from mongars.inference.provider import ChunkStream, ProviderStream, Route, StreamState

    Reopen = Callable[[str, Origin, AsyncExitStack], Awaitable["Resumed | None"]]

MAX_FAILOVERS = 2
"""Maximum number of failovers per answer; a further target would probably fail in the same way."""


class Diverged(InvalidAnswer):
    """An answer that was generated again differs from the text delivered before, so it cannot complete that."""


def can_fail_over(request: GenerationRequest) -> bool:
    """Whether an answer to this request whose stream broke may be continued elsewhere.

    True for a request for one choice without a response format: only then the delivered text determines the rest.
    """
    return request.sampling.n == 1 and request.sampling.response_format is None


def resume_prefix(delivered: str, stop: tuple[str, ...]) -> str:
    """The longest beginning of the delivered text that certainly ends at a token boundary; possibly empty.

    Generation can only continue at such a boundary. Without stop sequences this is the whole text, because engines send
    whole tokens. With stop sequences `stop`, an engine that sees the beginning of one sends only the text before it,
    which may end inside a token. So the last word is dropped, with the space before it, since tokens begin with a
    space; and punctuation before a line end, since it may be one token together with the line end.
    """
    if not stop:
        return delivered
    found = re.match(r"(.*\S)(\s+)\S*$", delivered, re.DOTALL)
    if found is None:
        return ""
    return re.sub(r"\W+$", "", found[1]) if "\n" in found[2] else found[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A stream that completes an answer whose first stream broke, and its route.

    `known`: the text with which the stream begins and which the client already has, so that it is not delivered again;
    empty if the stream begins after it.
    """

    stream: ProviderStream
    route: Route
    known: str


class FailoverChunks:
    """The chunks of an answer; if its stream breaks, another provider or endpoint continues it (mid-stream failover).

    `first`: the started stream, of which `route` names the provider; `stack` keeps it open. `reopen` starts another
    one: it is given the text delivered so far, the origin that generated its end, and a stack that keeps the new
    stream open, and returns None if no provider can complete the answer. It is called at most `MAX_FAILOVERS` (2)
    times. A broken stream ends the answer with `GenerationInterrupted` if `reopen` is None, or reasoning or a finish
    reason was delivered.
    """

    def __init__(
        self,
        first: ProviderStream,
        stack: AsyncExitStack,
        reopen: Reopen | None,
        *,
        route: Route,
    ) -> None:
        self._current = first
        self._stack = stack
        self._reopen = reopen
        self._route = route
        self._delivered: list[str] = []
        self._to_repeat = ""
        self._finished = False
        self._failed = False
        self._moves = 0

    @property
    def route(self) -> Route:
        """Provider and endpoint that generate the answer now, with the number of attempts, as a `Route`."""
        return self._route

    @property
    def moves(self) -> int:
        """How often another provider or endpoint was tried because the stream broke, successfully or not."""
        return self._moves

    @property
    def origin(self) -> Origin:
        """Model, engine, adapter and replica that generate the answer now."""
        return self._current.origin

    @property
    def source(self) -> ChunkStream:
        """The chunk stream that is being read; after a mid-stream failover, the new one."""
        return self._current.chunks

    @property
    def state(self) -> StreamState:
        """`open` while more chunks may come, `complete`, or `cut` if the stream broke and was not continued."""
        return "cut" if self._failed else self._current.chunks.state

    @property
    def usage(self) -> Usage | None:
        """Token counts of the whole answer, as the current stream has reported them; None until then.

        Text from before a failover is included: an engine that continues an answer counts its beginning as part of it.
        """
        return self._current.chunks.usage

    async def release(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the current stream and stop its generation; the arguments are those of `__aexit__`."""
        await self._stack.__aexit__(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        while True:
            try:
                chunk = self._undelivered(await anext(self._current.chunks))
            except (GenerationInterrupted, Diverged) as cut:
                await self._move(cut)
                continue
            if chunk is not None:
                self._note(chunk)
                return chunk

    def ready(self) -> list[Chunk]:
        """Remove and return the chunks that have arrived and were not delivered, without waiting; possibly empty.

        Always empty while another provider's stream still repeats text that was already delivered.
        """
        if self._to_repeat:
            return []
        found = self._current.chunks.ready()
        self._note(*found)
        return found

    def _note(self, *chunks: Chunk) -> None:
        for chunk in chunks:
            if chunk.reasoning:
                self._reopen = None  # a restarted answer would begin with different reasoning
            if chunk.finish_reason is not None:
                self._finished = True
        self._delivered += [chunk.text for chunk in chunks]

    async def _move(self, cut: MongarsError) -> None:
        """Switch to another stream that completes the answer, since the current one ended with the error `cut`.

        Raises `GenerationInterrupted` if there is none.
        """
        delivered = "".join(self._delivered)
        if self._reopen is not None and self._moves < MAX_FAILOVERS and not self._finished:
            self._moves += 1
            await self._stack.aclose()  # release the failed target's resources first
            self._stack = AsyncExitStack()
            found = await self._reopen(delivered, self.origin, self._stack)
            if found is not None:
                self._current, self._route = found.stream, found.route
                self._to_repeat = found.known
                return
        self._failed = True
        raise GenerationInterrupted(str(cut)) from cut

    def _undelivered(self, chunk: Chunk) -> Chunk | None:
        """The part of the chunk that the client does not have yet; None if nothing is left of it.

        Raises `Diverged` if the part that it should have already differs from the text delivered to it.
        """
        if not self._to_repeat:
            return chunk
        known = min(len(chunk.text), len(self._to_repeat))
        if chunk.text[:known] != self._to_repeat[:known]:
            detail = "The restarted answer differs from the delivered text."
            raise Diverged(detail)
        self._to_repeat = self._to_repeat[known:]
        if self._to_repeat and chunk.finish_reason is not None:
            detail = "The restarted answer is shorter than the delivered text."
            raise Diverged(detail)
        rest = chunk.text[known:]
        if rest or chunk.finish_reason is not None or chunk.usage is not None:
            # `raw` holds the event with the whole text, and log-probabilities cannot be split.
            return replace(chunk, text=rest, raw=b"", logprobs=() if known else chunk.logprobs)
        return None
