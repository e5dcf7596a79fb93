"""PostgreSQL behind PgBouncer in transaction mode, as managed databases are."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text

from mongars.conversation.history import NewTurn
from mongars.core.clock import SystemClock
from mongars.core.errors import StorageUnavailable
from mongars.persistence.config import DatabaseConfig
from mongars.persistence.conversations import SqlConversations
from mongars.persistence.database import Database
from mongars.persistence.migrate import current, head, upgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
CHATS = 40

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer (a Debian package)")


@contextmanager
def pooling(url: str, folder: Path) -> Iterator[str]:
    """Run a pooler with two server connections in front of the database `url`; yields the URL of the pooler."""
    target = make_url(url)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={target.query['host']} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
    )
    # PgBouncer refuses to run as root; then it runs as the user that PostgreSQL runs as.
    owner = Path(str(target.query["host"])).owner()
    user = ["-u", owner] if os.getuid() == 0 else []
    for path in (config, *config.parents[:4]) if user else ():
        path.chmod(path.stat().st_mode | 0o055)
    process = subprocess.Popen([str(PROGRAM), "-q", *user, str(config)])  # noqa: S603
    try:
        for _ in range(500):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)  # noqa: TID251 - a real program starts
        yield f"postgresql://postgres@127.0.0.1:{port}/{target.database}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def pooled_url(make_config: Callable[[str], DatabaseConfig], tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database through the pooler."""
    with pooling(make_config("postgresql").url, tmp_path) as url:
        yield url


async def chat(conversations: SqlConversations, number: int) -> int:
    """The database accesses of one chat: several reads and a stored turn; returns the number of turns found."""
    for _ in range(7):
        await conversations.latest(f"user-{number}", limit=5, session_id="s")
    turn = NewTurn(user_id=f"user-{number}", query="q", response="r", session_id="s")
    await conversations.append(turn)
    return len(await conversations.latest(f"user-{number}", limit=5, session_id="s"))


async def test_a_transaction_pooler_works_as_it_is(pooled_url: str) -> None:
    """Through a pooler, migrations, 40 concurrent chats and the statement timeout work with default settings."""
    config = DatabaseConfig(url=pooled_url)
    await asyncio.to_thread(upgrade, config)
    assert await asyncio.to_thread(current, config) == head()
    async with Database(config) as database:
        await database.healthy()
        conversations = SqlConversations(database, SystemClock())
        async with asyncio.TaskGroup() as group:
            chats = [group.create_task(chat(conversations, n)) for n in range(CHATS)]
        assert [each.result() for each in chats] == [1] * CHATS
        with pytest.raises(StorageUnavailable, match="too long"):
            async with database.reading() as connection:
                await connection.execute(text("SELECT pg_sleep(6)"))


async def test_prepared_statements_behind_a_pooler_name_the_setting(pooled_url: str) -> None:
    """If prepared statements are switched on behind a pooler, the error names `DB_PREPARED_STATEMENTS`."""
    config = DatabaseConfig(url=pooled_url, prepared_statements=True)
    await asyncio.to_thread(upgrade, DatabaseConfig(url=pooled_url))
    async with Database(config) as database:
        conversations = SqlConversations(database, SystemClock())
        failures: list[str] = []

        async def try_chat(number: int) -> None:
            try:
                await chat(conversations, number)
            except StorageUnavailable as error:
                failures.append(str(error))

        async with asyncio.TaskGroup() as group:
            for number in range(CHATS):
                group.create_task(try_chat(number))
    assert any("DB_PREPARED_STATEMENTS" in failure for failure in failures)
