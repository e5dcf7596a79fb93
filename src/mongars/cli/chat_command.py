"""`mongars chat`: a streamed conversation in the terminal; after each answer, its provider, adapter and speed."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import orjson

from mongars.cli.exit_codes import complain
from mongars.core.errors import InvalidAnswer, MongarsError
from mongars.core.ids import new_id
from mongars.protocol import headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from mongars.cli.api_client import ApiClient
    from mongars.core.clock import Clock

PATH = "/api/v1/conversation/chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """The complete answer to one message of a chat, and how it was generated.

    `provider` is the source of the answer, such as `ray_serve`; `adapter` the LoRA adapter's version, `baseline` for
    none (both `?` if the API did not name them); `fallback`: a preferred provider failed. `tokens` is the number of
    generated tokens, None if the API reported none; `seconds` the time from the first piece of text to the end of the
    stream.
    """

    text: str
    provider: str
    adapter: str
    fallback: bool
    tokens: int | None
    seconds: float

    def summary(self) -> str:
        """One line of text for display: provider, adapter and, if known, number of tokens and tokens per second."""
        parts = [self.provider + (" (fallback)" if self.fallback else ""), self.adapter]
        if self.tokens is not None:
            parts.append(f"{self.tokens} tokens")
            if self.seconds > 0:
                parts.append(f"{(self.tokens - 1) / self.seconds:.0f} tokens/s")
        return " · ".join(parts)


def _ignored(_: str) -> None:
    """Ignore a piece of the model's reasoning: the default of `on_reasoning`."""


class ChatSession:
    """One conversation with the model over the API: all its messages are sent with the same session id."""

    def __init__(self, client: ApiClient, *, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._session_id = new_id("chat")

    async def say(
        self,
        message: str,
        on_text: Callable[[str], None],
        on_reasoning: Callable[[str], None] = _ignored,
    ) -> TurnResult:
        """Send a message, and return the complete answer.

        Calls `on_text` with each piece of the answer and `on_reasoning` with each piece of the model's reasoning, as
        they arrive. Raises `EndpointUnreachable` without a response, the error that the API reports, and
        `InvalidAnswer` or `GenerationInterrupted` if the stream ends before the answer is complete.
        """
        body = {"message": message, "session_id": self._session_id, "stream": True}
        first = last = self._clock.monotonic()
        complete: dict[str, Any] | None = None
        texts: list[str] = []
        async with self._client.stream(PATH, body) as answer:
            async for event in answer.events:
                last = self._clock.monotonic()
                if event.name == "complete":
                    complete = orjson.loads(event.data)
                elif event.name == "reasoning":
                    on_reasoning(orjson.loads(event.data)["delta"])
                elif event.name == "chunk":
                    first = first if texts else last
                    texts.append(orjson.loads(event.data)["delta"])
                    on_text(texts[-1])
            found = answer.headers
        if complete is None:
            detail = "The answer was cut off before it was complete."
            raise InvalidAnswer(detail)
        usage = complete.get("usage") or {}
        return TurnResult(
            text="".join(texts),
            provider=found.get(headers.PROVIDER, "?"),
            adapter=found.get(headers.ADAPTER_VERSION, "?"),
            fallback=found.get(headers.FALLBACK) == "true",
            tokens=usage.get("completion_tokens"),
            seconds=last - first,
        )


def once(session: ChatSession, message: str, *, console: Console, as_json: bool) -> None:
    """Send one message and print the answer while it arrives, then a line about it on `console`.

    `as_json`: print only the `TurnResult`, as one JSON object on standard output, when the answer is complete. Raises
    `EndpointUnreachable` without a response, and another `MongarsError` if the answer fails.
    """
    if as_json:
        result = asyncio.run(session.say(message, lambda _: None))
        print(json.dumps(asdict(result)))
        return
    _show(asyncio.run(session.say(message, _write, _dim(console))), console)


def converse(session: ChatSession, *, console: Console) -> None:
    """Read messages from standard input and print the answers, until the input ends.

    Ctrl-C stops the current answer, or ends the conversation if there is none. Errors of the API are printed.
    """
    console.print("Ctrl-C stops an answer, Ctrl-D ends the chat.", style="dim")
    while True:
        try:
            message = input("\nyou> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if message.strip():
            _turn(session, message, console)


def _turn(session: ChatSession, message: str, console: Console) -> None:
    # One event loop per answer: Ctrl-C ends this answer only, and during input there is no loop whose
    # handler could swallow the signal.
    try:
        _show(asyncio.run(session.say(message, _write, _dim(console))), console)
    except KeyboardInterrupt:
        print()
        console.print("stopped", style="dim")
    except MongarsError as error:
        print()
        complain(error)


def _show(result: TurnResult, console: Console) -> None:
    print()
    console.print(result.summary(), style="dim", highlight=False)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _dim(console: Console) -> Callable[[str], None]:
    def write(text: str) -> None:
        console.print(text, style="dim", end="", markup=False, highlight=False, soft_wrap=True)

    return write
