"""Concurrent requests, streamed and whole, to several endpoints; every answer is checked to its last word."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import orjson

from mongars.core.clock import SystemClock
from mongars.core.errors import GenerationInterrupted, MongarsError
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.core.ids import new_id
from mongars.protocol.headers import REPLICA_ID
from mongars.protocol.sse import EventSplitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mongars.inference.integration import LLMIntegration

CLOCK = SystemClock()
WORDS = 20
PROMPT = " ".join(f"w{number}" for number in range(WORDS))
ANSWER = f"[1] you said: {PROMPT}"
CLIENTS_PER_ENDPOINT = 2


@dataclass(kw_only=True)
class Sent:
    """One request: its endpoint, its times in seconds (monotonic), and its result."""

    endpoint: str
    stream: bool
    began: float
    ended: float = 0.0
    replica: str | None = None
    failure: str | None = None
    """The reason of a failure; None for an answer that is complete to its last word."""


@dataclass
class Load:
    """The requests that have ended so far."""

    sent: list[Sent] = field(default_factory=list)

    @property
    def failed(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.failure]

    @property
    def answered(self) -> int:
        return len(self.sent) - len(self.failed)

    def describe(self) -> str:
        reasons = Counter(sent.failure for sent in self.failed)
        kinds = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        return f"{len(self.failed)} of {len(self.sent)} requests failed" + (
            f" ({kinds})" if kinds else ""
        )

    async def more(self, count: int, *, within: float = 30) -> None:
        """Wait until `count` more requests were answered, for at most `within` seconds."""
        wanted = self.answered + count
        async with asyncio.timeout(within):
            while self.answered < wanted:
                await CLOCK.sleep(0.05)


@asynccontextmanager
async def load(endpoints: Sequence[str]) -> AsyncIterator[Load]:
    """Send requests to every endpoint while the block runs; at its end, wait for the last answers."""
    found = Load()
    stopped = asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=40)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=connector) as http,
        asyncio.TaskGroup() as group,
    ):
        for number, endpoint in enumerate(itertools.chain(*[endpoints] * CLIENTS_PER_ENDPOINT)):
            group.create_task(_client(http, endpoint, number, found=found, stopped=stopped))
        try:
            yield found
        finally:
            stopped.set()


async def _client(
    http: aiohttp.ClientSession, endpoint: str, number: int, *, found: Load, stopped: asyncio.Event
) -> None:
    for turn in itertools.count(number):
        if stopped.is_set():
            return
        sent = await ask(http, endpoint, stream=turn % 2 == 0)
        found.sent.append(sent)
        if sent.failure:
            await CLOCK.sleep(0.5)


async def ask(http: aiohttp.ClientSession, endpoint: str, *, stream: bool) -> Sent:
    """Send one request and check its answer."""
    sent = Sent(endpoint=endpoint, stream=stream, began=CLOCK.monotonic())
    body = {"prompt": PROMPT, "stream": stream, "max_tokens": 4 * WORDS}
    try:
        async with http.post(endpoint + "/generate", json=body) as response:
            sent.replica = response.headers.get(REPLICA_ID)
            if response.status != 200:
                sent.failure = f"status {response.status}"
            elif stream:
                sent.failure = await _judge(response)
            elif (await response.json())["content"] != ANSWER:
                sent.failure = "WRONG ANSWER"
    except TimeoutError:
        sent.failure = "timeout"
    except aiohttp.ClientConnectorError:
        sent.failure = "not connected"
    except aiohttp.ClientError:
        sent.failure = "broken connection"
    sent.ended = CLOCK.monotonic()
    return sent


async def _judge(response: aiohttp.ClientResponse) -> str | None:
    """The reason why a stream that HTTP ended properly is wrong; None if it is right."""
    events = EventSplitter().feed(await response.read())
    if any(event.name == "error" for event in events):
        return "error event"
    chunks = [orjson.loads(event.data) for event in events if not event.is_done]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    finished = any(choice.get("finish_reason") for choice in choices)
    if not finished or not events[-1].is_done:
        return "SILENTLY CUT"
    said = "".join(choice["delta"].get("content") or "" for choice in choices)
    return None if said == ANSWER else "WRONG ANSWER"


@dataclass
class Cut:
    """An answer that was interrupted with an error."""

    endpoint: str
    began: float


@dataclass
class Asked:
    """Requests through `LLMIntegration`, whose answers are checked to the last word."""

    llm: LLMIntegration
    answered: Counter[str] = field(default_factory=Counter)
    """Complete answers per endpoint."""
    cut: list[Cut] = field(default_factory=list)
    refused: list[MongarsError] = field(default_factory=list)
    """The errors of requests whose answers did not begin."""
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep_asking(self) -> None:
        while not self.stopped.is_set():
            await self._ask()

    async def more(self, count: int, *, within: float = 30) -> None:
        """Wait until `count` more answers were complete, for at most `within` seconds."""
        wanted = self.answered.total() + count
        async with asyncio.timeout(within):
            while self.answered.total() < wanted:
                await CLOCK.sleep(0.05)

    async def endpoints(self) -> dict[str, str]:
        """The state of each endpoint by its URL, as the integration reports it."""
        found = [endpoint for part in await self.llm.status() for endpoint in part.endpoints]
        return {endpoint.url: endpoint.state for endpoint in found}

    def describe(self) -> str:
        per_endpoint = ", ".join(f"{n} by {name}" for name, n in self.answered.items())
        return f"{per_endpoint}; {len(self.cut)} cut, {len(self.refused)} refused"

    async def _ask(self) -> None:
        request = GenerationRequest(
            messages=(Message(role="user", content=PROMPT),),
            request_id=new_id("req"),
            sampling=Sampling(max_tokens=4 * WORDS),
        )
        endpoint, began = "", CLOCK.monotonic()
        try:
            async with self.llm.open(request) as answer:
                endpoint = answer.route.endpoint
                text = "".join([chunk.text async for chunk in answer])
        except GenerationInterrupted:
            self.cut.append(Cut(endpoint, began))
        except MongarsError as error:
            self.refused.append(error)
        else:
            assert text == ANSWER
            self.answered[endpoint] += 1
