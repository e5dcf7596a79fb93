"""Output to terminals of any encoding, pipes, files and closed streams."""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console

PIPE_WIDTH = 500
"""Width, in columns, of output that is no terminal: wide enough that lines are not wrapped."""


def prepare_streams() -> None:
    """Make printing to standard output and standard error safe from encoding errors and closed streams.

    A character outside the encoding is printed as `?`; a stream that was closed at the start discards its output.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 (kept open to the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def console(*, stderr: bool = False) -> Console:
    """A rich console on standard output, or on standard error if `stderr`, that wraps lines only on a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


def writes(text: str, found: Console) -> bool:
    """Whether the console `found` can print `text`: its encoding has all characters of the text."""
    try:
        text.encode(found.encoding)
    except UnicodeEncodeError:
        return False
    return True
