from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from ray_harness import name, ray_harness

from mongars.core.clock import SystemClock
from mongars.core.deadline import Deadline
from mongars.core.errors import (
    CallerError,
    ContextLengthExceeded,
    DeadlineExceeded,
    EndpointUnreachable,
    NotReady,
    Overloaded,
    WorldError,
)
from mongars.core.generation import GenerationRequest, Message
from mongars.inference.config import InferenceConfig
from mongars.inference.events import ScalingSeen
from mongars.inference.retry.failures import EmptyAnswer
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, Body, Fault, FaultyResponse, Reset, Silence, Status
from mongars.testing.inference import question
from mongars.testing.manual_clock import ManualClock
from support import eventually

BUSY = Status(code=503, error="overloaded", detail="full")
REFUSED = "http://127.0.0.1:9/generate"
"""A URL that refuses connections: nothing listens on the discard port."""


@pytest.mark.parametrize(
    "first",
    [
        BUSY,
        Status(code=429),
        Status(code=500),
        Status(code=502),
        Status(code=401),
        Status(code=404),
        Status(code=405),
        Reset(),
        FaultyResponse(cut_after=0),
        FaultyResponse(cut_after=0, cut="abort"),
        FaultyResponse(text=""),
        FaultyResponse(malformed_after=0),
        FaultyResponse(error_after=0),
        Body(data=b"{"),
        Body(data=b"[]"),
        Body(data=b'{"content": ""}'),
        Body(data=b'{"error": "not_ready", "detail": "scaling"}'),
        Body(data=b'{"content": "Sorry!", "error": "inference_failed"}'),
    ],
    ids=name,
)
async def test_another_healthy_endpoint_answers_without_any_wait(first: Fault) -> None:
    """After any failure before the first token, the next endpoint is tried at once."""
    clock = ManualClock()
    async with (
        FakeReplica(first) as broken,
        FakeReplica() as healthy,
        ray_harness(broken.url, healthy.url, clock=clock) as ray,
    ):
        assert await ray.ask() == TEXT
        assert clock.slept == []
        assert (len(broken.received), len(healthy.received)) == (1, 1)


async def test_a_refused_connection_costs_no_wait() -> None:
    """An endpoint that refuses connections is skipped without a wait, and is not tried by later requests."""
    clock = ManualClock()
    async with FakeReplica() as healthy, ray_harness(REFUSED, healthy.url, clock=clock) as ray:
        for _ in range(4):
            assert await ray.ask() == TEXT
        assert clock.slept == []
        assert ray.attempts.count == 5


async def test_no_sleep_after_the_last_attempt() -> None:
    """After the last attempt a request fails at once, without a wait."""
    clock = ManualClock()
    async with (
        FakeReplica() as replica,
        ray_harness(replica.url, max_scale_cycles=1, clock=clock) as ray,
    ):
        replica.always = BUSY
        with pytest.raises(Overloaded):
            await ray.ask()
        assert clock.slept == []
        assert len(replica.received) == 1


async def test_a_persistently_busy_endpoint_is_tried_twice_and_then_left_alone() -> None:
    """A busy endpoint is tried twice, as configured; the next request fails without an attempt."""
    async with (
        FakeReplica() as replica,
        ray_harness(replica.url, scaling_backoff=(0.02, 0.04)) as ray,
    ):
        replica.always = BUSY
        with pytest.raises(Overloaded) as refusal:
            await ray.ask()
        assert len(replica.received) == 2
        assert refusal.value.retry_after == pytest.approx(1.0, abs=0.2)
        with pytest.raises(Overloaded):
            await ray.ask()
        assert len(replica.received) == 2
        assert [event.status_code for event in ray.observer.of(ScalingSeen)] == [503, 503]


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
async def test_retry_after_is_never_shortened(form: str) -> None:
    """The second attempt is sent after `Retry-After`, not earlier."""
    now = datetime.now(UTC)
    asked = {
        "seconds": {"Retry-After": "0.3"},
        "milliseconds": {"retry-after-ms": "300"},
        "date": {
            "Date": format_datetime(now, usegmt=True),
            "Retry-After": format_datetime(now + timedelta(seconds=1), usegmt=True),
        },
    }[form]
    async with (
        FakeReplica(Status(code=429, headers=asked)) as replica,
        ray_harness(replica.url) as ray,
    ):
        assert await ray.ask() == TEXT
    first, second = replica.received
    assert second.at - first.at >= (1.0 if form == "date" else 0.3)
    assert second.at - first.at < 3


