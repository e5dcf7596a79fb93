"""One `mongars up`, and all uses of the running stack: chat, commands, overload, crashes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import TYPE_CHECKING

import openai
import orjson
import psutil
import pytest
from stack_runner import SECRETS, provider_becomes, question

from mongars.core.clock import SystemClock
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.engines.llama_cpp.config import LlamaCppConfig
from mongars.engines.llama_cpp.engine import LlamaCppEngine
from mongars.protocol.accumulate import AnswerAccumulator
from mongars.protocol.openai import read_chunk
from mongars.protocol.sse import EventSplitter, ServerEvent

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp
    from stack_runner import Stack

pytestmark = pytest.mark.e2e
CLOCK = SystemClock()
PATH = "/v1/chat/completions"


def engine_child(stack: Stack, parent: str) -> psutil.Process:
    """The engine process whose parent's command line contains `parent`."""
    for process in stack.owned():
        if "mongars.engines.llama_cpp.child" in process.cmdline():
            above = process.parent()
            if above is not None and parent in " ".join(above.cmdline()):
                return process
    pytest.fail(f"no engine process below {parent!r}")


async def events_of(response: aiohttp.ClientResponse) -> list[ServerEvent]:
    return EventSplitter().feed(await response.read())


def test_screen_tells_what_a_person_needs(stack: Stack) -> None:
    """After the start, the output has the URL, the key, the provider, the adapter, the log folder and how to stop."""
    for text in (stack.url, "mg-", "ray_serve", "Ctrl-C", "baseline", str(stack.home / "logs")):
        assert text in stack.screen


async def test_answers_come_from_ray_and_equal_the_bare_engine(
    stack: Stack, http: aiohttp.ClientSession, base_model: Path
) -> None:
    """A greedy answer through API, Ray and engine has the tokens and the usage of the bare engine."""
    text = "Explain in two sentences why the sky is blue."
    config = LlamaCppConfig(model_path=base_model, model_name="bare")
    engine = LlamaCppEngine(config, clock=CLOCK)
    await engine.start()
    request = GenerationRequest(
        messages=(Message(role="user", content=text),),
        request_id="bare",
        sampling=Sampling(temperature=0.0, max_tokens=64, top_p=0.9),
    )
    accumulated, splitter, tokens = AnswerAccumulator(), EventSplitter(), []
    async with engine.stream(request) as blocks:
        async for block in blocks:
            for event in splitter.feed(block):
                if not event.is_done:
                    accumulated.add(read_chunk(event))
                    tokens.append(read_chunk(event).text)
    await engine.aclose()

    body = question(text, max_tokens=64, stream=True, stream_options={"include_usage": True})
    async with http.post(PATH, json=body) as response:
        assert response.headers["x-llm-provider"] == "ray_serve"
        assert response.headers["x-llm-fallback"] == "false"
        events = await events_of(response)
    assert events[-1].is_done
    chunks = [read_chunk(event) for event in events[:-1]]
    assert [c.text for c in chunks if c.text] == [token for token in tokens if token]
    assert chunks[-1].usage is not None
    assert accumulated.usage is not None
    assert chunks[-1].usage.prompt_tokens == accumulated.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == accumulated.usage.completion_tokens


