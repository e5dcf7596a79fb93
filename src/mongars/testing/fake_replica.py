"""A fake Ray Serve application: the real protocol on a real socket, with faults on request.

Tests in Python use the class. For tests in other languages, `python -m mongars.testing.fake_replica` runs
a server whose faults are set over HTTP (`testing.fault_control`).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from mongars.core.errors import InvalidRequest
from mongars.core.generation import Origin, PartialAnswer
from mongars.testing.described import read_fault
from mongars.testing.fake_answers import (
    JSON,
    origin_headers,
    tokens,
    whole_body,
)
from mongars.testing.fake_embeddings import EMBEDDINGS, FakeEmbeddings
from mongars.testing.fake_server import FakeServer, Received, reset
from mongars.testing.fake_stream import MIB, EventStream, Hangup
from mongars.testing.fault_control import Control
from mongars.testing.fault_schedule import Behaviour, FaultSchedule
from mongars.testing.faults import (
    TEXT,
    Body,
    DisguisedError,
    FalseContinuation,
    Fault,
    FaultyResponse,
    HugeEvent,
    Reset,
    Silence,
    SlowBody,
    Status,
    StrayAnswer,
    TrickledHead,
    WrongLength,
)
from mongars.testing.raw_answers import RawAnswer

if TYPE_CHECKING:
    from collections import deque

    from mongars.core.clock import Clock

PIECES = 20
"""The number of pieces in which `SlowBody` sends its body."""


class FakeReplica(FakeServer):
    """A fake replica with faults: `/generate`, `/v1/embeddings`, `/healthz`, `/readyz`; `/control` sets the faults.

    Each request to `/generate` or `/v1/embeddings` takes the next fault from `faults`, or `always` if there is none.
    `probes` counts requests of `/readyz`; `in_flight` is the number of requests of the first two routes in progress.
    """

    def __init__(
        self,
        *faults: Fault,
        name: str = "fake-replica",
        port: int = 0,
        clock: Clock | None = None,
    ) -> None:
        """`faults`: those of the first requests, one each. `name`: the replica's name in responses.

        `port` 0: a free port. `clock` None: the system's clock.
        """
        super().__init__(port=port, clock=clock)
        self._schedule = FaultSchedule(*faults, clock=self.clock)
        self.ready = 200
        """The HTTP status of `/readyz`."""
        self.embeddings = FakeEmbeddings()
        """The embedding model that answers `/v1/embeddings`."""
        self.probes = 0
        self.in_flight = 0
        self.origin = Origin(
            model="fake-135m",
            engine="fake",
            adapter_version="v7",
            adapter_digest="d" * 64,
            replica=name,
        )

    @property
    def url(self) -> str:
        """The URL of this replica's endpoint `/generate`, in the form that `RAY_SERVE_URL` takes."""
        return f"{self.base}/generate"

    @property
    def faults(self) -> deque[Fault]:
        """The faults of the next requests, one for each; each request removes the first."""
        return self._schedule.faults

    @faults.setter
    def faults(self, queue: deque[Fault]) -> None:
        """Replace the queue of faults; several fakes may share one queue."""
        self._schedule.faults = queue

    @property
    def always(self) -> Fault:
        """The fault that applies to each request while `faults` is empty; at first none: correct answers."""
        return self._schedule.always

    @always.setter
    def always(self, fault: Fault) -> None:
        self._schedule.always = fault

    def add_routes(self, app: web.Application) -> None:
        """Add to `app` the routes of a real replica, and those under `/control`."""
        app.router.add_post("/generate", self._generate)
        app.router.add_post(EMBEDDINGS, self._generate)
        app.router.add_get("/healthz", self._healthy)
        app.router.add_get("/readyz", self._readiness)
        Control(self._schedule, self.received, lambda: self.in_flight).add_routes(app)

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readiness(self, _: web.Request) -> web.Response:
        self.probes += 1
        return web.json_response({}, status=self.ready)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        try:
            received = await self.note(request)
        except ValueError:
            detail = "The request body is not a JSON object."
            return self._instead(Status(code=400, error="invalid_request", detail=detail))
        behaviour = self._schedule.take(continues=received.body.get("continue_from") is not None)
        received.met = behaviour.kind
        self.in_flight += 1
        try:
            response = await self._act(request, received, behaviour)
        except asyncio.CancelledError:
            self.left(received)
            raise
        except ConnectionError:
            self.left(received)
            return web.Response()  # the client has gone
        except Hangup:
            reset(request)
            return web.Response()
        else:
            received.answered = True
            return response
        finally:
            self.in_flight -= 1

    async def _act(
        self, request: web.Request, received: Received, behaviour: Behaviour
    ) -> web.StreamResponse:
        match behaviour:
            case Reset():
                raise Hangup
            case Silence():
                await self.clock.sleep(behaviour.seconds)
                raise Hangup
            case Status() | Body() | DisguisedError():
                return self._instead(behaviour)
            case TrickledHead() | WrongLength() | StrayAnswer():
                return await self._raw(request, received, behaviour)
            case SlowBody():
                return await self._slow(request, behaviour)
            case FaultyResponse() | HugeEvent() | FalseContinuation():
                return await self._answer(request, received, behaviour)

    async def _answer(
        self,
        request: web.Request,
        received: Received,
        behaviour: FaultyResponse | HugeEvent | FalseContinuation,
    ) -> web.StreamResponse:
        if request.path == EMBEDDINGS:
            return await self._embed(request, behaviour)
        origin = self.origin
        if not isinstance(behaviour, HugeEvent) and behaviour.adapter_version is not None:
            origin = replace(origin, adapter_version=behaviour.adapter_version)
        if _streams(received) and not (isinstance(behaviour, FaultyResponse) and behaviour.whole):
            return await self._stream(request, received, behaviour, origin=origin)
        if isinstance(behaviour, FaultyResponse):
            await self.clock.sleep(behaviour.first_delay)
        text = "x" * (behaviour.mib * MIB) if isinstance(behaviour, HugeEvent) else behaviour.text
        body, told = whole_body(origin, text), origin_headers(origin)
        return web.Response(body=body, content_type=JSON, headers=told)

    async def _embed(
        self, request: web.Request, behaviour: FaultyResponse | HugeEvent | FalseContinuation
    ) -> web.Response:
        if isinstance(behaviour, FaultyResponse):
            await self.clock.sleep(behaviour.first_delay)
        status, body = await self.embeddings.respond(await request.read())
        return web.Response(status=status, body=orjson.dumps(body), content_type=JSON)

    def _instead(self, behaviour: Status | Body | DisguisedError) -> web.Response:
        if isinstance(behaviour, Body):
            return web.Response(body=behaviour.data, content_type=behaviour.media_type)
        code, body, extra = 200, None, {}
        if isinstance(behaviour, Status):
            code, body, extra = behaviour.code, behaviour.body, behaviour.headers
        if body is None and behaviour.error:
            body = {"content": "", "error": behaviour.error, "detail": behaviour.detail}
            body["adapter_version"] = self.origin.adapter_version
        data = b"<html>no JSON</html>" if body is None else orjson.dumps(body)
        media_type = "text/html" if body is None else JSON
        return web.Response(status=code, body=data, content_type=media_type, headers=extra)

    async def _raw(
        self,
        request: web.Request,
        received: Received,
        behaviour: TrickledHead | WrongLength | StrayAnswer,
    ) -> web.Response:
        whole = isinstance(behaviour, WrongLength) and behaviour.whole
        stream = _streams(received) and not whole
        answer = RawAnswer(request, origin=self.origin, clock=self.clock, stream=stream)
        match behaviour:
            case TrickledHead():
                await answer.trickle(behaviour)
            case WrongLength():
                await answer.misjudge(behaviour)
            case StrayAnswer():
                await answer.repeat(behaviour)
        return web.Response()  # goes nowhere: the connection is closed

    async def _slow(self, request: web.Request, behaviour: SlowBody) -> web.StreamResponse:
        body = whole_body(self.origin, TEXT)
        response = web.StreamResponse(headers=origin_headers(self.origin))
        response.content_type = JSON
        response.content_length = len(body)
        await response.prepare(request)
        size = -(-len(body) // PIECES)
        for start in range(0, len(body), size):
            await self.clock.sleep(behaviour.seconds / PIECES)
            await response.write(body[start : start + size])
        await response.write_eof()
        return response

    async def _stream(
        self,
        request: web.Request,
        received: Received,
        behaviour: FaultyResponse | HugeEvent | FalseContinuation,
        *,
        origin: Origin,
    ) -> web.StreamResponse:
        said, continued = 0, isinstance(behaviour, FalseContinuation)
        if isinstance(behaviour, FaultyResponse) and behaviour.continues:
            said = _said(received, behaviour.text, origin)
            continued = said > 0
        stream = EventStream(request, origin=origin, clock=self.clock, continued=continued)
        if isinstance(behaviour, HugeEvent):
            return await stream.send_huge(behaviour)
        answer = (
            behaviour
            if isinstance(behaviour, FaultyResponse)
            else FaultyResponse(text=behaviour.text)
        )
        return await stream.send(answer, said=said)


def _streams(received: Received) -> bool:
    return bool(received.body.get("stream"))


def _said(received: Received, text: str, origin: Origin) -> int:
    """The number of tokens of `text` that the partial answer in the request's `continue_from` contains already.

    0 if the request has no `continue_from`, if another model or adapter than that in `origin` generated the partial
    answer, or if it is not a beginning of `text`.
    """
    told = received.body.get("continue_from")
    if not told or not PartialAnswer(**told).was_from(origin):
        return 0
    far = 0
    for count, token in enumerate(tokens(text), start=1):
        far += len(token)
        if text[:far] == told["text"]:
            return count
    return 0


async def _serve(replica: FakeReplica) -> None:
    async with replica:
        sys.stdout.write(f"{replica.url}\nOrders: {replica.base}/control\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> int:
    """Run a fake replica until Ctrl-C.

    Options: `--port N`, `--fault JSON` once for each of the next requests, `--always JSON` for all others. A fault is
    a JSON object such as `{"kind": "answer", "cut_after": 40}`. Returns the exit status: 0, or 1 if the port cannot be
    used. Exits with status 2 if an argument is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mongars.testing.fake_replica",
        description="A fake replica on 127.0.0.1 with faults on request.",
        epilog="""Example: --port 9001 --fault '{"kind": "answer", "cut_after": 40}'""",
    )
    parser.add_argument("--port", type=int, default=9001, help="0 finds a free one (default 9001)")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="JSON",
        help="what the next request meets; once for each request",
    )
    parser.add_argument("--always", metavar="JSON", help="what all later requests meet")
    told = parser.parse_args()
    try:
        replica = FakeReplica(*map(read_fault, told.fault), port=told.port)
        if told.always is not None:
            replica.always = read_fault(told.always)
        asyncio.run(_serve(replica))
    except InvalidRequest as error:
        parser.error(str(error))
    except OSError as error:
        sys.stderr.write(f"Cannot listen on port {told.port}: {error.strerror}.\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
