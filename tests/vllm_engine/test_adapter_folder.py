"""An adapter folder is loaded as it was published, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from adapters import as_published, safetensors, write_adapter

from mongars.core.errors import InferenceFailed
from mongars.engines.adapter_folder import AdapterFolder, check_adapter, folder_digest
from mongars.engines.vllm.adapter_fit import check_fit
from mongars.engines.vllm.adapter_ids import AdapterIds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def adapter(tmp_path: Path) -> AdapterFolder:
    return write_adapter(tmp_path / "adapter", layers=1)


def test_published_folder_is_accepted(adapter: AdapterFolder) -> None:
    """A folder whose content matches its digest is accepted."""
    check_adapter(adapter, max_rank=8)


def test_the_name_is_the_digest_of_the_content(adapter: AdapterFolder) -> None:
    """The adapter's name is its version and the first twelve digits of its digest."""
    assert adapter.name == f"v1@{adapter.digest[:12]}"


def test_digest_follows_the_content_only(adapter: AdapterFolder, tmp_path: Path) -> None:
    """A copy of the folder has the same digest; a file in another subfolder changes the digest."""
    copy = tmp_path / "copy"
    shutil.copytree(adapter.path, copy)
    assert folder_digest(copy) == adapter.digest
    (copy / "more").mkdir()
    assert folder_digest(copy) == adapter.digest
    (copy / "adapter_config.json").rename(copy / "more" / "adapter_config.json")
    assert folder_digest(copy) != adapter.digest


def test_one_flipped_byte_is_refused(adapter: AdapterFolder) -> None:
    """A folder with one changed byte is refused."""
    weights = adapter.path / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InferenceFailed, match="is not what it should be"):
        check_adapter(adapter, max_rank=8)


def _no_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def _odd_rank(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"r": "eight"}))


def _pickle(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")


def _cut_short(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _garbage(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64)


def _no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def _empty(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(_no_config, "no usable adapter_config.json", id="no-config"),
        pytest.param(_odd_rank, "names the rank 'eight'", id="odd-rank"),
        pytest.param(_pickle, "only safetensors are loaded", id="pickle"),
        pytest.param(_cut_short, "cut short or too long", id="cut-short"),
        pytest.param(_garbage, "no usable adapter_model.safetensors", id="garbage"),
        pytest.param(_no_weights, "no usable adapter_model.safetensors", id="no-weights"),
        pytest.param(_empty, "something else than pairs", id="empty"),
    ],
)
def test_damaged_folder_is_refused_even_with_the_right_digest(
    adapter: AdapterFolder, damage: Callable[[Path], None], reason: str
) -> None:
    """A damaged folder is refused with the reason, even if its digest is right."""
    damage(adapter.path)
    with pytest.raises(InferenceFailed, match=reason):
        check_adapter(as_published(adapter.path), max_rank=8)


def test_links_are_refused(adapter: AdapterFolder, tmp_path: Path) -> None:
    """A folder with a symbolic link is refused, so that nothing outside the folder is read."""
    (tmp_path / "secret").write_text("secret")
    (adapter.path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InferenceFailed, match="neither file nor folder"):
        check_adapter(adapter, max_rank=8)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """A missing folder is refused as such."""
    adapter = AdapterFolder(version="v1", digest="0" * 64, path=tmp_path / "gone")
    with pytest.raises(InferenceFailed, match="cannot be read: No such file"):
        check_adapter(adapter, max_rank=8)


def test_too_high_a_rank_is_refused(tmp_path: Path) -> None:
    """A rank above the engine's is refused with both numbers."""
    adapter = write_adapter(tmp_path / "adapter", layers=1, rank=16)
    with pytest.raises(InferenceFailed, match="has rank 16; the engine takes at most 8"):
        check_adapter(adapter, max_rank=8)


def test_digest_must_be_one(adapter: AdapterFolder) -> None:
    """A digest that is no SHA-256 is refused."""
    wrong = AdapterFolder(version="v1", digest="latest", path=adapter.path)
    with pytest.raises(InferenceFailed, match="is no sha256: 'latest'"):
        check_adapter(wrong, max_rank=8)


def test_pair_without_its_other_half_is_refused(tmp_path: Path) -> None:
    """A LoRA pair whose B matrix is missing is refused, since A alone changes nothing."""
    adapter = write_adapter(tmp_path / "adapter", layers=1, skip="v_proj.lora_B")
    with pytest.raises(InferenceFailed, match="something else than pairs"):
        check_adapter(adapter, max_rank=8)


def base_model(folder: Path, shapes: dict[str, list[int]]) -> Path:
    folder.mkdir()
    tensors = {name: (shape, bytes(4 * shape[0] * shape[1])) for name, shape in shapes.items()}
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    return folder


Q, V = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qv")


def test_adapter_of_the_model_fits(adapter: AdapterFolder, tmp_path: Path) -> None:
    """An adapter whose modules and shapes are in the model is accepted, also for a model of several files."""
    model = base_model(tmp_path / "model", {Q: [576, 576], V: [192, 576]})
    check_fit(adapter, model)
    (model / "model.safetensors").rename(model / "part-1.safetensors")
    index = {"weight_map": {Q: "part-1.safetensors", V: "part-1.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    check_fit(adapter, model)


def test_quantised_model_has_modules_without_shapes(adapter: AdapterFolder, tmp_path: Path) -> None:
    """For a quantised model, whose weights are packed, only the names of modules are compared."""
    names = (f"model.layers.0.self_attn.{part}_proj.qweight" for part in "qv")
    check_fit(adapter, base_model(tmp_path / "model", {name: [2, 2] for name in names}))


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        pytest.param({Q: [576, 576]}, "is for 'model.layers.0.self_attn.v_proj'", id="module"),
        pytest.param({Q: [576, 576], V: [64, 576]}, "does not give", id="shape"),
    ],
)
def test_adapter_of_another_model_is_refused(
    adapter: AdapterFolder, tmp_path: Path, shapes: dict[str, list[int]], reason: str
) -> None:
    """An adapter with a module or a shape that the model does not have is refused."""
    with pytest.raises(InferenceFailed, match=reason):
        check_fit(adapter, base_model(tmp_path / "model", shapes))


def test_broken_model_folder_is_named(adapter: AdapterFolder, tmp_path: Path) -> None:
    """A model folder without weights, or with an invalid index, is refused with the name of the file."""
    with pytest.raises(InferenceFailed, match=r"no usable model\.safetensors"):
        check_fit(adapter, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InferenceFailed, match=r"no usable model\.safetensors\.index\.json"):
        check_fit(adapter, tmp_path)


def test_two_digests_never_share_a_number() -> None:
    """Each digest has its own number, counted from 1."""
    ids = AdapterIds()
    assert [ids.id_of(digest) for digest in ("a", "b", "a", "c")] == [1, 2, 1, 3]
