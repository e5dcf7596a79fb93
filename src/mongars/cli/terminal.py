"""Where output goes: terminals of any encoding, pipes, files, closed streams."""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console

PIPE_WIDTH = 500
"""Columns where the output is no terminal: lines stay whole for whatever reads them."""


def prepare_streams() -> None:
    """Let no output fail: a character the terminal lacks becomes `?`, a closed stream takes all."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 (kept open to the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def console(*, stderr: bool = False) -> Console:
    """A console whose lines are wrapped on terminals only."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


def writes(text: str, found: Console) -> bool:
    """Whether its encoding has all of these characters."""
    try:
        text.encode(found.encoding)
    except UnicodeEncodeError:
        return False
    return True
