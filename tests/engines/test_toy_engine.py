"""An engine kind in one file: once registered, settings, definitions and replicas accept it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from mongars.bootstrap.checks import engine_check, model_check
from mongars.bootstrap.replica import build_replica
from mongars.bootstrap.serving import exported_config, serving_config
from mongars.core.deadline import Deadline
from mongars.core.errors import ConfigurationError
from mongars.core.generation import GenerationRequest, Message, Origin, Usage
from mongars.engines.engine import EngineStatus
from mongars.engines.kinds import KINDS, EngineKind, register
from mongars.protocol.openai import chunk_body, usage_chunk_body
from mongars.protocol.sse import DONE, encode_event
from mongars.serving.config import EngineSpec, ReplicaConfig
from mongars.serving.exports.config import installation
from mongars.serving.exports.helm import schema
from mongars.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from mongars.engines.engine_spec import EngineSpec as Spec
    from mongars.engines.factories import EngineSetup


class ToyEngine:
    """An engine that answers every request with one word."""

    continues = False

    def __init__(self, word: str, *, slots: int) -> None:
        self._word = word
        self.slots = slots
        self.status = EngineStatus(state="stopped")
        self.origin = Origin(model="toy", engine="toy")

    async def start(self) -> None:
        self.status = EngineStatus(state="ready")

    async def aclose(self) -> None:
        self.status = EngineStatus(state="stopped")

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        yield self._events(request.request_id)

    async def _events(self, name: str) -> AsyncIterator[bytes]:
        known = {"answer_id": name, "created": 0, "model": "toy"}
        yield encode_event(chunk_body(**known, delta={"content": self._word}))
        yield encode_event(chunk_body(**known, delta={}, finish_reason="stop"))
        usage = Usage(prompt_tokens=1, completion_tokens=1)
        yield encode_event(usage_chunk_body(**known, usage=usage)) + DONE


def build_toy(spec: Spec, _: EngineSetup) -> ToyEngine:
    """The engine of a specification, with the word of its option `word`."""
    return ToyEngine(str(spec.options.get("word", "toy")), slots=spec.slots)


TOY = EngineKind(name="toy", factory=f"{__name__}:build_toy", model="none", takes_options=True)


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    register(TOY)
    yield
    del KINDS[TOY.name]


async def test_a_registered_engine_answers_on_a_replica() -> None:
    """A replica built from a definition with the registered engine answers with it."""
    engine = EngineSpec.model_validate({"kind": "toy", "slots": 2, "options": {"word": "hello"}})
    replica, _ = build_replica(ReplicaConfig(engine=engine), "r1")
    request = GenerationRequest(
        messages=(Message(role="user", content="Hi"),), request_id="r", task_type="general"
    )
    await replica.start()
    try:
        completion, _ = await replica.complete(request, Deadline.after(replica.clock, 5))
    finally:
        await replica.aclose()
    assert completion.text == "hello"
    assert completion.origin == Origin(model="toy", engine="toy", replica="r1")
    assert replica.load["slots"] == 2


def test_the_setting_chooses_it_and_the_definition_and_exports_hold_it(tmp_path: Path) -> None:
    """`MONGARS_ENGINE=toy` chooses the engine for definitions and exports, without a model file and an embedder."""
    settings = load_settings({"MONGARS_ENGINE": "toy", "MONGARS_HOME": str(tmp_path)})
    for config in (serving_config(settings), exported_config(settings, images_only=True)):
        assert (config.replica.engine.kind, config.replica.engine.model_path) == ("toy", "")
        assert config.replica.embedding is None
        assert installation(config).serving.replica.engine.kind == "toy"
    assert engine_check(settings) == "toy"
    assert model_check(settings).startswith("general: none needed by toy")


def test_what_is_not_registered_is_refused_by_name() -> None:
    """An unknown engine is refused with a list of the kinds; a name cannot be registered twice."""
    with pytest.raises(ConfigurationError, match=r"MONGARS_ENGINE.*'llama_cpp', 'vllm' or 'toy'"):
        load_settings({"MONGARS_ENGINE": "toys"})
    with pytest.raises(ValidationError, match="'ollama', 'fake' or 'toy'"):
        EngineSpec.model_validate({"kind": "toys"})
    with pytest.raises(ValidationError, match="the fake engine has none"):
        EngineSpec(kind="fake", options={"word": "x"})
    with pytest.raises(ValueError, match="registered already"):
        register(TOY)


def test_the_chart_of_the_built_in_kinds_stays_closed() -> None:
    """The generated chart schema lists only the built-in kinds."""
    kinds = schema()["$defs"]["EngineSpec"]["properties"]["kind"]["enum"]
    assert kinds == ["llama_cpp", "vllm", "ollama", "fake"]
