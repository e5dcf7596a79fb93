from __future__ import annotations

import pytest

from mongars.core.urls import local_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),  # noqa: S104 - named, not bound
        ("::", "http://[::1]:8080"),
        ("::1", "http://[::1]:8080"),
        ("localhost", "http://localhost:8080"),
    ],
)
def test_a_server_is_called_where_it_listens(host: str, url: str) -> None:
    """The local URL of a server that listens on all addresses has the loopback address of the same family."""
    assert local_url(host, 8080) == url
