"""One engine and the queue before it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import DeadlineExceeded, NotReady
from mongars.engines.admission import Admission
from mongars.engines.structured import stream_checked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.deadline import Deadline
    from mongars.core.generation import GenerationRequest
    from mongars.engines.engine import Engine


class Backend:
    """Lets as many requests into an engine as it has slots for; the others wait or are refused."""

    def __init__(self, engine: Engine, *, max_waiting: int) -> None:
        self.engine = engine
        self.admission = Admission(slots=engine.slots, max_waiting=max_waiting)

    def check_ready(self) -> None:
        """Raise `NotReady` while the engine cannot answer."""
        status = self.engine.status
        if status.state != "ready":
            detail = f"The engine is {status.state}."
            raise NotReady(detail, retry_after=1.0)

    @asynccontextmanager
    async def stream(
        self, request: GenerationRequest, deadline: Deadline, *, admitted: bool = False
    ) -> AsyncIterator[tuple[float, AsyncIterator[bytes]]]:
        """Answer one request; yields the seconds it waited, and its bytes.

        `admitted`: as for `Admission.slot`.

        Raises what `Admission.slot` and `Engine.stream` raise; `DeadlineExceeded` at any time.
        """
        async with self.admission.slot(deadline, request.share, admitted=admitted) as waited:
            try:
                async with (
                    asyncio.timeout(deadline.remaining()),
                    stream_checked(self.engine, request) as blocks,
                ):
                    yield waited, blocks
            except TimeoutError as exc:
                detail = "The deadline passed before the answer was complete."
                raise DeadlineExceeded(detail) from exc
