"""`https://` endpoints: which servers are trusted, which certificate is sent, and which errors operators see."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from certificates import Authority, key_pem
from cryptography.hazmat.primitives.asymmetric import ec

from mongars.core.clock import SystemClock
from mongars.core.errors import ConfigurationError
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.events import AttemptFailed, EndpointChanged, FellBack
from mongars.inference.http.http_pool import HttpPool
from mongars.inference.retry.failures import ConnectFailed
from mongars.settings import load_settings
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT
from mongars.testing.inference import Stack, build, question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CLOCK = SystemClock()
TOKEN = "a-token-of-sixteen-characters"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def serving(context: ssl.SSLContext | None) -> AsyncIterator[FakeReplica]:
    replica = FakeReplica()
    replica.tls = context
    async with replica:
        yield replica


def stack(url: str, *, local: bool = True, **variables: object) -> Stack:
    given = {name: str(value) for name, value in variables.items()}
    config = load_settings({"RAY_SERVE_URL": url, **given}).inference()
    return build(config, engine=FakeEngine(FakePlan(), clock=CLOCK) if local else None)


async def streamed(built: Stack) -> tuple[str, str]:
    """The text of an answer, read chunk by chunk, and its provider's name."""
    async with built.integration.open(question()) as answer:
        text = "".join([chunk.text async for chunk in answer])
        return text, answer.route.provider


def explained(built: Stack) -> str:
    """The logged detail of the first failed attempt, or of an endpoint's change if no attempt failed."""
    events = [*built.observer.of(AttemptFailed), *built.observer.of(EndpointChanged)]
    return str(events[0].detail)


async def test_a_ca_of_ones_own_is_enough(authority: Authority) -> None:
    """With the CA file configured, an `https://` endpoint streams answers, and gets the token."""
    async with serving(authority.server()) as replica:
        built = stack(replica.url, RAY_CLIENT_CA_FILE=authority.ca_file, RAY_SERVE_TOKEN=TOKEN)
        async with built.integration:
            assert [await streamed(built) for _ in range(3)] == [(TEXT, "ray_serve")] * 3
    assert {seen.headers["authorization"] for seen in replica.received} == {f"Bearer {TOKEN}"}


async def test_probes_trust_the_same_ca(authority: Authority) -> None:
    """Background probes verify an `https://` endpoint with the configured CA file."""
    async with serving(authority.server()) as replica:
        built = stack(replica.url, RAY_CLIENT_CA_FILE=authority.ca_file)
        async with built.integration:
            (status, _) = await built.integration.status()
        assert (status.state, replica.probes > 0) == ("up", True)


EXPIRED = {"days": (-3, -1)}
OTHER_NAME = {"host": "ray.example"}


@pytest.mark.parametrize(
    ("certificate", "trusted", "says"),
    [
        pytest.param({}, False, "RAY_CLIENT_CA_FILE", id="unknown-ca"),
        pytest.param(EXPIRED, True, "expired", id="expired"),
        pytest.param({"days": (1, 3)}, True, "not valid yet", id="not-yet-valid"),
        pytest.param(OTHER_NAME, True, "another name", id="other-name"),
    ],
)
async def test_unverified_servers_get_no_request(
    authority: Authority, certificate: dict[str, object], trusted: bool, says: str
) -> None:
    """An unverified server gets no request, the local engine answers, and log and status name the remedy."""
    variables = {"RAY_CLIENT_CA_FILE": authority.ca_file} if trusted else {}
    async with serving(authority.server(**certificate)) as replica:
        built = stack(replica.url, **variables)
        async with built.integration:
            assert (await streamed(built))[1] == "embedded"
            (status, _) = await built.integration.status()
    assert replica.received == []
    for told in (explained(built), str(status.endpoints[0].last_error)):
        assert replica.base.removeprefix("https://") in told
        assert says in told
    assert [event.reason for event in built.observer.of(FellBack)] == ["ray_exception"]


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_mutual_tls(authority: Authority, newest: ssl.TLSVersion) -> None:
    """With certificate and key the endpoint answers; without them it refuses, and the log names the setting."""
    mine = authority.issue("client")
    context = authority.server(clients=True)
    context.maximum_version = newest
    ca = {"RAY_CLIENT_CA_FILE": authority.ca_file}
    async with serving(context) as replica:
        with_key = {"RAY_CLIENT_CERT_FILE": mine.cert, "RAY_CLIENT_KEY_FILE": mine.key}
        built = stack(replica.url, **ca, **with_key)
        async with built.integration:
            assert await streamed(built) == (TEXT, "ray_serve")
        bare = stack(replica.url, **ca)
        async with bare.integration:
            assert (await streamed(bare))[1] == "embedded"
        assert len(replica.received) == 1
    assert "RAY_CLIENT_CERT_FILE" in explained(bare)


