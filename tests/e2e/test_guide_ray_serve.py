"""The commands of docs/guide/ray-serve.md, run unchanged, have the results that the page describes."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cluster_net import some_net
from guide_page import CLOCK, ROOT, Block, Terminal, blocks_of, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = (ROOT / "docs/guide/ray-serve.md").read_text(encoding="utf-8")
BLOCKS = blocks_of(PAGE)
SETTINGS = "| Setting | Value | Meaning |"


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that writes a line to the terminal, whether the test passes or not."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")

    def write(text: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"\n  guide: {text}")

    return write


@pytest.fixture
def terminal(model_cache: Path, tell: Callable[[str], None]) -> Iterator[Terminal]:
    # Not below pytest's folder: the paths of Ray's UNIX sockets may have at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="mgg-", dir="/tmp"))
    with some_net() as net:
        place = net.place("guide0")
        tell(f"the commands run in {net.describe()}")
        try:
            yield Terminal(net, place, folder, cache=model_cache)
        finally:
            net.power_off(place, folder)
            shutil.rmtree(folder, ignore_errors=True)


def bodies(said: str) -> list[dict[str, Any]]:
    """Every JSON object in a command's output, whatever other text is between them."""
    found, decoder, at = [], json.JSONDecoder(), 0
    while (at := said.find("{", at)) >= 0:
        body, at = decoder.raw_decode(said, at)
        found.append(body)
    return found


def shape(value: object) -> object:
    """The names of an object's fields, at every level."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    return [shape(part) for part in value] if isinstance(value, list) else None


def values_in(value: object) -> Iterator[tuple[str, object]]:
    """Every name and value in an object, at every level."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield name, part
            yield from values_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from values_in(part)


def deployments(status: str, application: str) -> set[str]:
    """The statuses of an application's deployments and of the proxies in the output of `serve status`."""
    told = yaml.safe_load(status)
    assert told["applications"][application]["status"] == "RUNNING"
    parts = told["applications"][application]["deployments"].values()
    return {part["status"] for part in parts} | set(told["proxies"].values())


class Reader:
    """The checks of the blocks' output: one method per block, named like the block."""

    def __init__(self) -> None:
        self.replica = ""

    def prepare(self, said: str) -> None:
        assert said == ""

    def start(self, said: str) -> None:
        assert "Ray runtime started" in said

    def nodes(self, said: str) -> None:
        assert said.count(" node_") == 1

    def deploy(self, said: str) -> None:
        assert "Application RUNNING (healthy)" in said
        assert "/generate" in said

    def status(self, said: str) -> None:
        assert deployments(said, "mongars") == {"HEALTHY"}

    def inspect(self, said: str) -> None:
        status, _, rest = said.partition("{")
        assert "LLMDeployment" in status
        assert "serve.yaml" in status
        told = dict(values_in(json.loads("{" + rest)))
        table = table_of(PAGE, SETTINGS)
        assert table
        assert {name: float(value) for name, value in table.items()} == {
            name: told[name] for name in table
        }

    def whole(self, said: str) -> None:
        (shown,) = (block for block in BLOCKS if block.word == "shows" and block.rest == "whole")
        answer = json.loads(said)
        assert shape(answer) == shape(json.loads(shown.text))
        assert answer["content"] == answer["message"]["content"] != ""
        assert answer["usage"]["completion_tokens"] <= 24
        self.replica = answer["replica"]

    def stream(self, said: str) -> None:
        events = said.strip().split("\n\n")
        assert events[0].startswith("event: meta\n")
        assert events[-1] == "data: [DONE]"
        chunks = [json.loads(event.removeprefix("data: ")) for event in events[1:-1]]
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert "usage" in chunks[-1]
        first = next(c for c in chunks if c["choices"] and c["choices"][0].get("logprobs"))
        assert first["choices"][0]["logprobs"]["content"][0]["logprob"] <= 0

    def conversation(self, said: str) -> None:
        (answer,) = bodies(said)
        first, second = (choice["content"] for choice in answer["choices"])
        assert answer["content"] == f"{first}\n\n{second}"
        assert len(answer["usage"]["completion_tokens_per_generation"]) == 2
        assert f"x-replica-id: {answer['replica']}" in said.lower()

    def schema(self, said: str) -> None:
        answer = json.loads(json.loads(said)["content"])
        assert list(answer) == ["blue"]
        assert isinstance(answer["blue"], bool)

    def models(self, said: str) -> None:
        models, vectors = bodies(said)
        names = [card["id"] for card in models["data"]]
        assert names == ["smollm2-135m-instruct", vectors["model"]]
        assert len(vectors["data"]) == 2
        for entry in vectors["data"]:
            assert sum(value * value for value in entry["embedding"]) == pytest.approx(1, abs=1e-4)

    def refusals(self, said: str) -> None:
        statuses = [int(status) for status in re.findall(r"HTTP/1\.1 (\d+) ", said)]
        found = bodies(said)
        codes = [body["error"] for body in found]
        assert list(zip(statuses, codes, strict=True)) == [
            (400, "prompt_missing"),
            (400, "invalid_request"),
            (404, "adapter_unknown"),
            (504, "deadline_exceeded"),
        ]
        for body in found:
            assert set(body) - {"param"} == {"content", "error", "detail", "adapter_version"}
        assert "temperature" in found[1]["detail"]

    def sampling(self, said: str) -> None:
        (answer,) = bodies(said)
        assert answer["usage"]["completion_tokens"] == 3
        assert answer["replica"] == self.replica

    def scale(self, said: str) -> None:
        assert said.count(" RUNNING ") == 3, "the application and two replicas"
        assert self.replica in said, "the one that was there stays"

    def ready(self, said: str) -> None:
        (body,) = bodies(said)
        assert "200 OK" in said
        assert (body["engine_state"], body["engine_restarts"]) == ("ready", 0)

    def remove(self, said: str) -> None:
        assert "removed" in said

    def ask_own(self, said: str) -> None:
        answer, _, status = said.partition("proxies:")
        assert json.loads(answer)["usage"]["completion_tokens"] == 3
        assert deployments(f"proxies:{status}", "default") == {"HEALTHY"}

    def closed(self, said: str) -> None:
        assert said.strip() == "refused"

    def logs(self, said: str) -> None:
        events = [json.loads(line) for line in said.splitlines()]
        assert self.replica in {event["replica"] for event in events}


