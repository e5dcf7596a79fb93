"""A web page with its own origin whose script runs in headless Chromium."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mongars.testing.loopback_server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)
SECONDS = 60
PAGE = """<!doctype html><title>page</title><script type="module">
const run = async () => {{ {script} }};
const found = await run().catch(error => ({{ failed: String(error) }}));
await fetch("/found", {{ method: "POST", body: JSON.stringify(found) }});
</script>"""


class Page:
    """Serves the page and receives the return value of its script."""

    def __init__(self) -> None:
        self.origin = ""
        self._script = ""
        self._found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def result(self, script: str, folder: Path) -> Any:
        """The return value, in headless Chromium, of `script`, the body of an async function; `folder`: its profile."""
        chromium = shutil.which("chromium")
        if chromium is None:
            pytest.skip("Chromium is not installed (apt-get install chromium)")
        self._script = script
        browser = await asyncio.create_subprocess_exec(
            chromium,
            *OPTIONS,
            f"--user-data-dir={folder}",
            self.origin,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},  # noqa: TID251
        )
        try:
            async with asyncio.timeout(SECONDS):
                return await self._found
        finally:
            browser.terminate()
            await browser.wait()

    async def shown(self, _: Request) -> Response:
        return HTMLResponse(PAGE.format(script=self._script))

    async def received(self, request: Request) -> Response:
        self._found.set_result(await request.json())
        return Response()


@asynccontextmanager
async def web_page() -> AsyncIterator[Page]:
    page = Page()
    routes = [
        Route("/", page.shown),
        Route("/found", page.received, methods=["POST"]),
    ]
    async with serving(Starlette(routes=routes)) as url:
        page.origin = url
        yield page
