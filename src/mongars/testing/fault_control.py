"""Setting the faults of a fake replica over HTTP, for tests that are not written in Python.

| | |
| --- | --- |
| `GET /control` | show the faults that are set, and the requests received |
| `PUT /control/always` | set the fault for all requests without a queued one |
| `POST /control/faults` | queue a fault, or a list of them: one for each of the next requests |
| `DELETE /control` | remove all faults, and forget the requests received |

Each responds with the state after it. Invalid JSON or an invalid fault gets 422 with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from mongars.core.errors import InvalidRequest
from mongars.testing.described import described, read_fault, read_faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.testing.fake_server import Received
    from mongars.testing.fault_schedule import FaultSchedule


class Control:
    """The routes under `/control` of a fake replica, which show and change its faults and its recorded requests.

    `in_flight` returns the number of requests that are being answered.
    """

    def __init__(
        self, fault_schedule: FaultSchedule, received: list[Received], in_flight: Callable[[], int]
    ) -> None:
        self._schedule = fault_schedule
        self._received = received
        self._in_flight = in_flight

    def add_routes(self, app: web.Application) -> None:
        """Add the routes under `/control` to `app`.

        `GET /control` shows the state, `PUT /control/always` sets the fault of all later requests, `POST
        /control/faults` adds one fault or a list to the queue, and `DELETE /control` removes faults and recorded
        requests. A fault is a JSON object such as `{"kind": "answer", "cut_after": 40}`. Each responds with the state
        as JSON, or 422 for an invalid fault.
        """
        app.router.add_get("/control", self._state)
        app.router.add_put("/control/always", self._always)
        app.router.add_post("/control/faults", self._faults)
        app.router.add_delete("/control", self._reset)

    async def _state(self, _: web.Request) -> web.Response:
        state = {
            "always": described(self._schedule.always),
            "faults": [described(fault) for fault in self._schedule.faults],
            "in_flight": self._in_flight(),
            "received": [_shown(request, self._received[0].at) for request in self._received],
        }
        return web.json_response(state)

    async def _always(self, request: web.Request) -> web.Response:
        try:
            self._schedule.always = read_fault(await request.read())
        except InvalidRequest as error:
            return _refused(error)
        return await self._state(request)

    async def _faults(self, request: web.Request) -> web.Response:
        try:
            self._schedule.faults.extend(read_faults(await request.read()))
        except InvalidRequest as error:
            return _refused(error)
        return await self._state(request)

    async def _reset(self, request: web.Request) -> web.Response:
        self._schedule.reset()
        self._received.clear()
        return await self._state(request)


def _refused(error: InvalidRequest) -> web.Response:
    return web.json_response({"error": error.code, "detail": str(error)}, status=422)


def _shown(request: Received, start: float) -> dict[str, Any]:
    """A recorded request as a JSON object, without its texts, as `GET /control` shows it.

    Its fields are `seconds` (arrival, counted from `start`, the arrival of the first recorded request), `connection`
    (the client's port), `stream`, `continues` (it has a `continue_from`), `messages` (their number), `task_type`, `met`
    (the kind of the fault), `answered` (the response was complete) and `left` (the client closed the connection
    before).
    """
    return {
        "seconds": round(request.at - start, 3),
        "connection": request.connection[1],
        "stream": bool(request.body.get("stream")),
        "continues": request.body.get("continue_from") is not None,
        "messages": len(request.body.get("messages") or ()),
        "task_type": request.body.get("task_type"),
        "met": request.met,
        "answered": request.answered,
        "left": request.left_at is not None,
    }
