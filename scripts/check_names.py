"""Fail if two classes, type aliases or modules of `src` share a name.

Names that are shared on purpose are listed below, each with its reason. A leading underscore makes no difference:
readers take both for the same name.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "mongars"
REVISIONS = SOURCE / "persistence" / "migrations"

SHARED_MODULES = {
    "config": "each context's own frozen configuration",
    "events": "each context's own events",
    "log_events": "each context's own log events, declared once",
    "engine": "the port, and its implementation in each engine's folder",
    "embedder": "the port, and its implementation in the engine's folder",
    "factory": "how each engine is made from its specification, in the engine's folder",
    "provider": "the port, and its implementation in each provider's folder",
    "replica": "users' Serve configurations name `mongars.bootstrap.replica:application`",
}
SHARED_CLASSES: dict[str, str] = {}
_TYPE_NAME = re.compile(r"_?[A-Z][a-z]\w*")


def is_alias(node: ast.Assign | ast.AnnAssign) -> bool:
    """Whether a statement names a type: `Name = Literal[...]`, `Name = One | Other`, `Name: TypeAlias = ...`."""
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias"
    return isinstance(node.value, ast.Subscript | ast.BinOp)


def names_in(path: Path) -> list[str]:
    """The names of a module's classes, at any depth, and type aliases."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            found.append(node.name.lstrip("_"))
        elif isinstance(node, ast.Assign | ast.AnnAssign) and is_alias(node):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            found += [name.lstrip("_") for name in names if _TYPE_NAME.fullmatch(name)]
    return found


def shared(source: Path = SOURCE) -> list[str]:
    """One line for each name that several modules, classes or aliases share and that is not listed above."""
    modules, classes = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for path in sorted(source.rglob("*.py")):
        if path.is_relative_to(REVISIONS):
            continue
        where = str(path.relative_to(source))
        if path.stem not in {"__init__", "__main__"}:
            modules[path.stem].append(where)
        for name in names_in(path):
            classes[name].append(where)
    return [
        f"{kind} {name}: {', '.join(places)}"
        for kind, found, allowed in (
            ("module", modules, SHARED_MODULES),
            ("class", classes, SHARED_CLASSES),
        )
        for name, places in sorted(found.items())
        if len(places) > 1 and name not in allowed
    ]


def main(source: Path = SOURCE) -> int:
    """Print each shared name with its places; return 1 if there is one, else 0."""
    found = shared(source)
    for line in found:
        sys.stdout.write(f"{line}\n")
    if found:
        sys.stdout.write(
            "Rename all but one of each, or list the name with its reason in scripts/check_names.py.\n"
        )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
