"""`python -m modules.ray_service`: deploy, inspect and remove the Serve application."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mongars.bootstrap.proxy import proxy_advice
from mongars.bootstrap.serving import dashboard_of, exported_config, serve_control, serving_config
from mongars.cli.exit_codes import exit_on_error
from mongars.cli.terminal import console, prepare_streams
from mongars.serving.definition import deploy_schema
from mongars.serving.exports.config import installation
from mongars.serving.exports.export import ExportKind, render, source_from, write
from mongars.settings import load_settings

if TYPE_CHECKING:
    from mongars.serving.application_state import ApplicationState

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EXAMPLES = """\b
Examples:
  python -m modules.ray_service --deploy
  python -m modules.ray_service --deploy --address http://ray-head:8265
  python -m modules.ray_service --deploy --dry-run
  python -m modules.ray_service --status --json
  python -m modules.ray_service --export k8s --out deploy/k8s
  python -m modules.ray_service --shutdown
"""


@app.command(epilog=EXAMPLES)
def ray_service(  # noqa: PLR0913 (every flag of the command is a parameter)
    *,
    deploy: Annotated[bool, typer.Option("--deploy", help="Deploy, wait until healthy.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show what is deployed.")] = False,
    shutdown: Annotated[bool, typer.Option("--shutdown", help="Remove the application.")] = False,
    export: Annotated[
        ExportKind | None, typer.Option(help="Render manifests of that kind into --out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for --export.")] = Path("deploy"),
    force: Annotated[bool, typer.Option(help="Overwrite files not exported here.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the definition; deploy nothing.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray dashboard URL of the cluster.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for HEALTHY.")] = 180.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Deploy, inspect, export or remove the Serve application of monGARS.

    Give exactly one of --deploy, --status, --export and --shutdown; else the exit status is 2. It is 1 on an error, and
    for --status if the application is not healthy.
    """
    if [deploy, status, shutdown, export is not None].count(True) != 1:
        message = "Choose one of --deploy, --status, --export and --shutdown."
        raise typer.BadParameter(message)
    with exit_on_error():
        if deploy and dry_run:
            print(json.dumps(deploy_schema(serving_config(load_settings())), indent=2))
        elif deploy:
            _deploy(address, timeout=timeout, as_json=as_json)
        elif export is not None:
            _export(export, out, force=force)
        elif status:
            state = serve_control(load_settings(), address).status()
            _show(state, as_json=as_json)
            raise typer.Exit(0 if state.healthy else 1)
        else:
            serve_control(load_settings(), address).shutdown()
            print("The Serve application is removed; the cluster keeps running.")


def _deploy(address: str | None, *, timeout: float, as_json: bool) -> None:
    settings = load_settings()
    config = serving_config(settings)
    screen = console(stderr=True)
    printed = ""

    def progress(state: ApplicationState) -> None:
        nonlocal printed
        if state.describe() != printed:
            printed = state.describe()
            screen.print(printed, markup=False)

    state = serve_control(settings, address).deploy(config, timeout=timeout, on_progress=progress)
    _show(state, as_json=as_json)
    if not as_json:
        path = config.replica.generate_path
        print(f"Endpoint: http://{config.host}:{config.port}{path}")
    advice = proxy_advice(config, dashboard_of(settings, address))
    if advice is not None:
        screen.print(f"Warning: {advice}", markup=False)


def _export(kind: ExportKind, out: Path, *, force: bool) -> None:
    config = installation(exported_config(load_settings(), images_only=kind in {"k8s", "helm"}))
    changed = write(render(kind, config, source=source_from(out)), out, kind=kind, force=force)
    for path in changed:
        print(out / path)
    print(f"{len(changed)} files changed in {out}." if changed else f"{out} is up to date.")


def _show(state: ApplicationState, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"healthy": state.healthy, **asdict(state)}, indent=2))
        return
    word = "healthy" if state.healthy else "not healthy"
    print(f"Application {state.status} ({word}) {state.message}".rstrip())
    table = Table("deployment", "status", "replica", "state", "node", "pid", box=None)
    for part in state.deployments:
        for replica in part.replicas:
            pid = "" if replica.pid is None else str(replica.pid)
            table.add_row(part.name, part.status, replica.name, replica.state, replica.node, pid)
    if state.deployments:
        console().print(table)


def main() -> None:
    """Run the command `python -m modules.ray_service` with the arguments of this process, then exit with its status."""
    prepare_streams()
    app()


if __name__ == "__main__":
    main()
