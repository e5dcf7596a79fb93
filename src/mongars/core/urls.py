"""URLs as configuration: checked once, where they are read."""

from __future__ import annotations

from urllib.parse import urlsplit


def http_url(text: str) -> str:
    """The URL without a trailing slash. Raises `ValueError` unless it is http(s) with a host."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        message = f"{text!r} is not an http:// or https:// URL"
        raise ValueError(message)
    return text.rstrip("/")
