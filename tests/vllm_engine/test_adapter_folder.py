"""An adapter folder is loaded as it was published, or refused with the reason."""

from __future__ import annotations

import json
import os
import shutil
import struct
from typing import TYPE_CHECKING, Any

import pytest
from adapter_files import as_published, safetensors, write_adapter

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
        pytest.param(_cut_short, "cut short or too long", id="cut-short"),
        pytest.param(_garbage, "no usable adapter_model.safetensors", id="garbage"),
        pytest.param(_no_weights, "no usable adapter_model.safetensors", id="no-weights"),
        pytest.param(_empty, "holds no LoRA weights", id="empty"),
    ],
)
def test_damaged_folder_is_refused_even_with_the_right_digest(
    adapter: AdapterFolder, damage: Callable[[Path], None], reason: str
) -> None:
    """A damaged folder is refused with the reason, even if its digest is right."""
    damage(adapter.path)
    with pytest.raises(InferenceFailed, match=reason):
        check_adapter(as_published(adapter.path), max_rank=8)


def _rewritten(folder: Path, **entries: Any) -> None:
    """Replace entries of the weights file's header; None removes one."""
    weights = folder / "adapter_model.safetensors"
    data = weights.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length]) | entries
    kept = {name: entry for name, entry in header.items() if entry is not None}
    encoded = json.dumps(kept).encode()
    weights.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])


A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight" for half in "AB")
TENSOR = {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]}


def _tensor(name: str, **changed: Any) -> Callable[[Path], None]:
    return lambda folder: _rewritten(folder, **{name: TENSOR | changed})


def _file(name: str, content: bytes = b"\x80\x04.") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def _without_shape(folder: Path) -> None:
    _rewritten(folder, **{A: {"dtype": "F32", "data_offsets": [0, 256]}})


def _nested_header(folder: Path) -> None:
    header = b"[" * 200_000
    content = struct.pack("<Q", len(header)) + header
    (folder / "adapter_model.safetensors").write_bytes(content)


def _name_that_is_not_utf8(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff.txt")).write_bytes(b"")


def _crossed_pairs(folder: Path) -> None:
    _rewritten(folder, **{B: None, B.replace("q_proj", "k_proj"): TENSOR})


def _other_tensors(folder: Path) -> None:
    _rewritten(folder, **{A: None, B: None, "foo": TENSOR, "bar": TENSOR})


def _pairs_of_other_halves(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    halves = weights.read_bytes().replace(b"q_proj.lora_B.weight", b"q_proj.lora_C.weight")
    weights.write_bytes(halves.replace(b"v_proj.lora_B.weight", b"v_proj.lora_D.weight"))


def _module_twice(folder: Path) -> None:
    _rewritten(folder, **{name.removeprefix("base_model.model."): TENSOR for name in (A, B)})


OTHER_FILES = (
    "adapter_model.bin",
    "adapter_model.pt",
    "training_args.bin",
    "state.pkl",
    "last.ckpt",
    "modeling.py",
    "ADAPTER_MODEL.BIN",
    "checkpoint-10/optimizer.pt",
    "more/adapter_config.json",
)
CONFIG = "adapter_config.json"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(_without_shape, "safetensors: KeyError: 'shape'", id="no-shape"),
        pytest.param(_nested_header, "safetensors: RecursionError", id="nested-header"),
        pytest.param(_tensor(A, shape="8 8"), "the shape '8 8'", id="shape-is-text"),
        pytest.param(_tensor(A, shape=[8, -8]), r"the shape \[8, -8\]", id="negative-shape"),
        pytest.param(_tensor(A, shape=[True, 8]), r"the shape \[True, 8\]", id="shape-of-booleans"),
        pytest.param(_tensor(A, shape=[0, 8]), r"shape \[0, 8\], which is no matrix", id="no-rows"),
        pytest.param(_tensor(A, shape=[64]), r"shape \[64\], which is no matrix", id="a-vector"),
        pytest.param(_tensor(A, data_offsets=[0]), "safetensors: IndexError", id="one-offset"),
        pytest.param(
            _crossed_pairs, "weights: '.*k_proj.lora_B.weight'", id="halves-of-two-modules"
        ),
        pytest.param(_other_tensors, "weights: 'bar' is missing or has no", id="other-tensors"),
        pytest.param(_pairs_of_other_halves, "q_proj.lora_B.weight' is missing", id="other-halves"),
        pytest.param(_module_twice, "two pairs of LoRA weights for one module", id="module-twice"),
        pytest.param(_name_that_is_not_utf8, "a name that is not UTF-8", id="name-not-utf8"),
        pytest.param(
            _file(CONFIG, b"[" * 200_000), "config.json: RecursionError", id="nested-config"
        ),
        pytest.param(_file(CONFIG, b'{"r": true}'), "names the rank True", id="rank-is-true"),
        pytest.param(
            _file(CONFIG, b'{"r": 8}' + b" " * (1 << 20)),
            "larger than 1048576 bytes",
            id="large-config",
        ),
        *(pytest.param(_file(name), f"holds '{name}'. Remove it", id=name) for name in OTHER_FILES),
    ],
)
def test_hostile_adapter_is_refused_with_a_short_reason(
    adapter: AdapterFolder, damage: Callable[[Path], None], reason: str
) -> None:
    """An adapter made to crash the check, or to pass it with other content, is refused; the message is short."""
    damage(adapter.path)
    with pytest.raises(InferenceFailed, match=reason) as caught:
        check_adapter(as_published(adapter.path), max_rank=8)
    assert len(str(caught.value)) < 600


def test_invalid_bytes_are_not_in_the_message(adapter: AdapterFolder) -> None:
    """The message about a weights file of megabytes of garbage does not repeat its content."""
    garbage = struct.pack("<Q", 1 << 20) + b"\xff" * (1 << 20)
    (adapter.path / "adapter_model.safetensors").write_bytes(garbage)
    with pytest.raises(InferenceFailed, match="UnicodeDecodeError") as caught:
        check_adapter(as_published(adapter.path), max_rank=8)
    assert len(str(caught.value)) < 600


def test_deeply_nested_folder_is_refused(adapter: AdapterFolder) -> None:
    """A file below 1100 folders is refused by its name."""
    folders = [adapter.path]
    for _ in range(1100):
        folders.append(folders[-1] / "d")
        folders[-1].mkdir()
    hidden = folders[-1] / "x"
    hidden.write_bytes(b"")
    try:
        with pytest.raises(InferenceFailed, match="holds 'd/d/"):
            check_adapter(as_published(adapter.path), max_rank=8)
    finally:
        hidden.unlink()
        for folder in reversed(folders[1:]):
            folder.rmdir()


def test_files_that_peft_and_transformers_save_are_accepted(adapter: AdapterFolder) -> None:
    """A model card and the files of a tokenizer, in text and JSON, may be in the folder."""
    for name in (
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "merges.txt",
    ):
        (adapter.path / name).write_text("{}")
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
    for index in ("[]", "[" * 200_000):
        (tmp_path / "model.safetensors.index.json").write_text(index)
        with pytest.raises(InferenceFailed, match=r"no usable model\.safetensors\.index\.json"):
            check_fit(adapter, tmp_path)


def test_two_digests_never_share_a_number() -> None:
    """Each digest has its own number, counted from 1."""
    ids = AdapterIds()
    assert [ids.id_of(digest) for digest in ("a", "b", "a", "c")] == [1, 2, 1, 3]
