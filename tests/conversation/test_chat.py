from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from chat_fakes import USAGE, WHOLE, ListHistory, ScriptedGenerator, Spoken, SteppingClock

from mongars.conversation.chat import Chat, ChatConfig
from mongars.conversation.history import History, NewTurn
from mongars.core.errors import (
    ContextLengthExceeded,
    GenerationInterrupted,
    NotReady,
    PromptMissing,
    StorageUnavailable,
)
from mongars.core.generation import Chunk, GenerationRequest, Message
from mongars.core.identity import Principal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

ADA = Principal(username="ada")


def chat(history: History, generator: ScriptedGenerator, **config: object) -> Chat:
    """The chat use case with that history, generator and configuration."""
    return Chat(history, generator, clock=SteppingClock(), config=ChatConfig(**config))


async def say(chat: Chat, message: str, session: str = "s") -> str:
    """Send a message, read the whole answer, and return its text."""
    async with chat.open(ADA, message, request_id="req-1", session_id=session) as reply:
        async for _ in reply:
            pass
        return reply.text


async def test_a_complete_answer_is_remembered_in_the_persons_own_words() -> None:
    """The stored turn has the message as typed and the answer, not the assembled prompt."""
    history, generator = ListHistory(), ScriptedGenerator()
    talk = chat(history, generator, system_prompt="Be kind.")
    assert await say(talk, " Hi! ", session="s") == "Hello"
    (stored,) = history.turns
    assert (stored.user_id, stored.query, stored.response) == ("ada", " Hi! ", "Hello")
    assert stored.session_id == "s"
    assert generator.asked[0].messages == (
        Message(role="system", content="Be kind."),
        Message(role="user", content=" Hi! "),
    )
    assert (generator.asked[0].request_id, generator.asked[0].session_id) == ("req-1", "s")
    assert generator.asked[0].sampling.max_tokens is None


async def test_the_longest_answer_is_the_operators_choice() -> None:
    """A configured `max_tokens` is sent to the model."""
    generator = ScriptedGenerator()
    await say(chat(ListHistory(), generator, max_tokens=40), "Hi")
    assert generator.asked[0].sampling.max_tokens == 40


async def test_what_was_said_before_reaches_the_model() -> None:
    """Earlier turns of the session, not of other sessions, are sent to the model before the new message, in order."""
    history, generator = ListHistory(), ScriptedGenerator()
    talk = chat(history, generator)
    await say(talk, "one", session="s")
    await say(talk, "elsewhere", session="t")
    await say(talk, "two", session="s")
    assert [(m.role, m.content) for m in generator.asked[-1].messages] == [
        ("user", "one"),
        ("assistant", "Hello"),
        ("user", "two"),
    ]


async def test_a_reply_tells_where_it_comes_from() -> None:
    """A reply has origin, route, usage, finish reason, processing time and, at its end, the stored turn."""
    talk = chat(ListHistory(), ScriptedGenerator())
    async with talk.open(ADA, "Hi", request_id="r") as reply:
        assert (reply.origin.engine, reply.route.provider) == ("e", "ray_serve")
        assert reply.turn is None
        assert reply.processing_time == 1.0
        chunks = [chunk async for chunk in reply]
    assert chunks == list(WHOLE)
    assert (reply.finish_reason, reply.usage) == ("stop", USAGE)
    assert reply.turn is not None
    assert reply.processing_time == reply.processing_time == 2.0


async def test_a_turn_is_stored_once() -> None:
    """Iterating a reply again after its end yields no chunk and stores no second turn."""
    history = ListHistory()
    async with chat(history, ScriptedGenerator()).open(ADA, "Hi", request_id="r") as reply:
        assert len([chunk async for chunk in reply]) == 4
        assert [chunk async for chunk in reply] == []
    assert len(history.turns) == 1


@pytest.mark.parametrize(
    "error",
    [GenerationInterrupted(), asyncio.CancelledError()],
    ids=["interrupted", "cancelled"],
)
@pytest.mark.parametrize("chunks", [WHOLE[:1], WHOLE], ids=["halfway", "after the finish"])
async def test_a_cut_answer_is_not_stored(error: BaseException, chunks: Sequence[Chunk]) -> None:
    """An error or cancellation while streaming reaches the caller, and nothing is stored, even on a later read."""
    history, generator = ListHistory(), ScriptedGenerator(chunks, error=error)
    async with chat(history, generator).open(ADA, "Hi", request_id="r") as reply:
        with pytest.raises(type(error)):
            [chunk async for chunk in reply]
        assert [chunk async for chunk in reply] == []
    assert history.turns == []
    assert generator.open_now == 0


