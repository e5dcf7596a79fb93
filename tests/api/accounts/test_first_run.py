from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mongars.api.first_run import PRESET_HINT, bootstrap_admin
from mongars.bootstrap.first_start import CLI_KEY, open_accounts, prepare_database
from mongars.bootstrap.secrets import read_secret
from mongars.core.clock import pause
from mongars.core.errors import ConfigurationError, Conflict, StorageUnavailable
from mongars.core.identity import Principal
from mongars.settings import load_settings
from mongars.testing.ray_cluster import free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import AuthSetup
    from mongars.core.identity import ApiKey
    from mongars.settings import Settings

PRESET = "operator's-own!key"


async def test_the_first_run_makes_an_administrator_once(auth: AuthSetup) -> None:
    """The first run creates an administrator whose password and key work; a second run creates none."""
    first = await bootstrap_admin(auth.store, auth.passwords)
    assert first is not None
    assert first.password not in repr(first)
    assert first.api_key not in repr(first)
    assert await auth.who(first.api_key) == Principal(username="admin", is_admin=True)
    token = await auth.authenticator.login(first.username, first.password)
    assert (await auth.who(token)).is_admin
    assert await bootstrap_admin(auth.store, auth.passwords) is None
    assert len(await auth.store.keys()) == 1


async def test_of_simultaneous_first_runs_one_speaks(auth: AuthSetup) -> None:
    """Of four first runs at once, one creates the administrator and returns its credentials; the others return None."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(bootstrap_admin(auth.store, auth.passwords, preset_key=PRESET))
            for _ in range(4)
        ]
    assert [task.result() is None for task in tasks].count(False) == 1
    assert len(await auth.store.accounts()) == len(await auth.store.keys()) == 1


async def test_a_preset_key_works_from_the_first_run_on(auth: AuthSetup) -> None:
    """A preset key of any format becomes the administrator's key, and a second run with it changes nothing."""
    first = await bootstrap_admin(auth.store, auth.passwords, preset_key=PRESET)
    assert first is not None
    assert first.api_key == PRESET_HINT
    assert await auth.who(PRESET) == Principal(username="admin", is_admin=True)
    assert await bootstrap_admin(auth.store, auth.passwords, preset_key=PRESET) is None
    assert len(await auth.store.keys()) == 1


async def test_a_preset_key_can_be_added_later(auth: AuthSetup) -> None:
    """A preset key added after the first run authenticates as the existing administrator."""
    await auth.member("root", is_admin=True)
    assert await bootstrap_admin(auth.store, auth.passwords, preset_key=PRESET) is None
    assert await auth.who(PRESET) == Principal(username="root", is_admin=True)


async def test_a_preset_key_may_look_like_a_token(auth: AuthSetup) -> None:
    """A preset key with two dots, like a JWT, still authenticates as a key."""
    key = "key.with-two.dots-in-it"
    await bootstrap_admin(auth.store, auth.passwords, preset_key=key)
    assert (await auth.who(key)).is_admin


@pytest.mark.parametrize("key", ["", "fifteen-letters", "with a space in it", "ungewöhnlich-lang"])
async def test_an_unusable_preset_key_stops_the_start(auth: AuthSetup, key: str) -> None:
    """A preset key that is short or unfit for a header stops the start; the error names the variable, not the key."""
    with pytest.raises(ConfigurationError, match="MONGARS_BOOTSTRAP_API_KEY") as caught:
        await bootstrap_admin(auth.store, auth.passwords, preset_key=key)
    assert not key or key not in str(caught.value)
    assert await auth.store.accounts() == ()


async def test_a_revoked_preset_key_does_not_come_back(auth: AuthSetup) -> None:
    """A preset key that was revoked stops the start with an error and is not made valid again."""
    await bootstrap_admin(auth.store, auth.passwords, preset_key=PRESET)
    (key,) = await auth.store.keys()
    await auth.store.revoke_key(key.id)
    with pytest.raises(ConfigurationError, match="revoked"):
        await bootstrap_admin(auth.store, auth.passwords, preset_key=PRESET)


async def test_an_ordinary_key_is_not_raised_to_an_administrators(auth: AuthSetup) -> None:
    """A preset key that is already stored without administrator rights is refused."""
    await auth.member("root", is_admin=True)
    plain, _ = await auth.key("root")
    with pytest.raises(ConfigurationError, match="not an administrator"):
        await bootstrap_admin(auth.store, auth.passwords, preset_key=plain)


async def test_a_plain_account_named_admin_is_in_the_way(auth: AuthSetup) -> None:
    """If an ordinary account is named `admin`, the first run fails with a conflict and leaves the account as it is."""
    await auth.member("Admin")
    with pytest.raises(Conflict, match="admin"):
        await bootstrap_admin(auth.store, auth.passwords)


def key_names(settings: Settings) -> list[str]:
    """The names of all keys stored in the home directory of `settings`."""

    async def read() -> tuple[ApiKey, ...]:
        async with open_accounts(settings) as store:
            return await store.keys()

    return [key.name for key in asyncio.run(read())]


def test_the_command_line_gets_a_key_only_if_requested(tmp_path: Path) -> None:
    """An API start creates no key for the command line; a command that asks for the key creates it once."""
    settings = load_settings({"MONGARS_HOME": str(tmp_path)})
    prepare_database(settings, local_key=False)
    assert read_secret(settings.home, CLI_KEY) is None
    assert key_names(settings) == ["first run"]
    prepare_database(settings)
    prepare_database(settings)
    assert read_secret(settings.home, CLI_KEY) is not None
    assert key_names(settings) == ["first run", "this machine's command line"]


def test_a_wait_for_the_database_is_reported_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the API waits for an unreachable database at start, standard error says so."""
    (port,) = free_ports(1)
    url = f"postgresql://u:p@127.0.0.1:{port}/none"
    settings = load_settings(
        {
            "MONGARS_HOME": str(tmp_path),
            "DATABASE_URL": url,
            "DB_STARTUP_TIMEOUT": "1",
            "DB_STARTUP_RETRY_INTERVAL": "0.5",
        }
    )
    with pytest.raises(StorageUnavailable):
        prepare_database(settings, local_key=False, wait=pause)
    assert "Waiting for the database" in capsys.readouterr().err


@pytest.mark.slow
def test_the_api_does_not_echo_a_preset_key(tmp_path: Path) -> None:
    """`mongars api` prints the name of the preset key's variable instead of the key, since logs keep its output."""
    environment = {
        "PATH": os.defpath,
        "MONGARS_HOME": str(tmp_path),
        "MONGARS_CACHE": str(tmp_path),
        "MONGARS_BOOTSTRAP_API_KEY": PRESET,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "mongars", "api", "--port", "1"],  # need not serve
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as api:
        assert api.stderr is not None
        shown = []
        for line in api.stderr:
            shown.append(line)
            if "API key" in line:
                break
        api.terminate()
        shown += api.stderr
    assert f"API key   {PRESET_HINT}" in "".join(shown)
    assert PRESET not in "".join(shown)
    assert not (tmp_path / "secrets" / CLI_KEY).exists()
