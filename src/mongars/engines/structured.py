"""Check the finished text of answers that must follow a JSON schema, whichever engine generated it."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from mongars.protocol.response_format import schema_of
from mongars.protocol.schema.finished import checked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mongars.core.generation import GenerationRequest
    from mongars.engines.engine import ByteStream, Engine


def stream_checked(engine: Engine, request: GenerationRequest) -> ByteStream:
    """Generate the answer with `engine.stream(request)`, and check its text against the JSON schema of the request.

    The schema is the one in `request.sampling.response_format`; without one, the engine's stream is returned
    unchanged. Returns a context that yields the answer as server-sent events in bytes, with the errors of the engine.
    If the finished text violates the schema, iterating raises `GenerationInterrupted` at the end of the text, or
    `InvalidRequest` if a stop text of the request may be the cause.
    """
    schema = schema_of(request.sampling.response_format)
    return engine.stream(request) if schema is None else _checked(engine, request, schema)


@asynccontextmanager
async def _checked(
    engine: Engine, request: GenerationRequest, schema: dict[str, Any]
) -> AsyncIterator[AsyncIterator[bytes]]:
    stops = bool(request.sampling.stop)
    async with (
        engine.stream(request) as blocks,
        aclosing(checked(blocks, schema, stops=stops)) as kept,
    ):
        yield kept