async def test_an_answer_without_a_finish_is_cut() -> None:
    """A stream that ends without a finish reason raises `GenerationInterrupted` and is not stored."""
    history = ListHistory()
    with pytest.raises(GenerationInterrupted, match="finish reason"):
        await say(chat(history, ScriptedGenerator(WHOLE[:2])), "Hi")
    assert history.turns == []


async def test_an_abandoned_answer_is_not_stored() -> None:
    """A reply that is abandoned before its end closes the stream and stores nothing, even if all text had come."""
    history, generator = ListHistory(), ScriptedGenerator()
    async with chat(history, generator).open(ADA, "Hi", request_id="r") as reply:
        async for chunk in reply:
            if chunk.finish_reason:
                break
    assert history.turns == []
    assert generator.open_now == 0


async def test_a_refused_question_is_an_error() -> None:
    """An error that the generator raises on opening reaches the caller unchanged."""
    history, refusal = ListHistory(), NotReady("starting", retry_after=3)
    with pytest.raises(NotReady) as caught:
        await say(chat(history, ScriptedGenerator(refusal=refusal)), "Hi")
    assert caught.value is refusal
    assert history.turns == []


@pytest.mark.parametrize("message", ["", " \n\t"])
async def test_a_blank_message_is_refused(message: str) -> None:
    """A blank message is refused, and no request is sent to the model."""
    generator = ScriptedGenerator()
    with pytest.raises(PromptMissing):
        await say(chat(ListHistory(), generator), message)
    assert generator.asked == []


async def test_an_answer_that_cannot_be_stored_is_an_error() -> None:
    """If the turn cannot be stored, the reply ends with an error."""
    with pytest.raises(StorageUnavailable):
        await say(chat(ListHistory(broken=True), ScriptedGenerator()), "Hi")


async def remember(history: ListHistory, count: int, size: int) -> None:
    """Store `count` turns whose texts have `size` characters each."""
    for number in range(count):
        text = f"{number}" * size
        await history.append(NewTurn(user_id="ada", query=text, response=text, session_id="s"))


async def test_a_refused_prompt_is_tried_again_with_less_history() -> None:
    """A prompt refused as too long is sent again with only the newest turns, as many as the engine's numbers allow."""
    history, generator = ListHistory(), ScriptedGenerator(window=600)
    await remember(history, 9, 40)
    assert await say(chat(history, generator, answer_tokens=100), "Hi") == "Hello"
    first, second = generator.asked
    assert len(first.messages) == 19
    assert 1 < len(second.messages) < 19
    assert second.messages == first.messages[-len(second.messages) :]


async def test_the_last_try_goes_without_history() -> None:
    """If the second prompt is refused as too long as well, the message is sent without history."""

    class UnclosableGenerator(ScriptedGenerator):
        """Refuses every prompt with history as too long, without naming numbers."""

        @asynccontextmanager
        async def open(
            self, request: GenerationRequest, *, deadline: object = None
        ) -> AsyncIterator[Spoken]:
            """Raise `ContextLengthExceeded` for more than one message, else answer."""
            self.asked.append(request)
            if len(request.messages) > 1:
                raise ContextLengthExceeded
            yield self.answer

    history, generator = ListHistory(), UnclosableGenerator()
    await remember(history, 10, 40)
    assert await say(chat(history, generator), "Hi") == "Hello"
    assert [len(request.messages) for request in generator.asked] == [21, 9, 1]
    # Only a request that cannot be shortened further may go to a larger model.
    assert [request.shortens for request in generator.asked] == [True, True, False]


async def test_a_message_that_never_fits_is_an_error() -> None:
    """If the message alone exceeds the context, the engine's refusal reaches the caller."""
    history, generator = ListHistory(), ScriptedGenerator(window=10)
    with pytest.raises(ContextLengthExceeded):
        await say(chat(history, generator), "longer than ten bytes")
    assert len(generator.asked) == 1
    await remember(history, 3, 40)
    with pytest.raises(ContextLengthExceeded) as caught:
        await say(chat(history, generator), "longer than ten bytes")
    assert caught.value.prompt_tokens == len("longer than ten bytes")
    assert len(generator.asked) <= 4


async def test_no_more_turns_are_read_than_allowed() -> None:
    """At most the configured number of earlier turns is sent to the model."""
    history, generator = ListHistory(), ScriptedGenerator()
    await remember(history, 9, 1)
    await say(chat(history, generator, history_turns=2), "Hi")
    assert [m.content for m in generator.asked[0].messages] == ["7", "7", "8", "8", "Hi"]
