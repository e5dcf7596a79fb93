"""Models that an Ollama server pulls."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from engines.provisioning_bench import Bench, build_wheel
from mongars.core.urls import ollama_url
from mongars.engines.provisioning.model_cache import find_model
from mongars.engines.provisioning.spec import OllamaSource

if TYPE_CHECKING:
    from pathlib import Path

SPEC = OllamaSource(tag="dolphin3")


@dataclass
class FakeOllama:
    """A fake of two routes of Ollama's API, as documented; it runs in its own thread."""

    models: list[str] = field(default_factory=list)
    lines: list[dict[str, object]] = field(default_factory=list)
    tags_status: int = 200
    cut: bool = False
    pulled: list[str] = field(default_factory=list)
    url: str = ""

    async def tags(self, request: web.Request) -> web.Response:
        """Answer GET /api/tags."""
        listed = [{"name": name, "model": name, "size": 1} for name in self.models]
        return web.json_response({"models": listed}, status=self.tags_status)

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Answer POST /api/pull."""
        body = await request.json()
        assert body["stream"] is True
        self.pulled.append(body["model"])
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await answer.prepare(request)
        for line in self.lines:
            await answer.write(json.dumps(line).encode() + b"\n")
        if self.cut and request.transport:
            request.transport.abort()
        return answer


@contextmanager
def serving(fake: FakeOllama):
    """Run the fake server while the block runs."""
    ready = threading.Event()
    stop = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        app = web.Application()
        app.add_routes([web.get("/api/tags", fake.tags), web.post("/api/pull", fake.pull)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield fake
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()


PULL = [
    {"status": "pulling manifest"},
    {"status": "pulling 6a0746a1ec1a", "digest": "sha256:6a07", "total": 100, "completed": 40},
    {"status": "pulling 6a0746a1ec1a", "digest": "sha256:6a07", "total": 100, "completed": 100},
    {"status": "verifying sha256 digest"},
    {"status": "writing manifest"},
    {"status": "success"},
]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty cache."""
    return Bench(tmp_path)


@pytest.mark.parametrize("listed", ["dolphin3:latest", "llama3:8b"])
def test_a_model_is_pulled_only_if_the_server_lacks_it(bench, listed):
    """A model is pulled only if the server does not list it; `dolphin3` is listed as `dolphin3:latest`."""
    with serving(FakeOllama(models=[listed], lines=PULL)) as fake:
        (status,) = bench.run(spec=SPEC, ollama_host=fake.url)
    present = listed.startswith("dolphin3")
    assert status.action == ("exists" if present else "installed")
    assert fake.pulled == ([] if present else ["dolphin3"])
    assert (status.ready, status.provider, status.path) == (True, "ollama", None)


def test_a_pull_is_shown(bench):
    """The bytes done and the total bytes of a pull reach the progress callback."""
    with serving(FakeOllama(lines=PULL)) as fake:
        bench.run(spec=SPEC, ollama_host=fake.url)
    assert (40, 100) in {(step.done, step.total) for step in bench.steps}


def test_force_pulls_again(bench):
    """With `force` a model is pulled although the server lists it."""
    with serving(FakeOllama(models=["dolphin3:latest"], lines=PULL)) as fake:
        assert bench.run(spec=SPEC, ollama_host=fake.url, force=True)[0].action == "installed"


@pytest.mark.parametrize(
    ("fake", "says"),
    [
        pytest.param(
            FakeOllama(lines=[{"error": "pull model manifest: file does not exist"}]),
            "file does not exist",
            id="error line in a 200",
        ),
        pytest.param(FakeOllama(lines=PULL[:3]), "before it was complete", id="no success line"),
        pytest.param(FakeOllama(lines=PULL[:3], cut=True), "broke off", id="cut"),
        pytest.param(FakeOllama(tags_status=500), "answered 500", id="list fails"),
    ],
)
def test_a_failed_pull_is_an_error(bench, fake, says):
    """A pull without the line `success` is an error with the reason."""
    with serving(fake):
        (status,) = bench.run(spec=SPEC, ollama_host=fake.url)
    assert status.action == "error"
    assert says in status.detail


def test_no_ollama_is_unavailable(bench):
    """If no Ollama server is reachable, the message names `OLLAMA_HOST` and `RAY_GENERAL_MODEL`."""
    (status,) = bench.run(spec=SPEC, ollama_host="127.0.0.1:9")
    assert status.action == "unavailable"
    assert not status.ready
    assert "OLLAMA_HOST" in status.detail
    assert "RAY_GENERAL_MODEL" in status.detail


def test_a_role_that_moves_to_ollama_has_no_file_any_more(bench):
    """When a role changes to an Ollama model, the record of its model file is removed."""
    build_wheel(bench.links, bench.content)
    bench.run()
    assert find_model(bench.cache, "general") is not None
    with serving(FakeOllama(models=["dolphin3:latest"])) as fake:
        bench.run(spec=SPEC, ollama_host=fake.url)
    assert find_model(bench.cache, "general") is None


@pytest.mark.parametrize(
    "fake",
    [
        pytest.param(None, id="unreachable"),
        pytest.param(FakeOllama(lines=[{"error": "no such model"}]), id="no such model"),
        pytest.param(FakeOllama(lines=PULL[:3], cut=True), id="cut"),
    ],
)
def test_a_failed_move_to_ollama_keeps_the_working_model(bench, fake):
    """If a role's change to an Ollama model fails, the record of its model file stays."""
    build_wheel(bench.links, bench.content)
    bench.run()
    before = find_model(bench.cache, "general")
    assert before is not None
    if fake is None:
        (status,) = bench.run(spec=SPEC, ollama_host="127.0.0.1:9")
    else:
        with serving(fake):
            (status,) = bench.run(spec=SPEC, ollama_host=fake.url)
    assert not status.ready
    assert find_model(bench.cache, "general") == before


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("ollama", "http://ollama:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104 - parsed, not bound
        ("http://ollama:1234/", "http://ollama:1234"),
        ("https://ollama.example", "https://ollama.example"),
        ("", "http://127.0.0.1:11434"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(host, url):
    """`OLLAMA_HOST` may lack scheme and port, and 0.0.0.0 becomes 127.0.0.1, as in Ollama's own client."""
    assert ollama_url(host) == url
