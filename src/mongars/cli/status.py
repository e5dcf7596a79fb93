"""`mongars status`: what runs, and through what an answer would come."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mongars.bootstrap.running import running_url
from mongars.cli.errors import exit_on_error
from mongars.cli.http import ApiClient
from mongars.core.errors import MongarsError
from mongars.settings import load_settings

if TYPE_CHECKING:
    from mongars.settings import Settings


def status(
    *,
    url: Annotated[str | None, typer.Option(help="The API, if not the local one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which parts are up.

    Exit status 1 if a chat would not be answered.
    """
    with exit_on_error():
        settings = load_settings()
        api = asyncio.run(_api(url or running_url(settings)))
        serve = _serve(settings) if "ray_serve" in api["parts"] or not api["parts"] else None
        if as_json:
            print(json.dumps({"api": api, "serve": serve}, indent=2))
        else:
            _show(api, serve)
        raise typer.Exit(0 if api["status"] in {"ready", "degraded"} else 1)


async def _api(url: str) -> dict[str, Any]:
    try:
        _, body = await ApiClient(url, key=None).get("/readyz")
    except MongarsError as error:
        return {"url": url, "status": "down", "detail": str(error), "parts": {}}
    return {"url": url, **body}


def _serve(settings: Settings) -> dict[str, Any]:
    from mongars.bootstrap.serving import serve_control  # noqa: PLC0415 (imports Ray: a second)

    try:
        state = serve_control(settings, None).status()
    except MongarsError as error:
        return {"healthy": False, "detail": str(error), "replicas": []}
    return {
        "healthy": state.healthy,
        "detail": state.describe(),
        "replicas": [
            {"name": replica.name, "state": replica.state, "node": replica.node}
            for part in state.deployments
            for replica in part.replicas
        ],
    }


def _show(api: dict[str, Any], serve: dict[str, Any] | None) -> None:
    table = Table("part", "state", "detail", box=None)
    table.add_row("api", api["status"], api.get("detail") or api["url"])
    for name, part in api["parts"].items():
        table.add_row(f"  {name}", part["state"], part["detail"])
    if serve is None:
        Console().print(table)
        return
    table.add_row("serve", "healthy" if serve["healthy"] else "not healthy", serve["detail"])
    for replica in serve["replicas"]:
        table.add_row(f"  {replica['name']}", replica["state"], replica["node"])
    Console().print(table)
