from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from engines.provisioning_bench import Bench, gguf_bytes
from mongars.core.errors import ConfigurationError
from mongars.engines.provisioning.model_cache import find_model
from mongars.engines.provisioning.spec import (
    BUILT_IN,
    FileSource,
    OllamaSource,
    parse_model_spec,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """An empty cache."""
    return Bench(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A GGUF file of the operator's own."""
    path = tmp_path / "my-model.gguf"
    path.write_bytes(gguf_bytes())
    return path


def test_a_file_is_kept_without_copying_it(bench, model):
    """On one file system the cache holds a second name of the same file, which it never changes."""
    mode = model.stat().st_mode
    (status,) = bench.run(spec=FileSource(path=model))
    assert (status.action, status.provider, status.name) == ("installed", "file", "my-model")
    assert status.path is not None
    assert status.path.samefile(model)
    assert model.stat().st_mode == mode
    assert bench.litter() == []


def test_a_kept_file_survives_its_original(bench, model):
    """Deleting the original takes nothing from the cache."""
    bench.run(spec=FileSource(path=model))
    model.unlink()
    found = find_model(bench.cache, "general")
    assert found is not None
    assert found.path.read_bytes() == gguf_bytes()


def test_an_unchanged_file_is_not_hashed_again(bench, model):
    """The second run is instant, however large the model."""
    bench.run(spec=FileSource(path=model))
    bench.steps.clear()
    assert bench.run(spec=FileSource(path=model))[0].action == "exists"
    assert bench.steps == []


def test_a_replaced_file_is_a_new_model(bench, model):
    """Another file under the same path is noticed."""
    first = bench.run(spec=FileSource(path=model))[0].path
    other = model.with_name("new")
    other.write_bytes(gguf_bytes(size=5000))
    other.replace(model)
    (status,) = bench.run(spec=FileSource(path=model))
    assert status.action == "installed"
    assert status.path != first


def test_a_file_changed_in_place_is_a_new_model(bench, model):
    """Writing into a linked original cannot pass off other bytes under the old hash."""
    first = bench.run(spec=FileSource(path=model))[0].path
    model.write_bytes(gguf_bytes(size=5000))
    (status,) = bench.run(spec=FileSource(path=model))
    assert status.action == "installed"
    assert status.path != first


def test_a_file_on_another_file_system_is_copied(bench):
    """Where no link is possible the bytes are copied, and the next run still is instant."""
    shm = Path("/dev/shm")  # noqa: S108 - the usual other file system
    if not shm.is_dir() or shm.stat().st_dev == bench.root.stat().st_dev:
        pytest.skip("no second file system")
    folder = Path(tempfile.mkdtemp(dir=shm))
    try:
        path = folder / "far.gguf"
        path.write_bytes(gguf_bytes())
        (status,) = bench.run(spec=FileSource(path=path))
        assert status.path is not None
        assert not status.path.samefile(path)
        assert status.path.read_bytes() == path.read_bytes()
        bench.steps.clear()
        assert bench.run(spec=FileSource(path=path))[0].action == "exists"
        assert bench.steps == []
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "There is no file", id="missing"),
        pytest.param(b"", "not a GGUF model", id="empty"),
        pytest.param(b"PK\x03\x04" + bytes(100), "not a GGUF model", id="zip"),
        pytest.param(gguf_bytes(version=1), "GGUF version 1", id="old"),
        pytest.param(gguf_bytes(tensors=0), "0 tensors", id="no tensors"),
    ],
)
def test_what_is_no_model_is_refused(bench, tmp_path, content, says):
    """The message names the path and what is wrong with it."""
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    (status,) = bench.run(spec=FileSource(path=path))
    assert (status.action, status.path) == ("error", None)
    assert says in status.detail
    assert str(path) in status.detail
    assert bench.litter() == []


def test_a_folder_is_no_model(bench, tmp_path):
    """A directory is reported like any unreadable path."""
    (status,) = bench.run(spec=FileSource(path=tmp_path))
    assert status.action == "error"
    assert "Cannot read" in status.detail


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("smollm2-135m-instruct", BUILT_IN),
        (" SmolLM2-135M-Instruct ", BUILT_IN),
        ("/models/a.gguf", FileSource(path=Path("/models/a.gguf"))),
        ("/models/a", FileSource(path=Path("/models/a"))),
        ("here.gguf", FileSource(path=Path.cwd() / "here.gguf")),
        ("ollama:dolphin3", OllamaSource(tag="dolphin3")),
        ("ollama:hf.co/some/model:q4", OllamaSource(tag="hf.co/some/model:q4")),
    ],
)
def test_a_model_setting_is_understood(text, spec):
    """The built-in's name, a path, or an Ollama tag."""
    assert parse_model_spec(text) == spec


@pytest.mark.parametrize("text", ["", "gpt-7", "ollama:", "ollama: "])
def test_an_unclear_model_setting_is_refused(text):
    """The message shows what would be right."""
    with pytest.raises(ConfigurationError, match="ollama:TAG"):
        parse_model_spec(text)
