"""Validation and conversion of URLs in settings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

OLLAMA_PORT = 11434
_OTHER_ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/api/chat",
    "/api/v1/conversation/chat",
    "/health",
    "/healthz",
    "/readyz",
)
"""Routes of the Serve application and of the API at which `/generate` is not answered."""
_SEPARATORS = re.compile(r"[\s;]")
_ENCODE = "Percent-encode special characters of a user name or password."


def http_url(text: str) -> str:
    """Return the URL `text` without trailing slashes.

    Raises `ValueError` unless it is one http(s) URL with a host, without white space and semicolons. The message
    contains no password.
    """
    shown = text.rpartition("@")[2]  # the part before `@` may be a password
    if _SEPARATORS.search(text):
        message = f"{shown!r} holds a space or a semicolon; separate several URLs by commas"
        raise ValueError(message)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        misplaced = "@" in text.replace(parts.netloc, "", 1)
    except ValueError:  # its message may contain a part of a password
        message = f"{shown!r} is not a URL: its host, port or IP address is invalid. {_ENCODE}"
        raise ValueError(message) from None
    if misplaced:  # a password with `/`, `?` or `#` would become part of the path, which logs show
        message = (
            f"{shown!r} has an @ before it that does not follow a user name and password. {_ENCODE}"
        )
        raise ValueError(message)
    if not usable:
        message = f"{shown!r} is not an http:// or https:// URL"
        raise ValueError(message)
    return text.rstrip("/")


def endpoint_url(text: str) -> str:
    """Return the URL `text` of a Ray Serve endpoint, such as `http://ray:8000/generate`, without trailing slashes.

    Raises `ValueError` unless it is one http(s) URL with a host and a path, and for the URL of another route of ours.
    """
    url = http_url(text)
    path, shown = urlsplit(url).path.rstrip("/"), url.rpartition("@")[2]
    if not path:
        message = f"{shown!r} has no path; the application answers at /generate"
        raise ValueError(message)
    other = next((route for route in _OTHER_ROUTES if path.endswith(route)), None)
    if other is not None:
        message = f"{shown!r} is the URL of {other}; name that of /generate on the same application"
        raise ValueError(message)
    return url


def endpoint_urls(texts: Iterable[str]) -> tuple[str, ...]:
    """The URLs of Ray Serve endpoints, each as `endpoint_url` returns it, without repetition.

    URLs are the same if they differ only in trailing slashes, in the case of the host or in naming the default port.
    Raises `ValueError` as `endpoint_url` does.
    """
    found: dict[tuple[object, ...], str] = {}
    for text in texts:
        url = endpoint_url(text)
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        user = parts.netloc.rpartition("@")[0]
        same = (parts.scheme, user, parts.hostname, port, parts.path.rstrip("/"), parts.query)
        found.setdefault(same, url)
    return tuple(found.values())


def has_credentials(url: str) -> bool:
    """Whether the URL has a user name or password, as in `http://user:password@host/`. It must be a valid URL."""
    return "@" in urlsplit(url).netloc


def ollama_url(text: str) -> str:
    """The URL of an Ollama server from any form that `OLLAMA_HOST` may have: `HOST`, `:PORT`, `HOST:PORT` or a URL.

    Without trailing slashes. The host is 127.0.0.1 if `text` has none, or has `0.0.0.0`. Without a port, a URL gets
    none, and every other form port 11434. An IPv6 address must be in brackets.

    Raises `ValueError` for any other text; empty text is allowed.
    """
    scheme, separator, rest = text.strip().rstrip("/").rpartition("://")
    name, colon, port = rest.rpartition(":")
    if not colon or not port.isdigit():
        name, port = rest, "" if separator else str(OLLAMA_PORT)
    # A server that listens on every interface is reached at the loopback address.
    name = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1"}.get(name, name)  # noqa: S104 (not bound)
    return http_url(f"{scheme or 'http'}://{name}{':' if port else ''}{port}")


def web_origin(text: str) -> str:
    """Return the web origin `text` as browsers send it, such as `https://app.example.org`.

    In lower case, without a default port and trailing slashes.

    Raises `ValueError` for anything else, including `*` (every site) and `null` (local files, among others).
    """
    if "*" in text or text == "null":
        message = f"{text!r} would open the API to every page; name each origin"
        raise ValueError(message)
    url = http_url(text).lower()
    parts = urlsplit(url)
    if url != f"{parts.scheme}://{parts.netloc}" or "@" in url or not url.isascii():
        message = f"{text!r} is not an origin: it is scheme://host or scheme://host:port, in ASCII"
        raise ValueError(message)
    usual = {"http": ":80", "https": ":443"}[parts.scheme]
    return url.removesuffix(usual)


def endpoint_label(url: str) -> str:
    """`HOST:PORT` of a URL (`HOST` alone if it has no port), without credentials; for messages and logs.

    The URL must be a valid one; it is not checked.
    """
    return urlsplit(url).netloc.rpartition("@")[2]


def reachable_host(host: str) -> str:
    """The address at which a server that listens on the address `host` is reached from the same machine.

    The loopback address for `0.0.0.0` and `::`, else `host` itself.
    """
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (not bound here)


def local_url(host: str, port: int) -> str:
    """The http URL, without a path, of a server that listens on `host` and `port`, for callers on the same machine.

    For a server that listens on every address (`0.0.0.0`, `::`), the loopback address is in the URL. An IPv6 address is
    put in brackets.
    """
    name = reachable_host(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
