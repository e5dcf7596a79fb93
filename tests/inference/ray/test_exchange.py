"""`HttpExchange`: requests to Ray endpoints other than generation, under the same rules."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import DeadlineExceeded, EndpointUnreachable, InvalidRequest
from mongars.core.generation import GenerationRequest, PartialAnswer, Sampling
from mongars.inference.config import InferenceConfig
from mongars.inference.endpoints.route_url import route_url
from mongars.inference.events import (
    AttemptSkipped,
    AttemptStarted,
    AttemptSucceeded,
    EndpointChanged,
    ScalingSeen,
)
from mongars.inference.http.http_pool import HttpPool
from mongars.inference.provider import Attempts
from mongars.inference.ray.client import RayClient
from mongars.inference.ray.generation_exchange import GenerationExchange
from mongars.inference.ray.http_exchange import ExchangeContext, HttpExchange
from mongars.protocol.body import encode, json_object
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, Reset, Silence, Status
from mongars.testing.inference import question
from mongars.testing.manual_clock import ManualClock
from mongars.testing.recording import RecordingObserver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from mongars.inference.http.http_pool import UpstreamResponse
    from mongars.inference.provider import StreamState

ROUTE = "/v1/word_counts"
BUSY = Status(code=503, error="overloaded", headers={"retry-after": "30"})


class CountingReplica(FakeReplica):
    """A fake replica whose faults also apply to the route `/v1/word_counts`."""

    def add_routes(self, app: web.Application) -> None:
        super().add_routes(app)
        app.router.add_post(ROUTE, self._generate)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordCount:
    """The result of an exchange, complete when received."""

    words: int
    state: StreamState = "complete"
    stalled: bool = False
    adapter_version: str | None = None


class WordCountExchange(HttpExchange[WordCount]):
    """Requests a number of words from the route `/v1/word_counts`."""

    path = ROUTE
    start_seconds = 0.5

    def body(self) -> bytes:
        return encode({"count": True})

    async def read(self, response: UpstreamResponse) -> WordCount:
        return WordCount(words=len(json_object(await response.body())["content"].split()))


class WordCountRetry(WordCountExchange):
    """The same as a retry of an earlier request, as the continuation of a broken answer is."""

    is_retry = True


class Counting:
    """A Ray client that runs exchanges which count words."""

    def __init__(self, config: InferenceConfig, http: HttpPool) -> None:
        self.clock = SystemClock()
        self.observer = RecordingObserver()
        self.attempts = Attempts(self.clock)
        self._context = ExchangeContext(config=config, http=http, clock=self.clock)
        self.client = RayClient(
            config, http, clock=self.clock, observer=self.observer, random=lambda: 0.5
        )

    async def count(self, *, seconds: float = 10.0, retry: bool = False) -> int:
        """The number of words, by one exchange with all its attempts within `seconds`.

        `retry`: the request is itself a retry of an earlier one.
        """
        deadline = Deadline.after(self.clock, seconds)
        kind = WordCountRetry if retry else WordCountExchange
        exchange = kind(
            self._context,
            request_id="req-1",
            task_type="counting",
            deadline=deadline,
            attempts=self.attempts,
        )
        async with AsyncExitStack() as stack:
            found = await self.client.start(
                exchange, stack, deadline=deadline, attempts=self.attempts
            )
            return found.result.words

    async def states(self) -> list[str]:
        return [endpoint.state for endpoint in await self.client.statuses()]


@asynccontextmanager
async def counting(*urls: str, **settings: object) -> AsyncIterator[Counting]:
    config = InferenceConfig(endpoints=urls, use_ray=True, **settings)
    http = HttpPool(config)
    try:
        yield Counting(config, http)
    finally:
        await http.aclose()


async def test_a_busy_endpoint_is_passed_over_and_its_retry_after_is_obeyed() -> None:
    """After a 503 with `Retry-After: 30` the other endpoint answers, and the first gets no further request."""
    async with (
        CountingReplica(BUSY) as first,
        CountingReplica() as second,
        counting(first.url, second.url) as it,
    ):
        assert [await it.count() for _ in range(3)] == [len(TEXT.split())] * 3
        assert (len(first.received), len(second.received)) == (1, 3)
        assert all(one.body == {"count": True} for one in first.received + second.received)
        assert await it.states() == ["resting", "up"]
        assert len(it.observer.of(ScalingSeen)) == 1
        assert {event.path for event in it.observer.of(AttemptStarted)} == {ROUTE}
        assert len(it.observer.of(AttemptSucceeded)) == 3


async def test_failures_of_any_exchange_open_the_breaker() -> None:
    """An endpoint that resets five requests in a row gets no further ones, and is reported as down."""
    async with CountingReplica() as replica, counting(replica.url, max_scale_cycles=1) as it:
        replica.always = Reset()
        for _ in range(5):
            with pytest.raises(EndpointUnreachable):
                await it.count()
        assert len(replica.received) == 5
        with pytest.raises(EndpointUnreachable, match="known to be down"):
            await it.count()
        assert len(replica.received) == 5
        assert [event.state for event in it.observer.of(EndpointChanged)] == ["down"]


async def test_an_endpoint_that_does_not_respond_in_time_gets_no_further_requests() -> None:
    """If an endpoint exceeds `start_seconds`, the request fails and the next one uses another endpoint."""
    async with (
        CountingReplica(Silence(seconds=60)) as silent,
        CountingReplica() as healthy,
        counting(silent.url, healthy.url) as it,
    ):
        with pytest.raises(DeadlineExceeded):
            await it.count()
        assert await it.count() == len(TEXT.split())
        assert (len(silent.received), len(healthy.received)) == (1, 1)


async def test_the_deadline_bounds_all_attempts() -> None:
    """A request with a deadline of 0.3 s fails within 1 s, though the exchange allows 0.5 s per attempt."""
    async with CountingReplica(Silence(seconds=60)) as silent, counting(silent.url) as it:
        async with asyncio.timeout(1.0):
            with pytest.raises(DeadlineExceeded):
                await it.count(seconds=0.3)


async def test_a_spent_retry_budget_is_reported_as_such() -> None:
    """A retry above the retry budget is not sent; the error names the budget, and no endpoint counts as down."""
    async with CountingReplica() as replica, counting(replica.url) as it:
        for _ in range(30):
            await it.count(retry=True)
        with pytest.raises(EndpointUnreachable, match="retry budget is spent"):
            await it.count(retry=True)
        assert len(replica.received) == 30
        assert await it.states() == ["up"]
        assert it.observer.of(AttemptSkipped) == []
        assert await it.count() == len(TEXT.split())


async def test_a_wrong_request_is_not_retried() -> None:
    """A 400 from an endpoint is raised as the client's error after one attempt."""
    refusal = Status(code=400, error="invalid_request", detail="count what?")
    async with (
        CountingReplica(refusal) as first,
        CountingReplica() as second,
        counting(first.url, second.url) as it,
    ):
        with pytest.raises(InvalidRequest, match="count what"):
            await it.count()
        assert len(first.received) + len(second.received) == 1


