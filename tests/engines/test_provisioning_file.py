"""Models that are files of the operator."""

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
    """A GGUF file that the operator has."""
    path = tmp_path / "my-model.gguf"
    path.write_bytes(gguf_bytes())
    return path


def test_a_file_is_kept_without_copying_it(bench, model):
    """A file on the cache's file system is linked, not copied, and not changed."""
    mode = model.stat().st_mode
    (status,) = bench.run(spec=FileSource(path=model))
    assert (status.action, status.provider, status.name) == ("installed", "file", "my-model")
    assert status.path is not None
    assert status.path.samefile(model)
    assert model.stat().st_mode == mode
    assert bench.litter() == []


def test_a_kept_file_survives_its_original(bench, model):
    """If the original is deleted, the model in the cache stays."""
    bench.run(spec=FileSource(path=model))
    model.unlink()
    found = find_model(bench.cache, "general")
    assert found is not None
    assert found.path.read_bytes() == gguf_bytes()


def test_an_unchanged_file_is_not_hashed_again(bench, model):
    """A second run does not hash an unchanged file again."""
    bench.run(spec=FileSource(path=model))
    bench.steps.clear()
    assert bench.run(spec=FileSource(path=model))[0].action == "exists"
    assert bench.steps == []


def test_a_replaced_file_is_a_new_model(bench, model):
    """Another file at the same path is installed as a new model."""
    first = bench.run(spec=FileSource(path=model))[0].path
    other = model.with_name("new")
    other.write_bytes(gguf_bytes(size=5000))
    other.replace(model)
    (status,) = bench.run(spec=FileSource(path=model))
    assert status.action == "installed"
    assert status.path != first


def test_a_file_changed_in_place_is_a_new_model(bench, model):
    """A file that is changed in place is installed as a new model, not kept under the old hash."""
    first = bench.run(spec=FileSource(path=model))[0].path
    model.write_bytes(gguf_bytes(size=5000))
    (status,) = bench.run(spec=FileSource(path=model))
    assert status.action == "installed"
    assert status.path != first


def test_a_file_on_another_file_system_is_copied(bench):
    """A file on another file system is copied; the next run does not hash it again."""
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
    """A file that is no model is refused with an error that has its path and the reason."""
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    (status,) = bench.run(spec=FileSource(path=path))
    assert (status.action, status.path) == ("error", None)
    assert says in status.detail
    assert str(path) in status.detail
    assert bench.litter() == []


def test_a_folder_is_no_model(bench, tmp_path):
    """A folder in place of a model is refused."""
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
    """A model setting is the name of the built-in model, a path or an Ollama tag."""
    assert parse_model_spec(text) == spec


@pytest.mark.parametrize("text", ["", "gpt-7", "ollama:", "ollama: "])
def test_an_unclear_model_setting_is_refused(text):
    """An unclear model setting is refused with a message that shows the valid forms."""
    with pytest.raises(ConfigurationError, match="ollama:TAG"):
        parse_model_spec(text)
