"""Write `docs/reference/*.md` from the code that defines it; `--check` only compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mongars.bootstrap.reference import pages

FOLDER = Path(__file__).parent.parent / "docs" / "reference"


def main() -> int:
    """Write or, with `--check`, compare every page; return 1 if a compared page is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    stale = []
    for name, text in pages().items():
        path = FOLDER / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if stale and check:
        sys.stderr.write(f"Out of date: {', '.join(stale)}. Run: make docs\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
