"""The effect of each environment variable of the client on requests over real sockets.

The certificates' variables are tested in `http/test_tls.py`.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from mongars.bootstrap.checks import registry_check
from mongars.core.clock import SystemClock
from mongars.core.errors import CallerError, ConfigurationError
from mongars.engines.fake import FakeEngine, FakePlan
from mongars.inference.events import AttemptFailed, ScalingSeen
from mongars.settings import load_settings
from mongars.testing.fake_ollama import FakeOllama
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import TEXT, FaultyResponse, Silence, Status
from mongars.testing.inference import Stack, build, question
from support import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiohttp import web

    from mongars.testing.fake_server import Received

CLOCK = SystemClock()
BUSY = Status(code=503, error="overloaded")
REFUSED = "http://127.0.0.1:9/generate"


def configured(**variables: object) -> Stack:
    """A client with these environment variables and an embedded engine as its last provider."""
    given = {name: str(value) for name, value in variables.items()}
    return build(load_settings(given).inference(), engine=FakeEngine(FakePlan(), clock=CLOCK))


async def provider(built: Stack) -> str:
    """The name of the provider that answers one request."""
    return (await built.integration.generate(question()))[1].provider


async def all_at_once(built: Stack, count: int) -> list[str]:
    """The names of the providers that answer `count` requests at once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(provider(built)) for _ in range(count)]
    return [task.result() for task in tasks]


class Counting(FakeReplica):
    """A fake replica that records the largest number of requests in progress at once."""

    peak = 0

    async def note(self, request: web.Request) -> Received:
        self.peak = max(self.peak, self.in_flight + 1)
        return await super().note(request)


@pytest.mark.parametrize(
    ("value", "answers"),
    [("false", "embedded"), (" OFF ", "embedded"), ("1", "ray_serve"), ("Yes", "ray_serve")],
)
async def test_use_ray_serve(value: str, answers: str) -> None:
    """With USE_RAY_SERVE off, no request is sent to the configured endpoint."""
    async with FakeReplica() as replica:
        built = configured(RAY_SERVE_URL=replica.url, USE_RAY_SERVE=value)
        async with built.integration:
            assert await provider(built) == answers
        assert len(replica.received) == (answers == "ray_serve")


async def test_ray_serve_url_is_a_list() -> None:
    """RAY_SERVE_URL is a list with blanks ignored; if the first endpoint is unreachable, the second answers."""
    async with FakeReplica() as replica:
        built = configured(RAY_SERVE_URL=f" {REFUSED}, , {replica.url}/ ")
        async with built.integration:
            assert await all_at_once(built, 3) == ["ray_serve"] * 3


