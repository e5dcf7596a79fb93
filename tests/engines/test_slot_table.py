"""The slot table: engines that are prepared, activated and retired while others answer requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from slot_requests import BASE, CLOCK, SLOW, V7, V8, Reply, answer, ask, key, running, soon, states

from mongars.core.errors import (
    AdapterUnknown,
    Conflict,
    GenerationInterrupted,
    InferenceFailed,
    NotFound,
    NotReady,
)
from mongars.core.generation import BASE_ADAPTER
from mongars.engines.engine import EngineStatus
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.engines.slot_states import IllegalTransition
from mongars.engines.slot_table import SlotTable
from mongars.testing.adapters import FakeAdapter, adapter_in
from mongars.testing.manual_clock import ManualClock
from support import eventually, impatient


async def test_prepared_adapters_answer_who_pins_them_and_active_ones_everybody_else() -> None:
    """A prepared adapter answers only requests that pin it; once activated, it answers requests without a pin."""
    async with running() as table:
        await table.prepare(key(V7), V7.engine)
        assert (await answer(table)).text == "[1] you said: good day"
        assert (await answer(table, ask(adapter=V7.name))).adapter == V7.name
        table.activate(key(V7))
        said = await answer(table)
        assert adapter_in(said.text) == said.adapter == V7.name
        assert (await answer(table, ask(adapter=BASE_ADAPTER))).adapter == BASE_ADAPTER
        table.activate(BASE)
        assert (await answer(table)).adapter == BASE_ADAPTER


async def test_twenty_swaps_while_eight_streams_run_fail_no_request() -> None:
    """During 20 swaps with eight streams no request fails, and each text is from the adapter that the origin names."""
    said: list[Reply] = []
    done = asyncio.Event()
    async with running(SLOW) as table:

        async def chat() -> None:
            while not done.is_set():
                said.append(await answer(table))

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(chat())
            current = BASE
            for number in range(20):
                await eventually(lambda n=number: len({s.adapter for s in said}) > n, seconds=5)
                version = FakeAdapter(version=f"v{number}")
                await table.prepare(key(version), lambda v=version: v.engine(SLOW))
                table.activate(key(version))
                await table.retire(current, soon())
                current = key(version)
            done.set()
        assert states(table) == {str(current): "active"}
    assert all(adapter_in(each.text) == each.adapter for each in said)
    assert all(each.text.endswith("[1] you said: good day") for each in said)
    assert len({each.adapter for each in said}) >= 20


async def test_an_engine_prepared_while_others_start_is_not_started_again() -> None:
    """An engine that is prepared during `start` is ready at once and stays so; `start` does not wait for it."""
    clock = ManualClock()
    table = SlotTable(max_waiting=10)
    table.add("general", FakeEngine(FakePlan(start_delay=2), clock=clock))
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(table.start())
        await clock.advance(0)
        plan = FakePlan(start_delay=1)
        group.create_task(table.prepare(key(V7), lambda: V7.engine(plan, clock=clock)))
        await clock.advance(1)
        await clock.advance(1)
        assert [report.engine.state for report in table.reports] == ["ready", "ready"]
        assert starting.done()
        await clock.advance(1)  # so that the test ends even if it was started again
    await table.aclose()


async def test_retiring_waits_for_the_streams_that_run() -> None:
    """A retiring entry gets no new request, and its engine is closed when its last response has ended."""
    engine = V7.engine(SLOW)
    async with running() as table:
        await table.prepare(key(V7), lambda: engine)
        async with asyncio.TaskGroup() as group:
            old = group.create_task(answer(table, ask("a b c d e", adapter=V7.name)))
            await eventually(lambda: engine.busy == 1)
            retiring = group.create_task(table.retire(key(V7), soon()))
            await eventually(lambda: states(table)[str(key(V7))] == "draining")
            with pytest.raises(AdapterUnknown):
                await answer(table, ask(adapter=V7.name))
            assert (await answer(table)).adapter == BASE_ADAPTER
            assert not retiring.done()
            assert engine.status.state == "ready"
        assert old.result().text.endswith("a b c d e")
        assert engine.status.state == "stopped"
        assert states(table) == {str(BASE): "active"}


async def test_retiring_waits_for_requests_in_the_queue_too() -> None:
    """Retiring an entry waits for the requests in its queue, which the entry's engine answers."""
    engine = V7.engine(replace(SLOW, slots=1))
    async with running() as table:
        await table.prepare(key(V7), lambda: engine)
        table.activate(key(V7))
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(answer(table)) for _ in range(4)]
            await eventually(lambda: table.load.waiting == 3)
            table.activate(BASE)
            await table.retire(key(V7), soon())
        assert {task.result().adapter for task in asked} == {V7.name}


