"""The control API of the fake replica over HTTP, as tests of other projects use it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from mongars.testing.described import described, read_fault
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import (
    Body,
    DisguisedError,
    FalseContinuation,
    Fault,
    FaultyResponse,
    Flapping,
    HugeEvent,
    InTurn,
    NoContinuation,
    Reset,
    Silence,
    SlowBody,
    Status,
    StrayAnswer,
    TrickledHead,
    WrongLength,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HEALTHY = {"kind": "answer"}
CUT = {"kind": "answer", "cut_after": 40}
EVERY_KIND: tuple[Fault, ...] = (
    FaultyResponse(cut_after=3, cut="abort"),
    Status(code=429, error="overloaded", headers={"Retry-After": "2"}),
    Body(data="déjà".encode(), media_type="text/plain"),
    DisguisedError(detail="no"),
    Reset(),
    Silence(seconds=3),
    TrickledHead(byte_delay=1),
    SlowBody(seconds=2),
    HugeEvent(after=1, mib=9),
    WrongLength(by=-4, whole=True),
    StrayAnswer(text="x"),
    NoContinuation(otherwise=FaultyResponse(cut_after=40)),
    FalseContinuation(text="x"),
    Flapping(up=1, down=2, when_down=Reset()),
    InTurn(faults=(FaultyResponse(), Flapping(up=1, down=1))),
)


class Remote:
    """An HTTP client of the fake replica and of its control API."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    async def order(self, method: str, path: str, data: Any = None) -> tuple[int, Any]:
        async with self.session.request(method, self.base + path, json=data) as response:
            return response.status, await response.json()

    async def ask(self, **extra: Any) -> int:
        body = {"prompt": "my secret", "messages": [], **extra}
        async with self.session.post(f"{self.base}/generate", json=body) as response:
            await response.read()
            return response.status


@asynccontextmanager
async def remote() -> AsyncIterator[Remote]:
    async with FakeReplica() as replica, aiohttp.ClientSession() as session:
        yield Remote(session, replica.base)


@pytest.mark.parametrize("fault", EVERY_KIND, ids=lambda fault: fault.kind)
async def test_every_fault_can_be_ordered_and_is_shown_as_ordered(fault: Fault) -> None:
    """Every fault can be set over HTTP, and the state shows each in the form in which it was sent."""
    told = described(fault)
    async with remote() as it:
        status, state = await it.order("PUT", "/control/always", told)
        assert (status, state["always"]) == (200, told)
        _, state = await it.order("POST", "/control/faults", [told, told])
        assert state["faults"] == [told, told]
    assert read_fault(json.dumps(told)) == fault


async def test_ordered_faults_are_met_in_order() -> None:
    """Queued faults occur in the order in which they were sent, and then the permanent fault."""
    async with remote() as it:
        await it.order("PUT", "/control/always", {"kind": "status", "code": 500})
        await it.order("POST", "/control/faults", {"kind": "status", "code": 429})
        await it.order("POST", "/control/faults", [{"kind": "status", "code": 503}, HEALTHY])
        assert [await it.ask() for _ in range(5)] == [429, 503, 200, 500, 500]


async def test_what_was_received_is_told_without_what_was_said() -> None:
    """The state lists each received request with its fault and its outcome, but not its texts."""
    async with remote() as it:
        await it.ask(stream=True, task_type="coding")
        await it.order("POST", "/control/faults", {"kind": "reset"})
        with pytest.raises(aiohttp.ClientConnectionError):
            await it.ask()
        _, state = await it.order("GET", "/control")
        first, second = state["received"]
        assert (first["stream"], first["task_type"], first["met"]) == (True, "coding", "answer")
        assert (first["answered"], second["answered"]) == (True, False)
        assert (second["met"], second["continues"]) == ("reset", False)
        assert second["seconds"] >= first["seconds"] == 0
        assert state["in_flight"] == 0
        assert "secret" not in str(state)


async def test_a_reset_forgets_everything() -> None:
    """DELETE removes all faults and all recorded requests."""
    async with remote() as it:
        await it.order("PUT", "/control/always", {"kind": "status", "code": 500})
        await it.order("POST", "/control/faults", CUT)
        await it.ask()
        _, state = await it.order("DELETE", "/control")
        assert state == {"always": HEALTHY, "faults": [], "in_flight": 0, "received": []}
        assert await it.ask() == 200


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"kind": "answer", "cut_afetr": 40}, "cut_afetr"),
        ({"kind": "answer", "cut_after": "soon"}, "cut_after"),
        ({"kind": "answer", "cut_after": -1}, "cut_after"),
        ({"kind": "explode"}, "explode"),
        ({"cut_after": 40}, "kind"),
        ({"kind": "status"}, "code"),
        ({"kind": "flapping", "up": 0, "down": 1}, "up"),
        ({"kind": "in_turn", "faults": []}, "faults"),
        ({"kind": "flapping", "up": 1, "down": 1, "when_down": {"kind": "reste"}}, "reste"),
        (40, "object"),
    ],
    ids=str,
)
async def test_a_mistake_is_named_and_changes_nothing(told: object, named: str) -> None:
    """A wrong fault is refused with 422 and the name of the wrong field or value, and changes nothing."""
    async with remote() as it:
        for method, path, data in (
            ("PUT", "/control/always", told),
            ("POST", "/control/faults", told),
            ("POST", "/control/faults", [CUT, told]),
        ):
            status, answer = await it.order(method, path, data)
            assert status == 422
            assert answer["error"] == "invalid_request"
            assert named in answer["detail"]
        _, state = await it.order("GET", "/control")
        assert (state["always"], state["faults"]) == (HEALTHY, [])


async def test_no_json_is_a_mistake_too() -> None:
    """A body that is not JSON is refused with 422."""
    async with remote() as it:
        order = it.session.put(f"{it.base}/control/always", data=b"{")
        async with order as response:
            assert response.status == 422
            assert "JSON" in (await response.json())["detail"]
