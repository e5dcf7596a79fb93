"""The environment variables of engine processes: those that native libraries need, without secrets.

An engine parses files and text of unknown origin, so a flaw in it could expose a key in its environment; and
`/proc/<pid>/environ` shows the environment to every process of the same user.
"""

from __future__ import annotations

import os

_NAMES = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "MONGARS_STACK_ID",
        "MONGARS_STACK_PART",
        "PATH",
        "TEMP",
        "TMP",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
    }
)
_PREFIXES = (
    *("CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "VK_"),
    *("GGML_", "LLAMA_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_"),
    *("DYLD_", "LC_", "LD_", "MALLOC_", "PYTHON"),
)


def engine_environment() -> dict[str, str]:
    """The environment variables to start an engine's child process with, by name.

    Those of this process whose name is on a fixed list of names and prefixes that engines need (such as `PATH` and
    `CUDA_`); secrets are not on it.
    """
    return {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - passed on, never read
        if name in _NAMES or name.startswith(_PREFIXES)
    }
