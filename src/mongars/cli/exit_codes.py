"""Errors of commands: a message on standard error, with advice, and exit status 1."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import MongarsError

if TYPE_CHECKING:
    from collections.abc import Iterator


def complain(error: MongarsError) -> None:
    """Print `error: ` and the error's message on standard error."""
    print(f"error: {error}", file=sys.stderr)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """A context manager that turns exceptions of its block into an exit of the process.

    `MongarsError`: its message on standard error and exit status 1; Ctrl-C (`KeyboardInterrupt`): exit status 130.
    """
    try:
        yield
    except MongarsError as error:
        complain(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
