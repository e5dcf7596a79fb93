"""`FairQueue`: how accounts share places: by weight, in order, within bounds."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mongars.core.clock import SystemClock
from mongars.core.fair_queue import (
    MOST_REMEMBERED,
    RESERVE_SECONDS,
    FairQueue,
    QueueFull,
    Share,
)
from mongars.testing.manual_clock import ManualClock

A, B, C = (Share(scope=name) for name in "ABC")


class Bench:
    """A queue with its clock; records which accounts were served, in order, and which were refused."""

    def __init__(self, places: float, *, most_waiting: int = 10_000, soft: bool = False) -> None:
        self.clock = ManualClock()
        self.places = places
        self.queue = FairQueue(lambda: self.places, most_waiting=most_waiting, soft=soft)
        self.order: list[str | None] = []
        self.names: list[str] = []
        self.began: list[tuple[str | None, float]] = []
        self.refused: list[str | None] = []

    async def work(
        self, share: Share, seconds: float, *, bounded: bool = True, name: str = ""
    ) -> None:
        now = self.clock.monotonic
        try:
            await self.queue.acquire(share, now, seconds=1000, bounded=bounded)
        except QueueFull:
            self.refused.append(share.scope)
            return
        self.order.append(share.scope)
        self.names.append(name)
        self.began.append((share.scope, now()))
        try:
            await self.clock.sleep(seconds)
        finally:
            self.queue.release(share.scope, now())

    async def pass_seconds(self, count: int) -> None:
        """Advance second by second, so that a request that ends makes room in the next second."""
        for _ in range(count):
            await self.clock.advance(1)

    @property
    def is_empty(self) -> bool:
        queue = self.queue
        return (queue.active, queue.waiting, queue._bounded, queue._holders) == (
            0,
            0,
            0,
            0,
        ) and not (queue._accounts)


async def test_a_second_account_gets_the_next_place_that_is_given_back() -> None:
    """However many requests of one account wait, another account's request gets the next free place."""
    bench = Bench(4)
    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(bench.work(A, 10))
        await bench.clock.advance(5)
        for _ in range(5):
            asked = bench.clock.monotonic()
            group.create_task(bench.work(B, 1))
            await bench.clock.advance(12)
            began = max(at for scope, at in bench.began if scope == "B")
            assert began - asked <= 10
        await bench.clock.advance(1000)
    assert bench.is_empty


@pytest.mark.parametrize(
    ("places", "ratio", "within"),
    [
        pytest.param(2, 1, 0.02, id="at most one of two each"),
        pytest.param(1, 3, 0.1, id="one"),
    ],
)
async def test_weights_divide_the_places(places: int, ratio: float, within: float) -> None:
    """With one place, an account of weight three is served three times as often as one of weight one.

    With two places, each account always holds one, and both are served equally.
    """
    heavy, light = Share(scope="A", weight=3), Share(scope="B", weight=1)
    bench = Bench(places)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(bench.work(s, 1)) for s in (heavy, light) for _ in range(400)]
        await bench.clock.advance(0)
        await bench.pass_seconds(200)
        served = Counter(bench.order)
        assert served["A"] / served["B"] == pytest.approx(ratio, abs=within)
        for task in tasks:
            task.cancel()
    assert bench.is_empty


async def test_long_answers_cost_more_than_short_ones() -> None:
    """Accounts share time, not numbers of requests: ten times shorter requests are served ten times as often."""
    bench = Bench(1)
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(bench.work(A, 10))
        for _ in range(200):
            group.create_task(bench.work(B, 1))
        await bench.clock.advance(0)
        await bench.pass_seconds(200)
        served = Counter(bench.order)
        assert served["B"] / served["A"] == pytest.approx(10, rel=0.1)
        await bench.pass_seconds(300)
    assert bench.is_empty


async def test_unused_time_is_no_credit() -> None:
    """An account that was idle for a long time gets no more than an equal share afterwards."""
    bench = Bench(2)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(bench.work(A, 1)) for _ in range(2500)]
        group.create_task(bench.work(B, 1))
        await bench.pass_seconds(1000)
        bench.order.clear()
        tasks += [group.create_task(bench.work(B, 1)) for _ in range(1000)]
        await bench.pass_seconds(100)
        served = Counter(bench.order)
        assert abs(served["A"] - served["B"]) <= 4
        for task in tasks:
            task.cancel()
    assert bench.is_empty


async def test_one_account_alone_uses_every_place() -> None:
    bench = Bench(4)
    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(bench.work(A, 1))
        await bench.clock.advance(0)
        assert bench.queue.active == 4
        await bench.clock.advance(1)
        await bench.clock.advance(1)
    assert bench.is_empty


async def test_the_last_place_is_kept_while_others_were_here_lately() -> None:
    """One place stays free for accounts served recently; without such requests, all places are used later."""
    bench = Bench(4)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.work(B, 1))
        await bench.clock.advance(1)
        for _ in range(60):
            group.create_task(bench.work(A, 10))
        await bench.clock.advance(0)
        assert bench.queue.active == 3
        group.create_task(bench.work(B, 1))
        await bench.clock.advance(0)
        assert bench.began[-1] == ("B", bench.clock.monotonic())
        await bench.pass_seconds(int(RESERVE_SECONDS) + 11)
        assert bench.queue.active == 4
        await bench.pass_seconds(200)
    assert bench.is_empty