PATIENCE = {"nodes": 20.0}
"""Seconds to repeat a block whose result needs a moment, according to the page."""
SAYS_READY = {"own": "Application 'default' is ready"}


def follow(terminal: Terminal, blocks: list[Block]) -> dict[str, float]:
    """Run every block that is to be run and check its output; returns the seconds that each took."""
    reader, took = Reader(), {}
    with ExitStack() as background:
        for block in blocks:
            began = CLOCK.monotonic()
            if block.word == "run in the background":
                until = SAYS_READY[block.rest]
                background.enter_context(terminal.in_the_background(block, until=until))
            elif block.word == "run":
                read = getattr(reader, block.rest.replace("-", "_"))
                read(_said(terminal, block))
            else:
                continue
            took[block.rest] = CLOCK.monotonic() - began
    return took


def _said(terminal: Terminal, block: Block) -> str:
    if block.rest not in PATIENCE:
        return terminal.type(block)
    return terminal.type_until(block, lambda said: " node_" in said, within=PATIENCE[block.rest])


@pytest.mark.e2e
def test_the_commands_of_the_page_do_what_it_says(
    terminal: Terminal, tell: Callable[[str], None]
) -> None:
    """The commands of the page, run in order on one cluster, have the output that the page describes."""
    began = CLOCK.monotonic()
    took = follow(terminal, BLOCKS)
    assert {"prepare", "start", "deploy", "status", "whole", "stream", "own"} <= set(took)
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in took.items())
    tell(f"{len(took)} blocks in {CLOCK.monotonic() - began:.1f} s: {parts}")


@pytest.mark.parametrize(
    "block",
    [pytest.param(b, id=f"line-{b.line}") for b in BLOCKS if b.language == "bash"],
)
def test_every_command_is_run_or_says_why_not(block: Block) -> None:
    """Every command of the page is run by a test, or a comment has the reason why not."""
    assert block.word in {"run", "run in the background", "not run"}
    if block.word == "run":
        assert hasattr(Reader, block.rest.replace("-", "_"))
    if block.word == "not run":
        assert len(block.rest.split()) > 2
        assert all((ROOT / word).exists() for word in block.rest.split() if "/" in word)


def test_the_guide_is_followed_word_for_word() -> None:
    """The page has the commands of sections 1 and 2 of the deployment guide, and those that can be tested are run."""
    assert len(BLOCKS) == PAGE.count("\n```") // 2, "every fence is understood"
    written = {
        line: block.word
        for block in BLOCKS
        if block.language == "bash"
        for line in block.text.splitlines()
    }
    assert written['pip install "ray[serve]" "ray[default]"'] == "not run"
    assert written["ray start --address='<HEAD_NODE_IP>:6379'"] == "not run"
    for command in (
        "ray start --head --dashboard-host=0.0.0.0",
        "ray status",
        "python -m modules.ray_service --deploy",
        "serve status",
    ):
        assert "run" in {block.word for block in BLOCKS if command in block.text.splitlines()}, (
            command
        )