async def test_a_missing_tls_handshake_times_out_like_a_connection() -> None:
    """A TLS handshake without an answer fails after RAY_CLIENT_CONNECT_TIMEOUT, and the local engine answers."""

    async def ignore(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await CLOCK.sleep(3600)
        finally:
            writer.close()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/generate"
    built = stack(url, RAY_CLIENT_CONNECT_TIMEOUT=0.2, RAY_CLIENT_TIMEOUT=30)
    start = CLOCK.monotonic()
    async with server, built.integration:
        assert (await streamed(built))[1] == "embedded"
    assert CLOCK.monotonic() - start < 10
    assert "No connection to" in explained(built)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_refusal_with_a_reason_is_passed_on(
    authority: Authority, newest: ssl.TLSVersion
) -> None:
    """A server's TLS alert that rejects our certificate is reported with the name of the setting."""
    context = authority.server(clients=True)
    context.maximum_version = newest
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = threading.Thread(target=refuse, args=(listener, context))
        refusing.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/generate"
        config = {"RAY_SERVE_URL": url, "RAY_CLIENT_CA_FILE": str(authority.ca_file)}
        http = HttpPool(load_settings(config).inference())
        with pytest.raises(ConnectFailed, match=r"rejected our certificate .*RAY_CLIENT_CERT_FILE"):
            async with http.post(url, b"{}", {}):
                pass
        await http.aclose()
        refusing.join(5)


def refuse(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Accept one connection, do the TLS handshake, which sends an alert, and close regularly, as some proxies do."""
    peer, _ = listener.accept()
    with context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False) as secure:
        with contextlib.suppress(ssl.SSLError):
            secure.do_handshake()
        secure.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while secure.recv(4096):
                pass


async def test_plain_http_where_tls_is_configured_is_named() -> None:
    """For an `https://` URL of a plain HTTP server, the log says to use an `http://` URL."""
    async with serving(None) as replica:
        built = stack(replica.url.replace("http:", "https:"))
        async with built.integration:
            assert (await streamed(built))[1] == "embedded"
    assert "http:// URL" in explained(built)


async def test_certificates_are_for_ray_only(authority: Authority) -> None:
    """Ollama is verified with the system's certificates, not with the CA file configured for Ray."""
    mine = authority.issue("client")
    variables = {
        "RAY_CLIENT_CA_FILE": str(authority.ca_file),
        "RAY_CLIENT_CERT_FILE": str(mine.cert),
        "RAY_CLIENT_KEY_FILE": str(mine.key),
    }
    ollama = FakeOllama()
    ollama.tls = authority.server()
    async with ollama:
        settings = load_settings({"OLLAMA_HOST": ollama.base, **variables})
        built = build(settings.inference())
        async with built.integration:
            (status,) = await built.integration.status()
    assert "the system's certificates" in status.detail


async def test_a_token_is_sent_without_tls_too() -> None:
    """RAY_SERVE_TOKEN is sent to `http://` endpoints as well."""
    async with serving(None) as replica:
        built = stack(replica.url, RAY_SERVE_TOKEN=TOKEN)
        async with built.integration:
            assert await streamed(built) == (TEXT, "ray_serve")
    assert replica.received[0].headers["authorization"] == f"Bearer {TOKEN}"


CA, CERT, KEY = "RAY_CLIENT_CA_FILE", "RAY_CLIENT_CERT_FILE", "RAY_CLIENT_KEY_FILE"


@pytest.mark.parametrize(
    ("wrong", "names", "says"),
    [
        pytest.param({CA: "nowhere"}, CA, "No such file", id="missing"),
        pytest.param({CA: "."}, CA, "directory", id="a-folder"),
        pytest.param({CA: "notes.txt"}, CA, "not a PEM file with a certificate", id="not-pem"),
        pytest.param({CA: "broken.pem"}, CA, "cannot be read", id="broken"),
        pytest.param({CERT: "notes.txt"}, CERT, "not a PEM file", id="cert-not-pem"),
        pytest.param(
            {KEY: "client.pem"}, KEY, "not a PEM file with a private key", id="cert-as-key"
        ),
        pytest.param({KEY: "other.key"}, KEY, "not the key of", id="another-key"),
        pytest.param({KEY: "locked.key"}, KEY, "encrypted", id="encrypted"),
        pytest.param({KEY: "broken.key"}, KEY, "PEM", id="broken-key"),
        pytest.param({KEY: ""}, KEY, "go together", id="cert-alone"),
        pytest.param({CERT: ""}, CERT, "go together", id="key-alone"),
    ],
)
def test_unusable_files_stop_the_start(
    authority: Authority, tmp_path: Path, wrong: dict[str, str], names: str, says: str
) -> None:
    """An unusable certificate or key file stops the start; the error has variable, path and fault, no contents."""
    authority.issue("client")
    authority.issue("other")
    (tmp_path / "notes.txt").write_text("Nothing of interest.")
    begin, end = "-----BEGIN {}-----\n", "-----END {}-----\n"
    for name, kind in (("broken.pem", "CERTIFICATE"), ("broken.key", "PRIVATE KEY")):
        (tmp_path / name).write_text(begin.format(kind) + "c2VjcmV0\n" + end.format(kind))
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "locked.key").write_bytes(key_pem(key, b"passphrase"))
    files = {CA: "ca.pem", CERT: "client.pem", KEY: "client.key", **wrong}
    given = {name: str(tmp_path / file) if file else "" for name, file in files.items()}
    with pytest.raises(ConfigurationError) as caught:
        HttpPool(load_settings(given).inference())
    message = str(caught.value)
    assert names in message
    assert says in message
    assert "c2VjcmV0" not in message
    assert given[names] in message
