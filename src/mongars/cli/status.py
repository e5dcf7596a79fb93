"""`mongars status`: shows which components run, and which endpoints could answer a request."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mongars.bootstrap.running import running_url
from mongars.cli.api_client import ApiClient
from mongars.cli.exit_codes import complain, exit_on_error
from mongars.cli.key import api_key
from mongars.cli.terminal import console
from mongars.core.errors import ConfigurationError, MongarsError
from mongars.settings import load_settings

if TYPE_CHECKING:
    from mongars.settings import Settings


def status(
    *,
    url: Annotated[str | None, typer.Option(help="The API, if not the local one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which components are up.

    Exit status 1 if a chat request would not be answered.
    """
    with exit_on_error():
        settings = load_settings()
        address = url or running_url(settings)
        client = ApiClient(address, key=_key(settings, address))
        api = asyncio.run(_api(client))
        serve = _serve(settings) if "ray_serve" in api["parts"] or not api["parts"] else None
        if as_json:
            print(json.dumps({"api": api, "serve": serve}, indent=2))
        else:
            _show(api, serve)
        raise typer.Exit(0 if api["status"] in {"ready", "degraded"} else 1)


def _key(settings: Settings, address: str) -> str | None:
    """The API key for the API at the URL `address`; None if there is none, or if the local key may not be sent there.

    In the latter case the reason is printed on standard error.
    """
    try:
        return api_key(settings, address)
    except ConfigurationError as error:
        complain(error)
        return None


async def _api(client: ApiClient) -> dict[str, Any]:
    try:
        _, body = await client.get("/readyz")
        code, known = await client.get("/internal/endpoints")
    except MongarsError as error:
        return {"url": client.url, "status": "down", "detail": str(error), "parts": {}}
    if code == HTTPStatus.OK:  # the key is an administrator's
        for provider in known["providers"]:
            body["parts"][provider["name"]]["endpoints"] = provider["endpoints"]
    return {"url": client.url, **body}


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
        for endpoint in part.get("endpoints", ()):
            table.add_row(f"    {endpoint['id']}", endpoint["state"], _endpoint(endpoint))
    if serve is None:
        console().print(table)
        return
    table.add_row("serve", "healthy" if serve["healthy"] else "not healthy", serve["detail"])
    for replica in serve["replicas"]:
        table.add_row(f"  {replica['name']}", replica["state"], replica["node"])
    console().print(table)


def _endpoint(found: dict[str, Any]) -> str:
    """One line of text about the Ray Serve endpoint `found`, a JSON object of the response of `/internal/endpoints`.

    It has the URL, the requests under way and their limit and, if known, the time to the first token, the seconds
    until it gets requests again after a pause, and the last error.
    """
    seconds, opens = found["first_token_seconds"], found["opens_in"]
    parts = [
        found["url"],
        f"{found['in_flight']} of {found['limit']} under way",
        "" if seconds is None else f"first token {seconds * 1000:.0f} ms",
        "" if not opens else f"again in {opens:.1f} s",
        "" if found["last_error"] is None else f"last error {found['last_error']}",
    ]
    return ", ".join(part for part in parts if part)
