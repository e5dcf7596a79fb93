"""The slot table: which adapter answers a request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from slot_requests import BASE, CLOCK, V7, V8, answer, ask, key, running, soon

from mongars.core.errors import (
    AdapterUnknown,
    Conflict,
)
from mongars.core.generation import BASE_ADAPTER, PartialAnswer
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.testing.adapters import FakeAdapter, adapter_in


@pytest.mark.parametrize(
    ("pin", "expected"),
    [
        pytest.param("baseline", BASE_ADAPTER, id="base"),
        pytest.param("base", BASE_ADAPTER, id="base-as-others-write-it"),
        pytest.param("v7", V7.name, id="version"),
        pytest.param(V7.name, V7.name, id="version-and-short-digest"),
        pytest.param(f"v7@{V7.digest}", V7.name, id="version-and-digest"),
        pytest.param(f"@{V7.digest}", V7.name, id="digest"),
        pytest.param("stable", V8.name, id="stable"),
        pytest.param("canary", V7.name, id="alias"),
        pytest.param(f"canary@{V7.digest}", V7.name, id="alias-and-digest"),
    ],
)
async def test_a_pin_gets_exactly_the_adapter_it_names(pin: str, expected: str) -> None:
    """A pin by alias, version, digest or several of them gets the adapter it names."""
    async with running() as table:
        await table.prepare(key(V7), V7.engine)
        await table.prepare(key(V8), V8.engine)
        table.activate(key(V8))
        table.set_alias("canary", key(V7))
        said = await answer(table, ask(adapter=pin))
        assert adapter_in(said.text) == said.adapter == expected


@pytest.mark.parametrize(
    "pin",
    [
        "v9",
        "",
        "@",
        "canary",
        "../v7",
        f"v8@{V7.digest}",
        f"v7@{V8.digest}",
        f"v7@{V7.digest[:11]}",
        f"@{V7.digest.upper()}",
        f"@{V7.digest}0",
        f"baseline@{V7.digest}",
        f"stable@{V7.digest}",
        "@" + "0" * 64,
    ],
)
async def test_a_pin_that_nothing_matches_is_refused_and_never_answered_by_another(
    pin: str,
) -> None:
    """A pin that matches no adapter is refused with an error that lists the served adapters."""
    async with running() as table:
        await table.prepare(key(V7), V7.engine)
        with pytest.raises(AdapterUnknown, match=f"Served: baseline, {V7.name}") as caught:
            await answer(table, ask(adapter=pin))
        assert caught.value.param == "adapter"


async def test_the_same_name_with_other_bytes_is_two_entries() -> None:
    """Two adapters of one version are distinguished by digest; the version alone is the active one or is refused."""
    first, second = (FakeAdapter(version="v7", content=text) for text in ("a", "b"))
    async with running() as table:
        await table.prepare(key(first), first.engine)
        await table.prepare(key(second), second.engine)
        assert (await answer(table, ask(adapter=first.name))).adapter == first.name
        assert (await answer(table, ask(adapter=second.name))).adapter == second.name
        with pytest.raises(AdapterUnknown):
            await answer(table, ask(adapter="v7"))
        table.activate(key(second))
        assert (await answer(table, ask(adapter="v7"))).adapter == second.name


async def test_an_answer_that_was_cut_goes_on_with_the_adapter_that_began_it() -> None:
    """After a swap, a cut answer is continued by the adapter that began it; once that is retired, by the active one."""
    partial = PartialAnswer(
        text="[1] you", model="fake", adapter_version=BASE_ADAPTER, adapter_digest=None
    )
    request = replace(ask(), continue_from=partial)
    async with running() as table:
        await table.prepare(key(V7), V7.engine)
        table.activate(key(V7))
        assert (await answer(table, request)).adapter == BASE_ADAPTER
        await table.retire(BASE, soon())
        async with table.lease(request) as queued:
            assert queued.engine.origin.adapter_version == "v7"


async def test_roles_are_apart_and_a_role_without_an_engine_is_the_general_one() -> None:
    """Each role has its own adapters; a role without an engine uses those of the general role."""
    coding = replace(ask(adapter="v7"), task_type="coding")
    async with running() as table:
        await table.prepare(key(V7), V7.engine)
        assert (await answer(table, coding)).adapter == V7.name
        table.add("coding", FakeEngine(FakePlan(), clock=CLOCK))
        with pytest.raises(AdapterUnknown):
            await answer(table, coding)
        with pytest.raises(Conflict):
            table.add("coding", FakeEngine(FakePlan(), clock=CLOCK))
