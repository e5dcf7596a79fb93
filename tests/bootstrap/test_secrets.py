from __future__ import annotations

import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mongars.bootstrap.secrets import ensure_secret, keep_secret, read_secret, secret_file
from mongars.core.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

ENSURE_ON_SIGNAL = """
import sys
from pathlib import Path
from mongars.bootstrap.secrets import ensure_secret
print("ready", flush=True)
for line in sys.stdin:
    print(ensure_secret(Path(line.strip()), "jwt"), flush=True)
"""


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    """The first call makes a secret of 256 random bits that only its owner can read; later calls return the same."""
    assert read_secret(tmp_path, "jwt") is None
    made = ensure_secret(tmp_path, "jwt")
    assert len(bytes.fromhex(made)) == 32
    assert ensure_secret(tmp_path, "jwt") == read_secret(tmp_path, "jwt") == made
    path = secret_file(tmp_path, "jwt")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    """Processes that create a secret at the same time all return the one stored in the file."""
    processes = [
        subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", ENSURE_ON_SIGNAL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]

    def said() -> list[str]:
        return [process.stdout.readline().strip() for process in processes]

    assert said() == ["ready"] * 3
    for number in range(20):
        home = tmp_path / str(number)
        for process in processes:
            process.stdin.write(f"{home}\n")
            process.stdin.flush()
        assert set(said()) == {read_secret(home, "jwt")}
    for process in processes:
        process.communicate()
        assert process.returncode == 0


def test_a_kept_secret_replaces_the_earlier_one(tmp_path: Path) -> None:
    """`keep_secret` replaces the stored secret."""
    ensure_secret(tmp_path, "cli-key")
    keep_secret(tmp_path, "cli-key", "mg-new")
    assert ensure_secret(tmp_path, "cli-key") == "mg-new"
    assert len(list((tmp_path / "secrets").iterdir())) == 1


def test_an_empty_file_is_not_taken_for_a_secret(tmp_path: Path) -> None:
    """An empty secret file stops the start with an error that says to delete it."""
    secret_file(tmp_path, "jwt").parent.mkdir()
    secret_file(tmp_path, "jwt").touch()
    with pytest.raises(ConfigurationError, match=r"empty.*Delete"):
        ensure_secret(tmp_path, "jwt")


def test_a_file_of_other_bytes_is_not_taken_for_a_secret(tmp_path: Path) -> None:
    """A secret file with bytes that are not ASCII stops the start with its path and what to do, not a traceback."""
    secret_file(tmp_path, "jwt").parent.mkdir()
    secret_file(tmp_path, "jwt").write_bytes(b"\xff\xfesecret")
    with pytest.raises(ConfigurationError, match=r"jwt.*not ASCII.*Delete"):
        ensure_secret(tmp_path, "jwt")


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """If a file is in the place of the secrets folder, the error names the path."""
    (tmp_path / "secrets").touch()
    with pytest.raises(ConfigurationError, match="secrets"):
        ensure_secret(tmp_path, "jwt")