async def test_a_stream_that_outlasts_the_deadline_is_cut_and_the_engine_closed() -> None:
    """A stream that runs past the deadline of `retire` is interrupted, and its engine is closed."""
    engine = V7.engine(FakePlan(first_token_delay=0.01, token_delay=30))
    cut: list[Exception] = []
    async with running() as table:
        await table.prepare(key(V7), lambda: engine)

        async def chat() -> None:
            try:
                await answer(table, ask(adapter=V7.name))
            except GenerationInterrupted as error:
                cut.append(error)

        async with impatient(chat):
            await eventually(lambda: engine.busy == 1)
            await table.retire(key(V7), soon(0.05))
            assert engine.status.state == "stopped"
            assert states(table) == {str(BASE): "active"}
            await eventually(lambda: len(cut) == 1)


async def test_a_cancelled_retirement_can_be_taken_up_again() -> None:
    """After a cancelled `retire` the entry stays draining, and the next call removes it."""
    engine = V7.engine(FakePlan(token_delay=0.05))
    async with running() as table, asyncio.TaskGroup() as group:
        await table.prepare(key(V7), lambda: engine)
        reading = group.create_task(answer(table, ask(adapter=V7.name)))
        await eventually(lambda: engine.busy == 1)
        async with impatient(lambda: table.retire(key(V7), soon())):
            await eventually(lambda: states(table)[str(key(V7))] == "draining")
        assert engine.status.state == "ready"
        await table.retire(key(V7), soon())
        assert reading.done()
        assert states(table) == {str(BASE): "active"}


@pytest.mark.parametrize("alias", ["stable", "baseline", "base", "v7@0123456789ab"])
async def test_names_with_a_fixed_meaning_are_no_aliases(alias: str) -> None:
    """No alias can replace the active adapter, the base model or a name with a digest."""
    async with running() as table:
        await table.prepare(key(V7), V7.engine)
        with pytest.raises(Conflict, match=alias):
            table.set_alias(alias, key(V7))
        assert (await answer(table, ask(adapter="baseline"))).adapter == BASE_ADAPTER


async def test_what_the_state_of_an_entry_does_not_allow_is_refused_and_changes_nothing() -> None:
    """A change that an entry's state does not allow is refused and changes nothing."""
    async with running() as table:
        with pytest.raises(IllegalTransition, match="general/baseline is active; it cannot drain"):
            await table.retire(BASE, soon())
        with pytest.raises(IllegalTransition):
            table.activate(BASE)
        await table.prepare(key(V7), V7.engine)
        table.set_alias("canary", key(V7))
        table.drain(key(V7))
        with pytest.raises(IllegalTransition):
            table.activate(key(V7))
        with pytest.raises(Conflict):
            table.set_alias("canary", key(V7))
        with pytest.raises(AdapterUnknown):  # an alias ends with its entry
            await answer(table, ask(adapter="canary"))
        for change in (table.activate, table.drain):
            with pytest.raises(NotFound):
                change(key(V8))
        assert states(table) == {str(BASE): "active", str(key(V7)): "draining"}
        assert (await answer(table)).adapter == BASE_ADAPTER


async def test_an_engine_that_has_failed_since_it_was_prepared_is_not_activated() -> None:
    """A prepared engine that has failed is not activated; the error has the reason, and the entry can be retired."""
    engine = V7.engine()
    async with running() as table:
        await table.prepare(key(V7), lambda: engine)
        await engine.fail("it crashed nine times")
        with pytest.raises(InferenceFailed, match="crashed nine times"):
            table.activate(key(V7))
        assert (await answer(table)).adapter == BASE_ADAPTER
        await table.retire(key(V7), soon())
        assert states(table) == {str(BASE): "active"}


