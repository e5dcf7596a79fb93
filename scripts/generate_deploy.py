"""Write the committed deployment files from the code that defines them; `--check` only compares."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mongars.serving.exports.config import ExportConfig
from mongars.serving.exports.export import render

ROOT = Path(__file__).parent.parent
OWNED = ("deploy/serve", "deploy/k8s", "deploy/helm")
"""Folders with nothing but generated files: any other file there is stale."""


def deploy_files() -> dict[str, str]:
    """The text of each deployment file for the default configuration, by its path below the repository's root."""
    config = ExportConfig()
    found = render("compose", config)
    found |= {f"deploy/serve/{path}": text for path, text in render("serve", config).items()}
    found |= {f"deploy/k8s/{path}": text for path, text in render("k8s", config).items()}
    found |= {f"deploy/helm/mongars/{path}": text for path, text in render("helm", config).items()}
    return found


def main() -> int:
    """Write or, with `--check`, compare every file; return 1 if a compared file is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    wanted = deploy_files()
    present = {
        str(path.relative_to(ROOT))
        for folder in OWNED
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    extra = sorted(present - set(wanted))
    stale = [path for path, text in wanted.items() if _text(ROOT / path) != text]
    if check:
        if stale or extra:
            sys.stderr.write(f"Out of date: {', '.join([*stale, *extra])}. Run: make docs\n")
        return 1 if stale or extra else 0
    for path in stale:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(wanted[path], encoding="utf-8")
    for path in extra:
        (ROOT / path).unlink()
    return 0


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
