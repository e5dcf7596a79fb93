"""Runs a client that is a program."""

import os
import subprocess
from pathlib import Path

SECONDS = 120


def run_program(
    command: list[str], *, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The result of a program run in `folder` with additional environment variables and empty standard input."""
    return subprocess.run(  # noqa: S603
        command,
        cwd=folder,
        env={**os.environ, **environment},  # noqa: TID251
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
