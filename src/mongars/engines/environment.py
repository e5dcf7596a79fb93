"""The environment of engine processes: what a native library needs, and nothing else.

An engine reads files and text of unknown origin; a key in its environment would be one flaw away from
them, and `/proc/<pid>/environ` shows it to everything that runs as the same user.
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
    """What of this process's environment an engine of ours gets."""
    return {
        name: value
        for name, value in os.environ.items()  # noqa: TID251 - passed on, never read
        if name in _NAMES or name.startswith(_PREFIXES)
    }
