"""An endpoint's URL as base URL plus path: the other routes of the application beside `/generate`."""

from __future__ import annotations

import functools
from urllib.parse import urlsplit, urlunsplit


@functools.lru_cache(maxsize=256)
def route_url(endpoint: str, path: str) -> str:
    """The URL of another route of the application at `endpoint`; `path` begins with a slash.

    The base URL is the endpoint's URL without the last segment of its path and without its query:
    for `http://host:8000/app/generate` and `/readyz` the result is `http://host:8000/app/readyz`.
    """
    parts = urlsplit(endpoint)
    base = parts.path.rstrip("/").rpartition("/")[0]
    return urlunsplit((parts.scheme, parts.netloc, base + path, "", ""))
