"""`mongars users` and `mongars keys`: manage accounts and API keys."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from mongars.api.accounts import create_account
from mongars.api.credentials import Keys, Passwords
from mongars.bootstrap.first_start import open_accounts
from mongars.cli.exit_codes import exit_on_error
from mongars.cli.terminal import console
from mongars.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from mongars.persistence.sql_accounts import SqlAccounts

users = typer.Typer(help="Accounts.", no_args_is_help=True)
keys = typer.Typer(help="API keys.", no_args_is_help=True)

T = TypeVar("T")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@users.command("create", epilog="Example: mongars users create alice")
def create_user(
    username: str,
    admin: Annotated[bool, typer.Option("--admin", help="Make it an administrator.")] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
) -> None:
    """Create an account; prompts twice for its password, unless --password-stdin is given.

    Exit status 1 if the name is taken or unusable, or the password is too short or too long.
    """
    with exit_on_error():
        password = sys.stdin.readline().rstrip("\n") if password_stdin else _ask_password()

        async def work(store: SqlAccounts) -> None:
            await create_account(
                store, Passwords(), username=username, password=password, is_admin=admin
            )

        _run(work)
        print(f"Account {username} created.")


@users.command("list", epilog="Example: mongars users list --json")
def list_users(as_json: AsJson = False) -> None:
    """List all accounts: name, whether it is an administrator, and when it was created."""
    with exit_on_error():
        found = _run(lambda store: store.accounts())
        rows = [
            {"username": a.username, "admin": a.is_admin, "created": a.created_at.isoformat()}
            for a in found
        ]
        _print(rows, as_json=as_json)


@keys.command("create", epilog="Example: mongars keys create alice --name laptop")
def create_key(
    username: str,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Give it administrator's rights.")] = False,
) -> None:
    """Create an API key for an account and print it; it cannot be shown again.

    Exit status 1 if there is no such account.
    """
    with exit_on_error():
        issued = Keys().issue(username, name or "unnamed", is_admin=admin)
        _run(lambda store: store.create_key(issued.record))
        print(issued.plaintext)


@keys.command("list", epilog="Example: mongars keys list alice")
def list_keys(
    username: Annotated[str | None, typer.Argument(help="Only this account's.")] = None,
    as_json: AsJson = False,
) -> None:
    """List API keys with id, account, name, rights and state (active or revoked), without their secrets."""
    with exit_on_error():
        found = _run(lambda store: store.keys(username))
        rows = [
            {
                "id": key.id,
                "username": key.username,
                "name": key.name,
                "admin": key.is_admin,
                "state": "active" if key.revoked_at is None else "revoked",
            }
            for key in found
        ]
        _print(rows, as_json=as_json)


@keys.command("revoke", epilog="Example: mongars keys revoke 4f1c09ab77de")
def revoke_key(key_id: str) -> None:
    """Revoke an API key permanently, by the id that `mongars keys list` shows.

    A running API may accept it for 30 seconds more. Exit status 1 if there is no such key.
    """
    with exit_on_error():
        _run(lambda store: store.revoke_key(key_id))
        print(f"Key {key_id} revoked.")


def _run(work: Callable[[SqlAccounts], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_accounts(load_settings()) as store:
            return await work(store)

    return asyncio.run(run())


def _ask_password() -> str:
    first = getpass.getpass("Password: ")
    if first != getpass.getpass("Again: "):
        print("error: The passwords differ.", file=sys.stderr)
        sys.exit(1)
    return first


def _print(rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([dict(row) for row in rows], indent=2))
        return
    if not rows:
        print("None.")
        return
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console().print(table)
