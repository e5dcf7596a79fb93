"""Errors of an answer, with the field names of the client API that the request came by."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from mongars.core.errors import MongarsError
from mongars.protocol.field_names import renamed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

Stream = TypeVar("Stream")


@asynccontextmanager
async def naming_fields(
    opened: AbstractAsyncContextManager[Stream], names: Mapping[str, str]
) -> AsyncIterator[Stream]:
    """The context manager `opened`, whose errors, also those raised inside it, are changed by `renamed`.

    `names`: the client's name of a field by the name in OpenAI's chat protocol.
    """
    try:
        async with opened as stream:
            yield stream
    except MongarsError as error:
        found = renamed(error, names)
        if found is error:
            raise
        raise found from error
