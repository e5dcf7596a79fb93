"""Configuration of vLLM outside of its arguments: environment variables and a logging configuration file.

vLLM's processes inherit this process's environment; vLLM offers no way to give them another one.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from mongars.core.secrecy import OWN_SECRETS

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT = {
    # No usage reports, and no downloads.
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # Forking a process with threads and an event loop is not safe.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
_ERROR_LINE = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception): ")
_POINTERS = ("See root cause", "See stack trace", "initialization failed")
_LONGEST_REASON = 1000


def prepare(folder: Path, *, compiling: bool) -> None:
    """Set the environment variables of this process that vLLM reads, and remove those with monGARS' own secrets.

    Call it before the first import of vLLM and before each load. `folder` is where vLLM puts the sockets between its
    processes; `compiling`: whether PyTorch may compile code.
    """
    # vLLM compiles small parts even with `enforce_eager`: the first request for log-probabilities
    # would delay all requests by 15 seconds.
    values = ENVIRONMENT | {
        "TORCH_COMPILE_DISABLE": "0" if compiling else "1",
        "VLLM_RPC_BASE_PATH": str(
            folder
        ),  # sockets between vLLM's processes, not accessible to other users
    }
    for name in OWN_SECRETS:  # the settings have been read already
        os.environ.pop(name, None)  # noqa: TID251 - as below
    os.environ.update(values)  # noqa: TID251 - written for another program, never read


def write_log_config(folder: Path) -> Path:
    """Write a logging configuration with which vLLM's processes log warnings and errors to `vllm.log` in `folder`.

    Returns the path of the configuration file. When loading fails, vLLM raises no reason but only logs it, from its own
    processes. Requests are not logged.
    """
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(message)s"}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "filename": str(folder / "vllm.log"),
                "formatter": "plain",
                "level": "WARNING",
            }
        },
        "loggers": {"vllm": {"handlers": ["file"], "level": "WARNING", "propagate": False}},
    }
    path = folder / "logging.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def logged_reason(folder: Path) -> str:
    """The last line of `vllm.log` in `folder` that describes an error; empty if there is none.

    Lines that only refer to another error ("See root cause above") are left out. At most 1,000 characters.
    """
    try:
        text = (folder / "vllm.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    reasons = [
        line
        for line in text.splitlines()
        if _ERROR_LINE.match(line) and not any(pointer in line for pointer in _POINTERS)
    ]
    return reasons[-1][:_LONGEST_REASON] if reasons else ""
