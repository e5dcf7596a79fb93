"""Writing an export into a folder, and the committed copies of the exports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from validation import ROOT

from mongars.core.errors import ConfigurationError
from mongars.serving.exports.config import ExportConfig
from mongars.serving.exports.export import render, write


def test_files_are_written_and_a_second_export_changes_nothing(tmp_path: Path) -> None:
    """An export writes its files and returns their paths; the second time it writes and returns nothing."""
    files = {"a.yaml": "1\n", "deep/b.yaml": "2\n"}
    assert set(write(files, tmp_path, kind="k8s")) == set(files)
    assert (tmp_path / "deep" / "b.yaml").read_text() == "2\n"
    assert write(files, tmp_path, kind="k8s") == ()


def test_what_an_export_no_longer_makes_is_removed(tmp_path: Path) -> None:
    """Files that an export no longer contains are removed; those of another kind of export stay."""
    write({"serve.yaml": "s\n"}, tmp_path, kind="serve")
    write({"a.yaml": "1\n", "b.yaml": "2\n"}, tmp_path, kind="k8s")
    write({"a.yaml": "1\n"}, tmp_path, kind="k8s")
    assert not (tmp_path / "b.yaml").exists()
    assert (tmp_path / "serve.yaml").exists()


@pytest.mark.parametrize("edited", ["a.yaml", "b.yaml"], ids=["replaced", "stale"])
def test_a_file_someone_edited_is_not_lost(tmp_path: Path, edited: str) -> None:
    """If an exported file was edited, an export changes nothing unless `force` is given."""
    write({"a.yaml": "1\n", "b.yaml": "2\n"}, tmp_path, kind="k8s")
    (tmp_path / edited).write_text("mine\n")
    with pytest.raises(ConfigurationError, match=edited):
        write({"a.yaml": "9\n", "c.yaml": "3\n"}, tmp_path, kind="k8s")
    assert (tmp_path / edited).read_text() == "mine\n"
    assert not (tmp_path / "c.yaml").exists()
    write({"a.yaml": "9\n", "c.yaml": "3\n"}, tmp_path, kind="k8s", force=True)
    assert (tmp_path / "a.yaml").read_text() == "9\n"
    assert not (tmp_path / "b.yaml").exists()


def test_a_foreign_file_is_not_overwritten_unless_it_is_the_same(tmp_path: Path) -> None:
    """A file that no export wrote is not overwritten, unless its text is the same."""
    (tmp_path / "a.yaml").write_text("theirs\n")
    with pytest.raises(ConfigurationError, match=r"a\.yaml"):
        write({"a.yaml": "ours\n"}, tmp_path, kind="k8s")
    write({"a.yaml": "theirs\n"}, tmp_path, kind="k8s")


def test_a_record_that_points_outside_removes_nothing_there(tmp_path: Path) -> None:
    """An export removes no file outside its folder, even if its record was changed to list one."""
    outside = tmp_path / "outside.txt"
    outside.write_text("keep\n")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".mongars-export-k8s.json").write_text('{"../outside.txt": ""}')
    write({"a.yaml": "1\n"}, folder, kind="k8s", force=True)
    assert outside.exists()


@pytest.mark.parametrize("record", ["{", "[]"], ids=["torn", "not a record"])
def test_an_unreadable_record_is_reported(tmp_path: Path, record: str) -> None:
    """If the record of the last export is unreadable, the export fails with a message to remove it."""
    (tmp_path / ".mongars-export-k8s.json").write_text(record)
    with pytest.raises(ConfigurationError, match="Remove it"):
        write({"a.yaml": "1\n"}, tmp_path, kind="k8s")


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    """An export to a folder that cannot be written fails with a message that names `--out`."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--out"):
        write({"a.yaml": "1\n"}, tmp_path / "file", kind="serve")


def test_committed_files_are_what_the_code_makes() -> None:
    """The committed deployment files are those that the code makes (`make docs` was run)."""
    for folder, kind in (("deploy/serve", "serve"), ("deploy/k8s", "k8s"), (".", "compose")):
        for path, text in render(kind, ExportConfig()).items():
            assert (ROOT / folder / path).read_text(encoding="utf-8") == text
    command = [sys.executable, "-m", "scripts.generate_deploy", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 (a tool of ours, fixed arguments)
    assert checked.returncode == 0, checked.stderr


def test_files_follow_no_path_of_this_machine() -> None:
    """Exports contain no path of the machine that makes them."""
    for kind in ("serve", "k8s", "helm", "compose"):
        for path, text in render(kind, ExportConfig()).items():
            assert str(ROOT) not in text, path
            assert str(Path.home()) + "/" not in text, path
