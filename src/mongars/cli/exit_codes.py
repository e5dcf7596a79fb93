"""How a command fails: one line with the fault and what to do, and exit status 1."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mongars.core.errors import MongarsError

if TYPE_CHECKING:
    from collections.abc import Iterator


def complain(error: MongarsError) -> None:
    """Print the fault on standard error."""
    print(f"error: {error}", file=sys.stderr)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn an expected error into its message and exit status 1, Ctrl-C into 130."""
    try:
        yield
    except MongarsError as error:
        complain(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
