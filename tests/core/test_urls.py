from __future__ import annotations

import pytest

from mongars.core.urls import http_url, local_url, ollama_url


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


@pytest.mark.parametrize("read", [http_url, ollama_url])
@pytest.mark.parametrize(
    "password",
    ["sec/ret", "sec?ret", "sec#ret", "12/secret", "sec\u2100ret", "sec:ret/x"],
)
def test_a_password_in_a_malformed_url_is_not_shown(read: object, password: str) -> None:
    """A URL whose password has characters that must be percent-encoded is refused, and the message has none of it."""
    with pytest.raises(ValueError, match="Percent-encode") as failure:
        read(f"http://user:{password}@host/generate")
    assert "sec" not in str(failure.value)
    assert failure.value.__cause__ is None


def test_encoded_credentials_are_accepted() -> None:
    """A URL with percent-encoded credentials is returned unchanged."""
    assert http_url("http://us%40er:p%2Fw@host/x") == "http://us%40er:p%2Fw@host/x"