async def test_official_client_works_unchanged(stack: Stack) -> None:
    """The `openai` package gets answers from the stack, in one piece and streamed."""
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.key) as client:
        messages = [{"role": "user", "content": "Say hello."}]
        whole = await client.chat.completions.create(
            model="mongars", messages=messages, temperature=0, max_tokens=12
        )
        stream = await client.chat.completions.create(
            model="mongars", messages=messages, temperature=0, max_tokens=12, stream=True
        )
        pieces = [c.choices[0].delta.content or "" async for c in stream if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content


async def test_the_chat_remembers(http: aiohttp.ClientSession) -> None:
    """The prompt of a conversation's second message includes the first turn, and the history returns both."""
    prompts = []
    for message in ("My name is Ada.", "What is my name?"):
        body = {"message": message, "session_id": "memory"}
        async with http.post("/api/v1/conversation/chat", json=body) as response:
            assert response.status == 200
            prompts.append((await response.json())["usage"]["prompt_tokens"])
    assert prompts[1] > prompts[0] + 10
    async with http.get("/api/v1/conversation/history", params={"session_id": "memory"}) as found:
        turns = await found.json()
    assert [turn["query"] for turn in turns] == ["What is my name?", "My name is Ada."]


def test_commands_see_the_running_stack(stack: Stack) -> None:
    """`chat`, `status`, `doctor`, `--status` and Ray's own `serve status` report a healthy stack."""
    chat = stack.run("-m", "mongars", "chat", "--json", "Say hello.")
    assert json.loads(chat.stdout)["provider"] == "ray_serve", chat.stderr
    status = stack.run("-m", "mongars", "status", "--json")
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["serve"]["healthy"] is True
    doctor = stack.run("-m", "mongars", "doctor")
    assert doctor.returncode == 0, doctor.stdout
    deployed = stack.run("-m", "modules.ray_service", "--status", "--json")
    assert json.loads(deployed.stdout)["healthy"] is True
    stack.environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(stack.home / "secrets" / "ray-token"),
    }
    address = f"http://127.0.0.1:{stack.environment['RAY_DASHBOARD_PORT']}"
    ray = stack.run("-m", "ray.serve.scripts", "status", "--address", address)
    assert "status: HEALTHY" in ray.stdout, ray.stderr


def test_second_stack_on_the_same_home_is_refused(stack: Stack) -> None:
    """A second `mongars up` with the same home is refused with the process id of the first."""
    second = stack.run("-m", "mongars", "up")
    assert second.returncode == 1
    assert str(stack.process.pid) in second.stdout + second.stderr


async def test_everything_listens_on_loopback_or_asks_for_a_token(stack: Stack) -> None:
    """Only the port of Ray's replicas listens beyond loopback, and the dashboard requires the token."""
    open_ports = {
        (process.name(), connection.laddr.port)
        for process in stack.owned()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip not in {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    }
    assert {name for name, _ in open_ports} <= {"ray::ServeReplica:mongars:LLMDeployment"}
    dashboard = stack.environment["RAY_DASHBOARD_PORT"]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(dashboard))
    writer.write(b"GET /api/serve/applications/ HTTP/1.0\r\n\r\n")
    assert b" 401 " in await reader.readline()
    writer.close()


async def test_no_process_has_a_secret_it_does_not_need(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """Only the API process has the key that signs login tokens, and no process has keys of other programs."""
    async with http.post(PATH, json=question()) as response:
        assert response.status == 200
    seen = set()
    for process in stack.owned():
        environment = process.environ()
        is_api = process.cmdline()[2:4] == ["mongars", "api"]
        for name, value in SECRETS.items():
            assert value not in environment.values() or (is_api and name == "SECRET_KEY")
        if not is_api:
            assert "RAY_SERVE_TOKEN" not in environment
        seen |= set(process.cmdline())
    assert {"api", "mongars.engines.llama_cpp.child"} <= seen


@pytest.mark.parametrize("port", ["MONGARS_PORT", "RAY_HTTP_PORT"])
async def test_header_floods_are_refused_at_both_doors(stack: Stack, port: str) -> None:
    """The API and the Ray Serve proxy refuse a flood of headers with 431, before any authentication."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(stack.environment[port]))
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 20_000)
    assert b" 431 " in await reader.readline()
    writer.close()


async def test_killed_engine_cuts_its_streams_and_is_back_in_seconds(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """If the replica's engine is killed, its stream is continued elsewhere; Ray answers again within 10 s."""
    victim = engine_child(stack, "ServeReplica")
    body = question("Tell me a very long story.", max_tokens=400, stream=True)
    async with http.post(PATH, json=body) as response:
        await response.content.readuntil(b"content")
        victim.send_signal(signal.SIGKILL)
        await provider_becomes(http, "ray_serve", seconds=10)
        rest = (await response.read()).decode()
    assert "event: error" not in rest
    assert rest.count('"finish_reason":"') == 1
    assert rest.endswith("data: [DONE]\n\n")
    assert not psutil.pid_exists(victim.pid)


async def test_fifty_chats_at_once_are_answered_or_told_to_wait(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """Of fifty concurrent chats each ends with an answer or with 503; a second wave needs no more memory."""

    async def ask(number: int) -> tuple[int, str | None, str]:
        body = question(f"Say the number {number}.", max_tokens=12)
        async with http.post(PATH, json=body) as response:
            answer = await response.json()
            text = "" if response.status != 200 else answer["choices"][0]["message"]["content"]
            return response.status, response.headers.get("Retry-After"), text

    levels = []
    for _ in range(2):
        async with asyncio.timeout(180), asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(number)) for number in range(50)]
        results = [task.result() for task in tasks]
        assert {status for status, _, _ in results} <= {200, 503}
        assert all(text for status, _, text in results if status == 200)
        assert all(wait for status, wait, _ in results if status == 503)
        assert sum(status == 200 for status, _, _ in results) >= 20
        levels.append(memory(stack))
    first, second = levels
    assert all(second[pid] < first[pid] * 1.05 + 20_000_000 for pid in first)


