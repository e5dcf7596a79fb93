"""Run pip in a child process that uses a given folder for temporary files and ends with its parent.

`python -m mongars.engines.provisioning.pip_child TEMPORARY_FOLDER PIP_ARGUMENT…`
"""

from __future__ import annotations

import ctypes
import runpy
import signal
import sys
import tempfile

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent ends, so that it does not go on writing files (Linux only).

    Does nothing on other systems.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Run pip in this process. `arguments`: the folder for temporary files, then pip's command line arguments.

    Does not return: exits with pip's status.
    """
    die_with_parent()
    tempfile.tempdir, *rest = arguments
    sys.argv = ["pip", *rest]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