@pytest.mark.parametrize("patience", ["3600", "Fri, 31 Dec 2077 23:59:59 GMT"])
async def test_a_retry_after_beyond_the_time_left_is_not_waited_for(patience: str) -> None:
    """A `Retry-After` beyond the deadline fails the request at once; error and status give a wait of 60 s."""
    clock = ManualClock()
    async with (
        FakeReplica(Status(code=503, headers={"Retry-After": patience})) as replica,
        ray_harness(replica.url, clock=clock) as ray,
    ):
        with pytest.raises(Overloaded) as refusal:
            await ray.ask()
        assert refusal.value.retry_after == pytest.approx(60.0)
        assert clock.slept == []
        (endpoint,) = await ray.endpoints()
        assert endpoint.state == "resting"
        assert endpoint.opens_in == pytest.approx(60.0)
        status = await ray.provider.status()
        assert (status.state, status.detail) == (
            "resting",
            "0 of 1 endpoints up, 1 resting (returned Retry-After), again in 60 s",
        )


async def test_one_request_tests_an_endpoint_after_a_long_wait() -> None:
    """When an endpoint's wait ends, one trial request is sent; after its answer, the endpoint is up."""
    clock = ManualClock()
    busy = Status(code=503, headers={"Retry-After": "86400"})
    async with (
        FakeReplica(busy, FaultyResponse(first_delay=0.5)) as replica,
        ray_harness(replica.url, clock=clock) as ray,
    ):
        with pytest.raises(Overloaded):
            await ray.ask()
        await clock.advance(45)
        with pytest.raises(Overloaded):
            await ray.ask()
        assert len(replica.received) == 1
        await clock.advance(16)
        async with asyncio.TaskGroup() as group:
            test = group.create_task(ray.ask())
            await eventually(lambda: len(replica.received) == 2)
            with pytest.raises(WorldError):
                await ray.ask()
            assert len(replica.received) == 2
            assert [endpoint.state for endpoint in await ray.endpoints()] == ["probing"]
        assert test.result() == TEXT
        assert [endpoint.state for endpoint in await ray.endpoints()] == ["up"]


async def test_409_means_not_ready() -> None:
    """A 409 from a replica that is still loading becomes `NotReady`."""
    async with (
        FakeReplica(Status(code=409, error="not_ready", headers={"Retry-After": "60"})) as replica,
        ray_harness(replica.url) as ray,
    ):
        with pytest.raises(NotReady):
            await ray.ask()


@pytest.mark.parametrize(
    "fault",
    [Silence(), FaultyResponse(first_delay=5.0), FaultyResponse(first_delay=5.0, keepalives=True)],
    ids=name,
)
async def test_silence_is_given_up_in_time_and_remembered(fault: Fault) -> None:
    """An attempt without content ends after `RAY_CLIENT_TIMEOUT`; keep-alives do not count as content.

    The next request does not try that endpoint.
    """
    clock = SystemClock()
    async with FakeReplica(fault) as replica, ray_harness(replica.url, timeout=0.2) as ray:
        start = clock.monotonic()
        with pytest.raises(DeadlineExceeded):
            await ray.ask()
        assert 0.2 <= clock.monotonic() - start < 1.0
        with pytest.raises(EndpointUnreachable):
            await ray.ask()
        assert len(replica.received) == 1


async def test_a_short_deadline_leaves_time_for_the_local_tier() -> None:
    """Of a deadline of 900 ms Ray may use two thirds, and the timeout does not count as an endpoint's failure."""
    clock = SystemClock()
    async with (
        FakeReplica(FaultyResponse(first_delay=5.0)) as replica,
        ray_harness(replica.url) as ray,
    ):
        start = clock.monotonic()
        with pytest.raises(DeadlineExceeded):
            await ray.ask(seconds=0.9)
        assert 0.55 < clock.monotonic() - start < 0.89
        assert await ray.ask() == TEXT