def memory(stack: Stack) -> dict[int, int]:
    """The resident memory, in bytes, of the API and of each engine, by process id.

    On a busy machine, one wave may start the embedded engine and another one may not.
    """
    processes = [
        p for p in stack.owned() if {"api", "mongars.engines.llama_cpp.child"} & set(p.cmdline())
    ]
    return {process.pid: process.memory_info().rss for process in processes}


async def test_crashed_api_is_restarted_and_says_so(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """If the API process is killed, the output reports that, and a new process answers."""
    victim = next(p for p in stack.owned() if p.cmdline()[1:4] == ["-m", "mongars", "api"])
    victim.send_signal(signal.SIGKILL)
    stack.wait_for("api was killed by signal 9", seconds=10)
    stack.wait_for("api runs again", seconds=30)
    await provider_becomes(http, "ray_serve", seconds=15)


async def test_without_ray_answers_come_locally_and_return_to_ray_by_themselves(
    stack: Stack, http: aiohttp.ClientSession
) -> None:
    """If Ray is killed, running and waiting requests are answered locally, and later ones by Ray once it is back."""
    await provider_becomes(http, "ray_serve", seconds=15)
    cluster = [p for p in stack.owned() if "ray" in " ".join([p.name(), *p.cmdline()[:3]])]
    assert len(cluster) > 5
    slots = 4
    long = question("Tell me a very long story.", max_tokens=60, stream=True)
    running = [await http.post(PATH, json=long) for _ in range(slots)]
    for response in running:
        await response.content.readuntil(b"content")

    async def ask_waiting() -> tuple[float, str, str]:
        async with http.post(
            PATH, json=question("Say hello.", max_tokens=8, stream=True)
        ) as response:
            await response.content.readuntil(b"content")
            first = CLOCK.monotonic()
            await response.read()
            return first, response.headers["x-llm-provider"], response.headers["x-llm-fallback"]

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(ask_waiting())
        await CLOCK.sleep(0.5)
        killed = CLOCK.monotonic()
        for process in cluster:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    first, provider, fallback = waiting.result()
    assert (provider, fallback) == ("embedded", "true")
    # The request waits for the long answers in the two local slots, while Ray starts again.
    assert first - killed < 180
    for response in running:
        rest = (await response.read()).decode()
        assert "event: error" not in rest
        assert rest.endswith("data: [DONE]\n\n")
    async with http.post(PATH, json=question()) as response:
        assert response.status == 200  # by Ray, if Ray is back already
        assert orjson.loads(await response.read())["choices"][0]["message"]["content"]
    stack.wait_for("deployed again", seconds=90)
    await provider_becomes(http, "ray_serve", seconds=30)
