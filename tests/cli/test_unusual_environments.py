"""Commands with unusual terminals, closed streams, no home directory or odd `.env` files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"


def call(
    *arguments: str, cwd: Path, then: str = "", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """The result of running `mongars` with `arguments` in folder `cwd`; `then`: shell text after the command."""
    folders = {"MONGARS_HOME": str(cwd / "home"), "MONGARS_CACHE": str(cwd / "cache")}
    environment = {"PATH": PATH, "HOME": str(cwd), **folders, **variables}
    words = " ".join(arguments)
    return subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", f"{sys.executable} -m mongars {words} {then}"],
        cwd=cwd,
        env={name: value for name, value in environment.items() if value},
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_an_env_file_in_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    """A `.env` that is not UTF-8 is refused with one line that has its path and the required encoding."""
    (tmp_path / ".env").write_text("MONGARS_SYSTEM_PROMPT=Sei höflich\n", encoding=encoding)
    done = call("doctor", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert str(tmp_path / ".env") in line
    assert "UTF-8" in line


@pytest.mark.slow
def test_an_env_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """In a `.env` that begins with a byte order mark, the first variable is read."""
    (tmp_path / ".env").write_text("MONGARS_PORT=70000\n", encoding="utf-8-sig")
    done = call("doctor", cwd=tmp_path)
    assert "MONGARS_PORT" in done.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["MONGARS_HOME", "MONGARS_CACHE", "RAY_CLIENT_CA_FILE"])
def test_without_a_home_folder_the_variable_is_named(tmp_path: Path, variable: str) -> None:
    """A path with a `~` that cannot be resolved is refused with the variable's name, without a traceback."""
    done = call("doctor", cwd=tmp_path, **{variable: "~no-such-user/x"})
    assert done.returncode == 1
    assert variable in done.stderr.decode() + done.stdout.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_another_encoding_shows_everything_it_can(
    tmp_path: Path, encoding: str
) -> None:
    """A character that the output encoding lacks causes no traceback."""
    done = call(
        "doctor",
        cwd=tmp_path,
        PYTHONIOENCODING=encoding,
        MONGARS_SYSTEM_PROMPT="höflich",
        MONGARS_ENGIN="日本",
    )
    assert b"Traceback" not in done.stderr
    assert b"MONGARS_ENGIN" in done.stdout
    done = call("--help", cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", ["doctor", "status", "version", "'' --help"])
def test_closed_output_is_no_traceback(tmp_path: Path, command: str) -> None:
    """With standard output closed, or its reader gone, a command ends without a traceback."""
    for redirection in (">&-", "2>&1 >&- | true", "| true"):
        done = call(command.replace("'' ", ""), cwd=tmp_path, then=redirection)
        assert b"Traceback" not in done.stderr + done.stdout, redirection


@pytest.mark.slow
def test_piped_lines_stay_whole(tmp_path: Path) -> None:
    """In a pipe, each finding of `doctor` is one line, however long."""
    done = call("doctor", cwd=tmp_path, then="| cat", RAY_SERVE_URL="http://127.0.0.1:9/generate")
    lines = done.stdout.decode().splitlines()
    (fallback,) = [line for line in lines if "fallback" in line and line.startswith("warn")]
    assert "OLLAMA_HOST" in fallback
    assert all(line.startswith(("ok", "warn", "fail")) for line in lines)
