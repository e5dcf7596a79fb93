"""`StaticFolder`: files of a web page, served from a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from fastapi import FastAPI, Request, Response
from yarl import URL

from mongars.api.error_responses import ErrorResponses
from mongars.api.static_files import CONTENT_SECURITY_POLICY, StaticFolder
from mongars.core.errors import ConfigurationError, NotFound
from mongars.testing.loopback_server import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

PAGE = "<!doctype html><title>Console</title>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "console"
    (root / "vendor").mkdir(parents=True)
    (root / "index.html").write_text(PAGE)
    (root / "vendor" / "lib.mjs").write_text("export const answer = 42;")
    return root


@pytest.fixture
async def url(folder: Path) -> AsyncIterator[str]:
    app, static = FastAPI(), StaticFolder(folder)
    ErrorResponses().install(app)

    @app.get("/console/{name:path}")
    async def file(request: Request, name: str) -> Response:
        return static.response(request, name)

    async with serving(app) as base:
        yield f"{base}/console"


async def get(url: str, **headers: str) -> tuple[int, str, Mapping[str, str]]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(URL(url, encoded=True), headers=headers) as response,
    ):
        return response.status, await response.text(), response.headers


async def test_a_file_has_its_type_and_the_policy_of_the_page(url: str) -> None:
    """A file is served with its media type and the content security policy."""
    status, text, headers = await get(f"{url}/index.html")
    assert (status, text) == (200, PAGE)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    _, _, headers = await get(f"{url}/vendor/lib.mjs")
    assert headers["Content-Type"] == "text/javascript; charset=utf-8"


async def test_only_a_url_with_the_digest_is_cached_for_good(url: str, folder: Path) -> None:
    """Only a URL with the file's current digest is cached for a year; others are revalidated by ETag."""
    versioned = StaticFolder(folder).url_of("vendor/lib.mjs")
    _, _, headers = await get(f"{url}/{versioned}")
    assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for other in ("vendor/lib.mjs", "vendor/lib.mjs?v=0000000000000000"):
        status, _, headers = await get(f"{url}/{other}")
        assert (status, headers["Cache-Control"]) == (200, "no-cache")
    for known in (headers["ETag"], f'"0", W/{headers["ETag"]}'):
        status, text, again = await get(f"{url}/vendor/lib.mjs", **{"If-None-Match": known})
        assert (status, text, again["ETag"]) == (304, "", headers["ETag"])
    (folder / "vendor" / "lib.mjs").write_text("export const answer = 43;")
    assert StaticFolder(folder).url_of("vendor/lib.mjs") != versioned


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "vendor/../../secret.txt",
        "vendor//lib.mjs",
        "%2fetc/passwd",
        "..%5csecret.txt",
        "index.html%00",
        "vendor",
        "",
        "none.js",
    ],
)
async def test_nothing_outside_the_folder_is_served(url: str, path: str) -> None:
    """A path that leaves the folder or names no file in it gets 404."""
    status, text, _ = await get(f"{url}/{path}")
    assert status == 404
    assert "secret" not in text.replace("secret.txt", "")


def test_a_file_of_an_unknown_type_stops_the_start(folder: Path) -> None:
    """A file with an unknown suffix is refused at start with a message that names the file and the fix."""
    (folder / "app.wasm").write_bytes(b"\0asm")
    with pytest.raises(ConfigurationError, match=r"app\.wasm: add the media type of '\.wasm'"):
        StaticFolder(folder)


def test_a_folder_of_a_package_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder installed inside a Python package can be served; a file missing in it raises `NotFound`."""
    (tmp_path / "toy_package" / "page").mkdir(parents=True)
    (tmp_path / "toy_package" / "__init__.py").touch()
    (tmp_path / "toy_package" / "page" / "index.html").write_text(PAGE)
    monkeypatch.syspath_prepend(tmp_path)
    page = StaticFolder.of_package("toy_package", "page")
    assert page.url_of("index.html").startswith("index.html?v=")
    with pytest.raises(NotFound, match="There is no file 'none'"):
        page.url_of("none")
