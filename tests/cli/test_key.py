"""The administrator's key in the home directory, and to which servers commands send the key."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mongars.bootstrap.first_start import CLI_KEY
from mongars.bootstrap.secrets import keep_secret
from mongars.testing.ray_cluster import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = "mg-the-local-administrator-key"


@asynccontextmanager
async def listener() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that records the requests it receives; yields its port and the recorded requests."""
    heard: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


async def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MONGARS_", "RAY_"))}  # noqa: TID251
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "mongars", *command],
        cwd=folder,
        env={**kept, "RAY_DASHBOARD_PORT": str(free_ports(1)[0]), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [("chat", "Hello"), ("status",)], ids=["chat", "status"])
async def test_a_foreign_env_file_does_not_get_the_local_key(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A server that the current folder's `.env` names is not sent this machine's key, only MONGARS_API_KEY."""
    home, folder = tmp_path / "home", tmp_path / "foreign"
    folder.mkdir()
    keep_secret(home, CLI_KEY, KEY)
    async with listener() as (port, heard):
        (folder / ".env").write_text(f"MONGARS_HOST=localhost\nMONGARS_PORT={port}\n")
        ended = await run(folder, *command, MONGARS_HOME=str(home))
        assert "MONGARS_API_KEY" in ended.stderr
        assert not any(KEY.encode() in request for request in heard)
        await run(folder, *command, MONGARS_HOME=str(home), MONGARS_API_KEY="mg-explicitly-given")
        assert any(b"mg-explicitly-given" in request for request in heard)


@pytest.mark.slow
async def test_the_local_key_goes_to_the_stack_of_its_home(tmp_path: Path) -> None:
    """The key is sent to the port in the environment and to the address that the running stack announced."""
    home = tmp_path / "home"
    keep_secret(home, CLI_KEY, KEY)
    async with listener() as (port, heard):
        await run(tmp_path, "status", MONGARS_HOME=str(home), MONGARS_PORT=str(port))
        assert any(KEY.encode() in request for request in heard)
        heard.clear()
        (home / "run").mkdir()
        said = {"pid": os.getpid(), "url": f"http://127.0.0.1:{port}", "dashboard": ""}
        (home / "run" / "stack.json").write_text(json.dumps(said))
        await run(tmp_path, "status", MONGARS_HOME=str(home))
        assert any(KEY.encode() in request for request in heard)


@pytest.mark.slow
async def test_a_folder_cannot_borrow_the_key_of_another_home(tmp_path: Path) -> None:
    """If a home's secrets folder is a symbolic link to another home's, the key in it is not sent."""
    home, folder = tmp_path / "home", tmp_path / "foreign"
    keep_secret(home, CLI_KEY, KEY)
    (folder / "run").mkdir(parents=True)
    (folder / "secrets").symlink_to(home / "secrets")
    async with listener() as (port, heard):
        said = {"pid": os.getpid(), "url": f"http://127.0.0.1:{port}", "dashboard": ""}
        (folder / "run" / "stack.json").write_text(json.dumps(said))
        (folder / ".env").write_text(f"MONGARS_HOME={folder}\n")
        await run(folder, "status")
        assert heard
        assert not any(KEY.encode() in request for request in heard)


@pytest.mark.slow
async def test_a_foreign_env_file_cannot_send_a_file_as_a_token(tmp_path: Path) -> None:
    """A token file that `.env` names is not sent to a server that `.env` names, and the variable is reported."""
    home, folder = tmp_path / "home", tmp_path / "foreign"
    folder.mkdir()
    (tmp_path / "secret").write_text(KEY)
    async with listener() as (port, heard):
        (folder / ".env").write_text(
            f"RAY_DASHBOARD_ADDRESS=http://127.0.0.1:{port}\nRAY_AUTH_TOKEN_PATH=../secret\n"
            "USE_RAY_SERVE=true\n"
        )
        ended = await run(folder, "status", MONGARS_HOME=str(home))
        assert "RAY_AUTH_TOKEN_PATH" in ended.stdout + ended.stderr
        assert not any(KEY.encode() in request for request in heard)
