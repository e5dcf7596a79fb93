"""`python -m scripts.check_names` on small source folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def check(source: Path) -> tuple[int, str]:
    """Exit status and output of the check of the folder `source`."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "scripts.check_names", str(source)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout + done.stderr


def write(source: Path, **modules: str) -> None:
    """Write modules; `__` in a name separates the folder from the file."""
    for name, text in modules.items():
        path = source / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("class Route: ...", "class _Route: ..."),
        ("class Route: ...", "def make():\n    class Route: ..."),
        ("class Route: ...", "Route = Literal['a', 'b']"),
        ("Route = dict[str, int]", "Route: TypeAlias = int"),
        ("Route = int | None", "class Route: ..."),
    ],
    ids=["underscore", "nested", "literal", "aliases", "union"],
)
def test_a_type_name_used_twice_fails_and_both_files_are_named(
    tmp_path: Path, one: str, other: str
) -> None:
    """Two classes or type aliases with the same name fail the check, which lists the file of each."""
    write(tmp_path, api__first=one, core__second=other)
    status, output = check(tmp_path)
    assert status == 1
    assert "class Route: api/first.py, core/second.py" in output


def test_a_module_name_used_twice_fails_and_both_files_are_named(tmp_path: Path) -> None:
    """Two modules with the same name fail the check; `config`, which is allowed in every folder, does not."""
    write(tmp_path, api__answers="", core__answers="", api__config="", core__config="")
    status, output = check(tmp_path)
    assert status == 1
    assert "module answers: api/answers.py, core/answers.py" in output
    assert "config" not in output


def test_distinct_names_pass(tmp_path: Path) -> None:
    """Values, type variables and functions may share a name; types and modules are distinct."""
    write(
        tmp_path,
        api__first='class A1: ...\nLIMIT = 1\nModelT = TypeVar("ModelT")\ndef run(): ...\n',
        core__second='class B1: ...\nLIMIT = 2\nModelT = TypeVar("ModelT")\ndef run(): ...\n',
    )
    assert check(tmp_path) == (0, "")