async def test_soft_capacity_admits_one_newcomer_while_one_account_holds_all() -> None:
    """With soft capacity, one request of a second account exceeds the capacity while one account holds all places.

    Further requests wait.
    """
    bench = Bench(4, soft=True)
    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(bench.work(A, 10))
        await bench.clock.advance(0)
        assert bench.queue.active == 4
        bench.places = 2
        for share in (B, B, C):
            group.create_task(bench.work(share, 1))
            await bench.clock.advance(0)
        assert bench.order == ["A"] * 4 + ["B"]
        assert (bench.queue.active, bench.queue.waiting) == (5, 4)
        await bench.pass_seconds(50)
    assert bench.is_empty


async def test_a_request_that_has_begun_goes_on_before_another_begins() -> None:
    """Further choices of an answer are served before other waiting requests of the same account."""
    bench = Bench(1)
    async with asyncio.TaskGroup() as group:
        for name in ("first", "second"):
            group.create_task(bench.work(A, 1, name=name))
        for _ in range(2):
            group.create_task(bench.work(A, 1, bounded=False, name="choice of the first"))
        await bench.pass_seconds(5)
    assert bench.names == ["first", "choice of the first", "choice of the first", "second"]
    assert bench.is_empty


async def test_a_full_queue_makes_way_for_an_account_with_fewer_requests() -> None:
    """A full queue refuses the newest request of the account with the most; choices of started answers stay."""
    bench = Bench(1, most_waiting=4)
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(bench.work(A, 1))
        group.create_task(bench.work(A, 1, bounded=False))
        await bench.clock.advance(0)
        assert (bench.queue.waiting, bench.refused) == (5, [])
        group.create_task(bench.work(A, 1))
        await bench.clock.advance(0)
        assert bench.refused == ["A"]
        for _ in range(3):
            group.create_task(bench.work(B, 1))
        await bench.clock.advance(0)
        assert sorted(bench.refused) == ["A", "A", "A", "B"]
        group.create_task(bench.work(C, 1))
        await bench.clock.advance(0)
        assert bench.queue.waiting == 5
        assert bench.refused[-1] == "A"
        await bench.pass_seconds(8)
    assert bench.is_empty


async def test_a_single_place_to_wait_is_not_fought_over() -> None:
    """With room for one waiting request, the account that was served less keeps it."""
    bench = Bench(1, most_waiting=1)
    async with asyncio.TaskGroup() as group:
        for share in (A, A, B, A, A, B):
            group.create_task(bench.work(share, 5))
            await bench.clock.advance(0.1)
        assert bench.refused == ["A", "A", "A", "B"]
        await bench.clock.advance(5)
        assert bench.order == ["A", "B"]
        await bench.clock.advance(5)
    assert bench.is_empty


async def test_infinite_room_reserves_nothing() -> None:
    bench = Bench(math.inf)
    async with asyncio.TaskGroup() as group:
        for share in (A, B) * 50:
            group.create_task(bench.work(share, 1))
        await bench.clock.advance(0)
        assert (bench.queue.active, bench.queue.waiting) == (100, 0)
        await bench.clock.advance(1)
    assert bench.is_empty


async def test_accounts_that_left_are_forgotten() -> None:
    """Of 5,000 accounts that left while a request runs, only the latest 1,024 are remembered."""
    bench = Bench(2)
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.work(A, 1000))
        await bench.clock.advance(0)
        for number in range(5000):
            share = Share(scope=f"account {number}")
            await bench.queue.acquire(share, bench.clock.monotonic, seconds=1)
            bench.queue.release(share.scope, bench.clock.monotonic())
        assert len(bench.queue._left) == MOST_REMEMBERED
        assert len(bench.queue._accounts) == 1
        await bench.clock.advance(1000)
    assert bench.is_empty
    await bench.work(A, 0)
    assert not bench.queue._left.keys() - {"A"}


STEP = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 3), st.integers(1, 5)),
    st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("places"), st.integers(1, 4), st.just(0)),
)


@given(steps=st.lists(STEP, max_size=60), most_waiting=st.integers(0, 6))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_no_place_leaks_and_every_account_is_served(
    steps: list[tuple[str, int, int]], most_waiting: int
) -> None:
    """After any sequence of requests, cancellations and changes of capacity, no place is lost.

    Requests of one account are served in order.
    """
    asyncio.run(_live(steps, most_waiting))


async def _live(steps: list[tuple[str, int, int]], most_waiting: int) -> None:
    bench = Bench(4, most_waiting=most_waiting)
    queue, clock = bench.queue, bench.clock
    shares = [Share(scope=str(n), weight=w) for n, w in enumerate((1.0, 2.0, 0.5, 1.0))]
    served: dict[int, list[int]] = {n: [] for n in range(4)}

    async def ask(who: int, number: int, seconds: int) -> None:
        try:
            await queue.acquire(shares[who], clock.monotonic, seconds=1000)
        except QueueFull:
            return
        served[who].append(number)
        try:
            await clock.sleep(seconds)
        finally:
            queue.release(shares[who].scope, clock.monotonic())

    tasks: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as group:
        for kind, first, second in steps:
            if kind == "ask":
                tasks.append(group.create_task(ask(first, len(tasks), second)))
            elif kind == "cancel" and first < len(tasks):
                tasks[first].cancel()
            elif kind == "wait":
                await clock.advance(first)
            elif kind == "places":
                bench.places = first
                queue.wake(clock.monotonic())
            await SystemClock().sleep(0)
            assert queue.active <= 4
            assert queue.waiting == sum(a.waiting for a in queue._accounts.values())
            assert queue._bounded <= most_waiting
        for _ in range(5 * len(tasks) + 5):
            await clock.advance(1)
        assert all(task.done() for task in tasks)
    assert bench.is_empty
    assert all(numbers == sorted(numbers) for numbers in served.values())