async def test_credentials_in_a_url_are_sent_as_basic_authentication(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A user name and password in a URL of RAY_SERVE_URL reach the endpoint in `Authorization`, and no log."""
    caplog.set_level(0)
    async with FakeReplica() as replica:
        built = configured(RAY_SERVE_URL=replica.url.replace("://", "://user:hunt%40er2@"))
        async with built.integration:
            assert await provider(built) == "ray_serve"
        (received,) = replica.received
    sent = {name.lower(): value for name, value in received.headers.items()}["authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"user:hunt@er2"
    assert "er2" not in caplog.text


@pytest.mark.parametrize("variables", [{}, {"RAY_SERVE_URL": " , "}], ids=["unset", "blank"])
async def test_without_a_url_answers_are_local(variables: dict[str, str]) -> None:
    """Without an endpoint, the embedded engine answers; there is no default endpoint."""
    built = configured(**variables)
    async with built.integration:
        assert await provider(built) == "embedded"


async def test_ray_client_timeout_bounds_silence() -> None:
    """After RAY_CLIENT_TIMEOUT seconds without a token, another provider answers."""
    start = CLOCK.monotonic()
    async with FakeReplica() as replica:
        replica.always = Silence()
        built = configured(RAY_SERVE_URL=replica.url, RAY_CLIENT_TIMEOUT="0.2")
        async with built.integration:
            assert await provider(built) == "embedded"
    assert CLOCK.monotonic() - start < 8  # the default timeout is 10 s


@pytest.mark.slow
async def test_ray_client_timeout_is_no_total() -> None:
    """A stream that has started may take longer than RAY_CLIENT_TIMEOUT."""
    async with FakeReplica() as replica:
        replica.always = FaultyResponse(token_delay=0.04)
        built = configured(RAY_SERVE_URL=replica.url, RAY_CLIENT_TIMEOUT="2")
        async with built.integration:
            completion, route = await built.integration.generate(question())
    assert (completion.text, route.provider) == (TEXT, "ray_serve")


async def test_ray_client_connect_timeout_bounds_dialling() -> None:
    """A host that does not accept a connection within RAY_CLIENT_CONNECT_TIMEOUT is skipped."""
    start = CLOCK.monotonic()
    with deaf_host() as url:
        variables = {"RAY_CLIENT_CONNECT_TIMEOUT": "0.2", "RAY_CLIENT_TIMEOUT": "30"}
        built = configured(RAY_SERVE_URL=url, **variables)
        async with built.integration:
            assert await provider(built) == "embedded"
    assert CLOCK.monotonic() - start < 4.5  # the default timeout is 5 s


@contextmanager
def deaf_host() -> Iterator[str]:
    """The URL of a port that neither accepts nor refuses connections, since its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/generate"


async def test_ray_client_max_connections_bounds_what_is_under_way() -> None:
    """With two connections, six requests at once are all answered by Ray, two at a time."""
    async with Counting() as replica:
        replica.always = FaultyResponse(first_delay=0.05)
        built = configured(RAY_SERVE_URL=replica.url, RAY_CLIENT_MAX_CONNECTIONS=2)
        async with built.integration:
            assert await all_at_once(built, 6) == ["ray_serve"] * 6
        assert replica.peak == 2


@pytest.mark.parametrize("kept", [1, 3])
async def test_ray_client_max_keepalive_bounds_what_stays_open(kept: int) -> None:
    """After a burst, RAY_CLIENT_MAX_KEEPALIVE connections stay open, and the next request uses one of them."""
    async with FakeReplica() as replica:
        replica.always = FaultyResponse(first_delay=0.05)
        built = configured(RAY_SERVE_URL=replica.url, RAY_CLIENT_MAX_KEEPALIVE=kept)
        async with built.integration:
            await all_at_once(built, 6)
            await eventually(lambda: replica.open_connections <= kept, seconds=3)
            assert replica.open_connections == kept
            before = replica.connections
            assert await provider(built) == "ray_serve"
            assert replica.connections == before


async def test_ray_scaling_status_codes_name_the_busy_statuses() -> None:
    """With 425 in RAY_SCALING_STATUS_CODES, a 425 counts as busy and its `Retry-After` is obeyed."""
    early = Status(code=425, headers={"Retry-After": "0.3"})
    async with FakeReplica(early) as replica:
        built = configured(RAY_SERVE_URL=replica.url, RAY_SCALING_STATUS_CODES="425, 503")
        async with built.integration:
            assert await provider(built) == "ray_serve"
        first, second = replica.received
        assert second.at - first.at >= 0.3
        assert [event.status_code for event in built.observer.of(ScalingSeen)] == [425]


async def test_ray_retry_after_max_bounds_what_is_obeyed() -> None:
    """A `Retry-After` of an hour is reduced to RAY_RETRY_AFTER_MAX."""
    busy = Status(code=503, headers={"Retry-After": "3600"})
    async with FakeReplica(busy) as replica:
        built = configured(RAY_SERVE_URL=replica.url, RAY_RETRY_AFTER_MAX="0.3")
        async with built.integration:
            assert await provider(built) == "ray_serve"
        first, second = replica.received
        assert second.at - first.at >= 0.3


async def test_statuses_that_are_not_listed_are_no_scaling() -> None:
    """An unlisted 503 counts as the endpoint's failure; by default a 425 is the client's error."""
    async with FakeReplica(BUSY) as replica:
        built = configured(RAY_SERVE_URL=replica.url, RAY_SCALING_STATUS_CODES="409")
        async with built.integration:
            assert await provider(built) == "ray_serve"
        assert [event.status_code for event in built.observer.of(AttemptFailed)] == [503]
    async with FakeReplica(Status(code=425)) as replica:
        built = configured(RAY_SERVE_URL=replica.url)
        async with built.integration:
            with pytest.raises(CallerError):
                await provider(built)


async def test_ray_scaling_backoff_bounds_each_wait() -> None:
    """Waits for a busy endpoint without `Retry-After` are within RAY_SCALING_BACKOFF; negative entries are ignored."""
    async with FakeReplica(BUSY, BUSY, BUSY) as replica:
        variables = {"RAY_SCALING_BACKOFF": "0.001, -5, 0.002", "RAY_MAX_SCALE_CYCLES": "4"}
        built = configured(RAY_SERVE_URL=replica.url, **variables)
        async with built.integration:
            assert await provider(built) == "ray_serve"
        waits = [event.delay_seconds for event in built.observer.of(ScalingSeen)]
        assert len(waits) == 3
        assert max(waits) <= 0.002


@pytest.mark.parametrize("cycles", [1, 3])
async def test_ray_max_scale_cycles_bounds_the_rounds(cycles: int) -> None:
    """A request tries a busy endpoint RAY_MAX_SCALE_CYCLES times before falling back."""
    async with FakeReplica() as replica:
        replica.always = BUSY
        variables = {"RAY_SCALING_BACKOFF": "0.01", "RAY_MAX_SCALE_CYCLES": cycles}
        built = configured(RAY_SERVE_URL=replica.url, **variables)
        async with built.integration:
            assert await provider(built) == "embedded"
        assert len(replica.received) == cycles


@pytest.mark.parametrize(("value", "used"), [(None, 1), ("true", 1), ("off", 2)])
async def test_ray_session_affinity(value: str | None, used: int) -> None:
    """A session's requests go to one of two endpoints, unless RAY_SESSION_AFFINITY is off."""
    given = {} if value is None else {"RAY_SESSION_AFFINITY": value}
    async with FakeReplica() as one, FakeReplica() as two:
        built = configured(RAY_SERVE_URL=f"{one.url},{two.url}", **given)
        async with built.integration:
            for _ in range(4):
                await provider(built)
    assert sum(bool(replica.received) for replica in (one, two)) == used


@pytest.mark.parametrize("token", ["a-token-of-16-chars", None])
async def test_ray_serve_token(token: str | None) -> None:
    """RAY_SERVE_TOKEN is sent as a bearer token; without one, no `Authorization` header is sent."""
    given = {} if token is None else {"RAY_SERVE_TOKEN": token}
    async with FakeReplica() as replica:
        built = configured(RAY_SERVE_URL=replica.url, **given)
        async with built.integration:
            await provider(built)
        expected = None if token is None else f"Bearer {token}"
        assert replica.received[0].headers.get("authorization") == expected


async def test_ollama_host_is_the_first_fallback_with_ollama_model() -> None:
    """With OLLAMA_HOST set, Ollama answers with OLLAMA_MODEL when Ray is down."""
    async with FakeOllama(models=("tiny:1b",)) as ollama, FakeReplica() as replica:
        variables = {"OLLAMA_HOST": ollama.base.removeprefix("http://"), "OLLAMA_MODEL": "tiny:1b"}
        built = configured(RAY_SERVE_URL=replica.url, **variables)
        async with built.integration:
            assert await provider(built) == "ray_serve"
            assert ollama.received == []
            await replica.stop()
            assert await provider(built) == "ollama"
        assert ollama.received[0].body["model"] == "tiny:1b"


async def test_an_ollama_model_that_is_not_there_is_passed_over() -> None:
    """If Ollama lacks the configured model, the embedded engine answers."""
    async with FakeOllama(models=("tiny:1b",)) as ollama:
        built = configured(OLLAMA_HOST=ollama.base, OLLAMA_MODEL="huge:70b")
        async with built.integration:
            assert await provider(built) == "embedded"


async def test_ray_model_sampling_defaults_hold_for_the_fallback_too() -> None:
    """RAY_MODEL_TEMPERATURE, _TOP_P and _MAX_TOKENS are sent to Ollama as well."""
    async with FakeOllama(models=("smollm2:135m",)) as ollama:
        defaults = {"TEMPERATURE": "0.25", "TOP_P": "0.5", "MAX_TOKENS": "33"}
        variables = {f"RAY_MODEL_{name}": value for name, value in defaults.items()}
        built = configured(OLLAMA_HOST=ollama.base, **variables)
        async with built.integration:
            assert await provider(built) == "ollama"
        options = ollama.received[0].body["options"]
        assert (options["temperature"], options["top_p"], options["num_predict"]) == (0.25, 0.5, 33)


def test_llm_adapter_registry_path(tmp_path: Path) -> None:
    """`mongars doctor` shows LLM_ADAPTER_REGISTRY_PATH, and refuses a file in its place."""
    name = "LLM_ADAPTER_REGISTRY_PATH"
    assert registry_check(load_settings({name: str(tmp_path)})) == str(tmp_path)
    by_default = registry_check(load_settings({"MONGARS_HOME": str(tmp_path)}))
    assert by_default.startswith(str(tmp_path / "registry"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=name):
        registry_check(load_settings({name: str(tmp_path / "file")}))


async def test_dot_env_counts_and_the_process_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Variables are read from `.env` in the working directory; those of the process take precedence."""
    for name in ("RAY_SERVE_URL", "USE_RAY_SERVE", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_SERVE_TOKEN", "the-one-of-the-process")
    monkeypatch.chdir(tmp_path)
    async with FakeReplica() as replica:
        lines = (f"RAY_SERVE_URL={replica.url}", "RAY_SERVE_TOKEN=the-one-of-the-file")
        (tmp_path / ".env").write_text("\n".join(lines))
        built = build(load_settings().inference())
        async with built.integration:
            assert await provider(built) == "ray_serve"
        sent = replica.received[0].headers["authorization"]
        assert sent == "Bearer the-one-of-the-process"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("USE_RAY_SERVE", "perhaps"),
        ("RAY_SERVE_URL", "ray-head:8000/generate"),
        ("RAY_SERVE_URL", "http://ok/generate,ftp://no/generate"),
        ("RAY_SERVE_TOKEN", "short"),
        ("RAY_CLIENT_TIMEOUT", "0"),
        ("RAY_CLIENT_TIMEOUT", "inf"),
        ("RAY_CLIENT_CONNECT_TIMEOUT", "-1"),
        ("RAY_CLIENT_CONNECT_TIMEOUT", "soon"),
        ("RAY_CLIENT_MAX_CONNECTIONS", "0"),
        ("RAY_CLIENT_MAX_CONNECTIONS", "2.5"),
        ("RAY_CLIENT_MAX_KEEPALIVE", "many"),
        ("RAY_SCALING_STATUS_CODES", "503;409"),
        ("RAY_SCALING_STATUS_CODES", "200"),
        ("RAY_MAX_SCALE_CYCLES", "0"),
        ("RAY_SESSION_AFFINITY", "sometimes"),
        ("RAY_MODEL_TEMPERATURE", "nan"),
        ("RAY_MODEL_TOP_P", "1.1"),
        ("RAY_MODEL_MAX_TOKENS", "0"),
        ("OLLAMA_HOST", "ftp://host"),
    ],
)
def test_a_bad_value_stops_the_start_and_is_named(name: str, value: str) -> None:
    """An invalid value stops the start with a message that begins with the variable's name."""
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        load_settings({name: value})


@pytest.mark.parametrize("entry", ["soon", "inf", "nan"])
def test_a_backoff_that_is_no_number_resets_the_list(entry: str) -> None:
    """An invalid entry in RAY_SCALING_BACKOFF gives the default list and a warning."""
    settings = load_settings({"RAY_SCALING_BACKOFF": f"0.1,{entry}"})
    assert settings.inference().scaling_backoff == (0.5, 1.0, 2.0, 4.0)
    assert any(repr(entry) in warning for warning in settings.warnings)


async def test_weights_of_users_reach_the_replica() -> None:
    """MONGARS_USER_WEIGHTS is sent with requests of the users that it names, and no weight for others."""
    async with FakeReplica() as replica:
        built = configured(RAY_SERVE_URL=replica.url, MONGARS_USER_WEIGHTS="alice=4, b=c=0.5")
        async with built.integration as llm:
            for scope in ("alice", "b=c", "carol", None):
                await llm.generate(dataclasses.replace(question(), scope=scope))
        assert [got.body.get("weight") for got in replica.received] == [4, 0.5, None, None]
