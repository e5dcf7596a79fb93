"""Tests of client libraries against a running stack, and the table of what works with them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from client_table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
KEY = "key-of-the-client-tests"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--url", help="a running API, up to /v1; default: one is started")
    parser.addoption("--key", default=KEY, help="its key")
    parser.addoption("--table", type=Path, help="file to write the table to when all went well")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # noqa: TID251 (else LiteLLM downloads one)
    config.pluginmanager.register(Table(config.getoption("--table")), "table")


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the API, up to `/v1`: that of `--url`, or of a stack started for the tests."""
    given = request.config.getoption("--url")
    if given:
        yield given
        return
    with _running_stack(tmp_path_factory.mktemp("stack")) as port:
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="session")
def key(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--key"))


@pytest.fixture(scope="session")
def too_long() -> str:
    """A text that exceeds the model's context."""
    return "one two three four five six seven eight nine ten " * 600


class _running_stack:  # noqa: N801 (a context manager)
    """`mongars up --no-ray` with a home directory and a port of its own."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._home = home

    def __enter__(self) -> int:
        inherited = {
            name: value
            for name, value in os.environ.items()  # noqa: TID251
            if not name.startswith(("MONGARS_", "RAY_")) or name == "MONGARS_CACHE"
        }
        self._process = subprocess.Popen(  # noqa: S603 (our own command)
            [ROOT / ".venv/bin/python", "-m", "mongars", "up", "--no-ray"],
            env={
                **inherited,
                "MONGARS_HOME": str(self._home),
                "MONGARS_PORT": str(self._port),
                "MONGARS_BOOTSTRAP_API_KEY": KEY,
            },
            cwd=self._home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        screen = ""
        for line in self._process.stdout or ():
            screen += line
            if "monGARS is ready" in line:
                return self._port
        pytest.fail(f"`mongars up` ended:\n{screen}")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