class Wrong(FakeEngine):
    """An engine that reports the base model instead of the adapter."""


class Killed(FakeEngine):
    """An engine whose process is killed during the start."""

    async def start(self) -> None:
        self._status = EngineStatus(state="starting")
        await CLOCK.sleep(0.02)
        message = "the engine process ended with signal 9"
        raise InferenceFailed(message)


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        pytest.param(V7.engine(FakePlan(start_error="no weights")), "no weights", id="fails"),
        pytest.param(Wrong(FakePlan(), clock=CLOCK), "another adapter: None", id="not-loaded"),
        pytest.param(V8.engine(), "another adapter", id="other-adapter"),
        pytest.param(Killed(FakePlan(), clock=CLOCK), "signal 9", id="killed"),
    ],
)
async def test_a_failing_preparation_leaves_everything_serving(
    engine: FakeEngine, says: str
) -> None:
    """If a preparation fails, the reason is raised, the new engine is closed, and the table is unchanged."""
    async with running(SLOW) as table:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(answer(table)) for _ in range(3)]
            with pytest.raises(InferenceFailed, match=says):
                await table.prepare(key(V7), lambda: engine)
        assert {task.result().adapter for task in asked} == {BASE_ADAPTER}
        assert engine.status.state == "stopped"
        assert states(table) == {str(BASE): "active"}
        await table.prepare(key(V7), V7.engine)
        assert (await answer(table, ask(adapter="v7"))).adapter == V7.name


async def test_a_factory_that_fails_leaves_everything_serving() -> None:
    """If the factory of an engine fails, the reason is raised and a new preparation is possible."""

    def failing() -> FakeEngine:
        message = "no file"
        raise InferenceFailed(message)

    async with running() as table:
        with pytest.raises(InferenceFailed, match="no file"):
            await table.prepare(key(V7), failing)
        await table.prepare(key(V7), V7.engine)


async def test_a_cancelled_preparation_closes_its_engine() -> None:
    """If a preparation is cancelled, its engine is closed."""
    engine = V7.engine(FakePlan(start_delay=30))
    async with running() as table:
        async with impatient(lambda: table.prepare(key(V7), lambda: engine)):
            await eventually(lambda: engine.status.state == "starting")
            with pytest.raises(Conflict):  # one at a time for each key
                await table.prepare(key(V7), V7.engine)
        assert engine.status.state == "stopped"
        assert states(table) == {str(BASE): "active"}


async def test_a_table_that_is_closed_during_a_preparation_keeps_no_engine() -> None:
    """If the table is closed during a preparation, the preparation raises `NotReady` and its engine is closed."""
    engine = V7.engine(FakePlan(start_delay=0.05))
    async with running() as table, asyncio.TaskGroup() as group:

        async def prepare() -> None:
            with pytest.raises(NotReady):
                await table.prepare(key(V7), lambda: engine)

        group.create_task(prepare())
        await eventually(lambda: engine.status.state == "starting")
        await table.aclose()
    assert engine.status.state == "stopped"


async def test_a_start_that_fails_leaves_no_engine_running() -> None:
    """If one of several engines fails to start, all are closed and the reason is raised."""
    engines = [FakeEngine(FakePlan(), clock=CLOCK), V7.engine(FakePlan(start_error="no weights"))]
    table = SlotTable(max_waiting=1)
    table.add("general", engines[0])
    table.add("coding", engines[1])
    with pytest.raises(InferenceFailed, match="no weights"):
        await table.start()
    assert [engine.status.state for engine in engines] == ["stopped", "stopped"]


async def test_the_load_counts_slots_of_active_engines_only() -> None:
    """The load counts the slots of active engines only."""
    async with running(FakePlan(slots=3)) as table:
        await table.prepare(key(V7), V7.engine)
        assert table.load.slots == 3
        table.activate(key(V7))
        assert table.load.slots == FakePlan().slots
        async with table.lease(ask()):
            assert [report.references for report in table.reports] == [0, 1]