def test_long_prompts_are_given_more_time() -> None:
    """The time allowed for the first token grows with the length of the prompt."""
    long = GenerationRequest(
        messages=(Message(role="user", content="x" * 30_000),), request_id="req-1"
    )
    config = InferenceConfig(endpoints=(), use_ray=False)
    assert config.first_token_seconds(question("Hi")) == pytest.approx(10.0, abs=0.1)
    assert config.first_token_seconds(long) == 110.0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(code=400, error="prompt_missing"), CallerError),
        (Status(code=400, error="context_length_exceeded"), ContextLengthExceeded),
        (
            Status(code=400, body={"error": {"code": "content_policy", "message": "no"}}),
            CallerError,
        ),
        (Status(code=413, error="too_large"), CallerError),
        (Status(code=422, body={"detail": []}), CallerError),
        (Body(data=b'{"error": "prompt_missing", "content": ""}'), CallerError),
    ],
    ids=name,
)
async def test_client_errors_are_not_retried(fault: Fault, error: type[Exception]) -> None:
    """A client error is raised after one attempt, without a failure of the endpoint."""
    async with (
        FakeReplica() as first,
        FakeReplica() as second,
        ray_harness(first.url, second.url) as ray,
    ):
        first.always = second.always = fault
        for _ in range(5):
            with pytest.raises(error):
                await ray.ask()
        assert len(first.received) + len(second.received) == 5
        first.always = second.always = FaultyResponse()
        assert await ray.ask() == TEXT


async def test_a_wrong_token_of_ours_is_not_shown_as_the_clients() -> None:
    """A 401 from an endpoint is reported as our misconfiguration, not as the client's error."""
    async with FakeReplica(Status(code=401)) as replica, ray_harness(replica.url) as ray:
        with pytest.raises(WorldError, match="misconfigured"):
            await ray.ask()


async def test_known_outages_cost_nothing() -> None:
    """With all endpoints known to be down, requests fail at once and nothing is sent."""
    async with ray_harness(REFUSED, "http://127.0.0.1:7/generate") as ray:
        with pytest.raises(EndpointUnreachable):
            await ray.ask()
        for _ in range(50):
            with pytest.raises(EndpointUnreachable):
                await ray.ask()
        assert ray.attempts.count == 2


async def test_one_request_that_always_fails_does_not_take_the_endpoints_down() -> None:
    """Two requests that get 500 from all endpoints do not take the endpoints down."""
    poison = Status(code=500, error="inference_failed")
    async with (
        FakeReplica() as first,
        FakeReplica() as second,
        ray_harness(first.url, second.url, scaling_backoff=(0.01,)) as ray,
    ):
        first.always = second.always = poison
        for _ in range(2):
            with pytest.raises(WorldError):
                await ray.ask()
        assert ray.attempts.count == 8
        assert {endpoint.state for endpoint in await ray.endpoints()} == {"up"}


async def test_failures_do_not_leak_requests_in_flight() -> None:
    """After any kind of failure, no request counts as in progress."""
    faults = (
        BUSY,
        Reset(),
        FaultyResponse(cut_after=3),
        Status(code=400),
        FaultyResponse(text=""),
        FaultyResponse(),
    )
    async with (
        FakeReplica(*faults) as replica,
        ray_harness(replica.url, scaling_backoff=(0.01,)) as ray,
    ):
        for _ in range(4):
            try:
                await ray.ask()
            except (WorldError, CallerError):
                continue
        assert [endpoint.in_flight for endpoint in await ray.endpoints()] == [0]


async def test_an_expired_deadline_sends_nothing() -> None:
    """No request is sent after its deadline."""
    async with FakeReplica() as replica, ray_harness(replica.url) as ray:
        deadline = Deadline.after(ray.clock, 0)
        with pytest.raises(DeadlineExceeded):
            async with ray.provider.open(question(), deadline, ray.attempts):
                pass
        assert replica.received == []


async def test_a_complete_answer_without_text_is_an_answer() -> None:
    """A complete answer of white space only is returned, without a failure of the endpoint."""
    async with (
        FakeReplica(*[FaultyResponse(text="  ")] * 4) as replica,
        ray_harness(replica.url, clock=ManualClock()) as ray,
    ):
        assert [await ray.ask() for _ in range(4)] == ["  "] * 4


async def test_an_empty_answer_is_reported() -> None:
    """An answer without tokens raises `EmptyAnswer`."""
    async with FakeReplica(FaultyResponse(text="")) as replica, ray_harness(replica.url) as ray:
        with pytest.raises(EmptyAnswer):
            await ray.ask()
