"""Start a Ray node, unless its image was built on another base than RAY_HEAD_IMAGE names.

Compose builds an image that is missing and no other: a new RAY_HEAD_IMAGE would change nothing, and say
nothing. `base_image.py COMMAND ...` runs the command, or ends with status 1 and what to do.
Only the standard library.
"""

from __future__ import annotations

import os
import sys


def main(command: list[str]) -> None:
    """Replace this process by the command. Ends it with status 1 if the image does not fit."""
    wanted = os.environ.get("RAY_HEAD_IMAGE", "")  # noqa: TID251 (runs without the package)
    built_on = os.environ.get("MONGARS_RAY_BASE", "")  # noqa: TID251 (as above)
    if wanted and built_on and wanted != built_on:
        message = (
            f"This image was built on {built_on}; RAY_HEAD_IMAGE is {wanted}."
            " Build it anew: docker compose build ray-head"
        )
        raise SystemExit(message)
    os.execvp(command[0], command)  # noqa: S606 (our own command line)


if __name__ == "__main__":
    main(sys.argv[1:])
