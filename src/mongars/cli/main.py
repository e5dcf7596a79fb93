"""The program `mongars` with all its commands."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer
from rich.console import Console

from mongars.bootstrap.running import running_url
from mongars.cli import access_commands
from mongars.cli.api_client import ApiClient
from mongars.cli.chat_command import ChatSession, converse, once
from mongars.cli.doctor import doctor
from mongars.cli.exit_codes import exit_on_error
from mongars.cli.key import api_key
from mongars.cli.status import status
from mongars.cli.terminal import prepare_streams
from mongars.cli.up import up
from mongars.core.clock import SystemClock
from mongars.settings import load_settings

app = typer.Typer(
    help="monGARS: a self-hosted assistant on your own Ray cluster.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog='Start with: mongars up. Then: mongars chat "Hello"',
)
app.add_typer(access_commands.users, name="users")
app.add_typer(access_commands.keys, name="keys")
app.command(epilog="Example: mongars up --port 8090 --replicas 2")(up)
app.command(epilog="Example: mongars status --json")(status)
app.command(epilog="Example: mongars doctor")(doctor)


@app.command(epilog='Example: mongars chat "What is a semaphore?"')
def chat(
    text: Annotated[str | None, typer.Argument(help="One message; without it, a dialogue.")] = None,
    *,
    url: Annotated[str | None, typer.Option(help="The API, if not the local one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (with TEXT).")] = False,
) -> None:
    """Chat with the assistant in the terminal.

    With TEXT, print the answer to it; exit status 1 if that fails. Without TEXT, a dialogue until Ctrl-D.
    """
    with exit_on_error():
        settings = load_settings()
        address = url or running_url(settings)
        client = ApiClient(address, key=api_key(settings, address))
        session = ChatSession(client, clock=SystemClock())
        console = Console(stderr=True)
        if text is None:
            converse(session, console=console)
        else:
            once(session, text, console=console, as_json=as_json)


@app.command(epilog="Example: mongars api --port 8090")
def api(
    *,
    host: Annotated[str | None, typer.Option(help="Address; MONGARS_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; MONGARS_PORT.")] = None,
) -> None:
    """Run one API process until Ctrl-C or SIGTERM.

    First migrates the database; on the first start, prints the administrator's credentials. Exit status 1 on an error.
    """
    from mongars.cli.api_command import run_api  # noqa: PLC0415 (FastAPI takes half a second to import)

    with exit_on_error():
        run_api(load_settings(), host=host, port=port)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    *,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Print the version for --version; otherwise, if no command is given, the help."""
    if show_version:
        version()
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def version() -> None:
    """Print the version."""
    print(installed_version("mongars"))


def main() -> None:
    """Run the command given in the arguments of this process (`sys.argv`), then exit with its status."""
    prepare_streams()
    sys.exit(app())
