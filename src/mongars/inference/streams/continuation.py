"""An answer that goes on when its stream is cut.

The next target is asked for the same answer, and told what has been delivered. It does one of two
things, and says which:

- it *continues*: same model, same adapter, generation begins where the delivered text ends, or a
  word before (`resume_prefix`), which must then come out the same;
- it *restarts*: then its text must begin with exactly what was delivered, and that part of it is
  left out. Where it differs, this target cannot help: no reader gets two answers in one.

No target can do either: the cut is raised, and never looks like an end. Answers that depend on
more than their text (a response format, several choices, delivered reasoning) are not moved.
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
    from mongars.inference.provider import ProviderStream, Route, StreamState

    Reopen = Callable[[str, Origin, AsyncExitStack], Awaitable["Resumed | None"]]

MAX_FAILOVERS = 2
"""Per answer: a third target would more likely share the fault than cure it."""


class Diverged(InvalidAnswer):
    """A target said something else where it had to repeat what was delivered."""


def can_fail_over(request: GenerationRequest) -> bool:
    """Whether a cut answer to this request may be completed by somebody else."""
    return request.sampling.n == 1 and request.sampling.response_format is None


def resume_prefix(delivered: str, stop: tuple[str, ...]) -> str:
    """As much of the delivered text as ends where a token ends: only there can one go on.

    Engines send whole tokens, unless a token may hold the beginning of a stop sequence: then they send
    what is before it, and the cut may have come in between. So the last word is given up with the space
    before it, which tokens begin with; and punctuation with it that ends a line, since it may be
    one token with the end of the line.
    """
    if not stop:
        return delivered
    found = re.match(r"(.*\S)(\s+)\S*$", delivered, re.DOTALL)
    if found is None:
        return ""
    return re.sub(r"\W+$", "", found[1]) if "\n" in found[2] else found[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """Who goes on with an answer, and which end of the delivered text will be said again."""

    stream: ProviderStream
    route: Route
    known: str


class FailoverChunks:
    """A `ChunkStream` over as many targets as it takes.

    `reopen` is given the text delivered so far, who wrote the end of it, and a stack that holds the
    new target open; it returns None when nobody is left to ask.
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
        """Which way it comes: after a move, of whoever goes on."""
        return self._route

    @property
    def moves(self) -> int:
        """How often it was cut and went on elsewhere."""
        return self._moves

    @property
    def origin(self) -> Origin:
        """Who gives the answer now."""
        return self._current.origin

    @property
    def state(self) -> StreamState:
        """How far it is."""
        return "cut" if self._failed else self._current.chunks.state

    @property
    def usage(self) -> Usage | None:
        """The counts of whoever finished; of a restart, they count the whole answer."""
        return self._current.chunks.usage

    async def release(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the target that is being read, which learns how it was left."""
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
        """What has come already. Nothing while a text begun anew is compared with the old one."""
        if self._to_repeat:
            return []
        found = self._current.chunks.ready()
        self._note(*found)
        return found

    def _note(self, *chunks: Chunk) -> None:
        for chunk in chunks:
            if chunk.reasoning:
                self._reopen = None  # another model's answer would not follow from these thoughts
            if chunk.finish_reason is not None:
                self._finished = True
        self._delivered += [chunk.text for chunk in chunks]

    async def _move(self, cut: MongarsError) -> None:
        """Go on with the next target, or raise why the answer ends here."""
        delivered = "".join(self._delivered)
        if self._reopen is not None and self._moves < MAX_FAILOVERS and not self._finished:
            self._moves += 1
            await self._stack.aclose()  # whoever failed hears of it before anybody else is asked
            self._stack = AsyncExitStack()
            found = await self._reopen(delivered, self.origin, self._stack)
            if found is not None:
                self._current, self._route = found.stream, found.route
                self._to_repeat = found.known
                return
        self._failed = True
        raise GenerationInterrupted(str(cut)) from cut

    def _undelivered(self, chunk: Chunk) -> Chunk | None:
        """The chunk without what was delivered already; None if nothing is left of it."""
        if not self._to_repeat:
            return chunk
        known = min(len(chunk.text), len(self._to_repeat))
        if chunk.text[:known] != self._to_repeat[:known]:
            detail = "The answer begun anew is another one."
            raise Diverged(detail)
        self._to_repeat = self._to_repeat[known:]
        if self._to_repeat and chunk.finish_reason is not None:
            detail = "The answer begun anew is shorter than what was delivered."
            raise Diverged(detail)
        rest = chunk.text[known:]
        if rest or chunk.finish_reason is not None or chunk.usage is not None:
            # The event it came in holds the whole text, and log-probabilities cannot be split.
            return replace(chunk, text=rest, raw=b"", logprobs=() if known else chunk.logprobs)
        return None