@pytest.mark.parametrize(
    ("endpoint", "path", "expected"),
    [
        ("http://ray:8000/generate", "/v1/embeddings", "http://ray:8000/v1/embeddings"),
        ("https://ray/app/generate", "/readyz", "https://ray/app/readyz"),
        ("http://ray:8000/generate/", "/readyz", "http://ray:8000/readyz"),
        ("http://user:pw@ray/generate?x=1", "/readyz", "http://user:pw@ray/readyz"),
    ],
)
def test_other_routes_are_derived_from_the_base_of_the_endpoint(
    endpoint: str, path: str, expected: str
) -> None:
    """URLs of other routes replace `/generate` at the end of the endpoint's URL."""
    assert route_url(endpoint, path) == expected


def generation(request: GenerationRequest) -> GenerationExchange:
    clock = ManualClock()
    config = InferenceConfig(endpoints=(), use_ray=True)
    return GenerationExchange(
        ExchangeContext(config=config, http=HttpPool(config), clock=clock),
        request,
        deadline=Deadline.after(clock, 60),
        attempts=Attempts(clock),
    )


def test_a_generation_is_sent_to_the_configured_url_itself() -> None:
    """A generation is sent to the configured URL, whatever its path."""
    url = "http://proxy/models/chat"
    assert generation(question()).target(url) == url


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": Sampling(n=2)},
        {"continue_from": PartialAnswer(text="So", model="m", adapter_version="v1")},
    ],
    ids=["several choices", "continuation"],
)
def test_expensive_requests_are_never_hedged(changes: dict[str, object]) -> None:
    """A request for several choices, or a continuation, is never hedged."""
    assert generation(question()).may_hedge
    assert not generation(dataclasses.replace(question(), **changes)).may_hedge
