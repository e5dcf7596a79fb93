"""URLs of the other routes of a Serve application, derived from the URL of its `/generate` route."""

from __future__ import annotations

import functools
from urllib.parse import urlsplit, urlunsplit


@functools.lru_cache(maxsize=256)
def route_url(endpoint: str, path: str) -> str:
    """The URL of the route `path` of the Serve application to which the URL `endpoint` belongs; `path` starts with `/`.

    The last segment of the endpoint's path is replaced and its query removed: for `http://host:8000/app/generate` and
    `/readyz` the result is `http://host:8000/app/readyz`.
    """
    parts = urlsplit(endpoint)
    base = parts.path.rstrip("/").rpartition("/")[0]
    return urlunsplit((parts.scheme, parts.netloc, base + path, "", ""))
