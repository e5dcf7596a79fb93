"""Small LoRA adapters in PEFT's format for the base model, with weights large enough to change answers."""

from __future__ import annotations

import json
import random
import struct
from typing import TYPE_CHECKING

from mongars.engines.adapter_folder import AdapterFolder, folder_digest

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = 30
WIDTH = 576
SHAPES = {"q_proj": WIDTH, "v_proj": 192}


def write_adapter(
    folder: Path, *, rank: int = 8, seed: int = 1, layers: int = LAYERS, skip: str = "none"
) -> AdapterFolder:
    """Write an adapter of random weights, large enough to change greedy answers; `skip` leaves tensors out."""
    folder.mkdir(parents=True)
    noise = random.Random(seed)  # noqa: S311
    tensors: dict[str, tuple[list[int], bytes]] = {}
    for layer in range(layers):
        for module, out in SHAPES.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = _tensor(noise, [rank, WIDTH], 0.1)
            tensors[f"{name}.lora_B.weight"] = _tensor(noise, [out, rank], 0.1)
    tensors = {name: tensor for name, tensor in tensors.items() if skip not in name}
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "smollm2",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(SHAPES),
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, sort_keys=True))
    return as_published(folder)


def as_published(folder: Path) -> AdapterFolder:
    """The adapter folder with the digest of its present content."""
    return AdapterFolder(version="v1", digest=folder_digest(folder), path=folder)


def _tensor(noise: random.Random, shape: list[int], scale: float) -> tuple[list[int], bytes]:
    size = shape[0] * shape[1]
    return shape, struct.pack(f"<{size}f", *(noise.gauss(0.0, scale) for _ in range(size)))


def safetensors(tensors: dict[str, tuple[list[int], bytes]]) -> bytes:
    """The bytes of a safetensors file with these tensors, given as shape and data."""
    header, body = {}, b""
    for name, (shape, data) in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + body
