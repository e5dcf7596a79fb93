"""Serving static files that are part of the package, such as those of a web console.

The files are read once, when the folder is opened, and a request only looks up a name among them. So no path
of a request reaches the file system, whatever it contains. No route serves such files yet.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Self

from fastapi.responses import Response

from mongars.core.errors import ConfigurationError, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

    from fastapi import Request

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""The header `Content-Security-Policy`: pages load files of their own origin only, without inline scripts or frames.

A page with an inline import map adds that script's `'sha256-…'` to `script-src`.
"""
IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"
_DIGITS = 16
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class _StaticFile:
    content: bytes
    media_type: str
    digest: str


class StaticFolder:
    """The files of one folder and its subfolders, held in memory and served over HTTP.

    A file's name is its relative path, such as `css/app.css`.
    """

    def __init__(self, folder: Traversable) -> None:
        """Read every file of `folder` into memory.

        Raises `ConfigurationError` for a file whose media type is not known.
        """
        self._files = dict(_read(folder, PurePosixPath()))

    @classmethod
    def of_package(cls, package: str, name: str) -> Self:
        """The files in the folder `name` in the data of the installed Python package `package`.

        Raises `ConfigurationError` for a file whose media type is not known.
        """
        return cls(files(package) / name)

    def url_of(self, name: str) -> str:
        """The relative URL of the file `name`, with the digest of its content: `app.js?v=<digest>`.

        Clients may cache it for a year. Raises `NotFound` for a name that is no file of the folder.
        """
        return f"{name}?v={self._find(name).digest}"

    def response(self, request: Request, name: str) -> Response:
        """The response with the file `name`: 200, or 304 if `If-None-Match` has its digest.

        If the query parameter `v` is the file's digest, clients may cache the response for a year; if not, they
        must revalidate it on each use. Raises `NotFound` for a name that is no file of the folder.
        """
        file = self._find(name)
        etag = f'"{file.digest}"'
        named = request.query_params.get("v") == file.digest
        headers = {
            "cache-control": IMMUTABLE if named else REVALIDATE,
            "content-security-policy": CONTENT_SECURITY_POLICY,
            "etag": etag,
            "x-content-type-options": "nosniff",
        }
        known = request.headers.get("if-none-match", "").split(",")
        if etag in {tag.strip().removeprefix("W/") for tag in known}:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    def _find(self, name: str) -> _StaticFile:
        file = self._files.get(name)
        if file is None:
            detail = f"There is no file {name[:200]!r}."
            raise NotFound(detail)
        return file


def _read(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[str, _StaticFile]]:
    for entry in folder.iterdir():
        inner = path / entry.name
        if entry.is_dir():
            yield from _read(entry, inner)
            continue
        media_type = _MEDIA_TYPES.get(inner.suffix)
        if media_type is None:
            message = f"{inner}: add the media type of {inner.suffix!r} files to static_files.py."
            raise ConfigurationError(message)
        content = entry.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
        yield str(inner), _StaticFile(content, media_type, digest)
