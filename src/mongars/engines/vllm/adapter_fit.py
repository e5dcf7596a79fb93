"""Check that an adapter fits a model.

vLLM loads an adapter for modules that the model does not have without an error, and then answers like the base
model, so the adapter version in responses would be wrong.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mongars.core.errors import InferenceFailed
from mongars.engines.adapter_folder import (
    SHOWN,
    UNUSABLE_FILE,
    adapted_modules,
    tensor_shapes,
    unusable,
)

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.engines.adapter_folder import AdapterFolder


def check_fit(adapter: AdapterFolder, model: Path) -> None:
    """Check that every module an adapter changes exists in the base model, with a weight of the same shape.

    `model` is the base model's folder in Hugging Face's format. Quantised weights are not compared, since their tensors
    do not reveal the shape. Raises `InferenceFailed` with the first mismatch, or if a file is unusable.
    """
    shapes = _module_shapes(model)
    for module, (a, b) in adapted_modules(adapter).items():
        if module not in shapes:
            msg = f"Adapter {adapter.name!r} is for {module[:SHOWN]!r}, which {model.name!r} does not have."
            raise InferenceFailed(msg)
        weight = shapes[module]
        if weight is not None and not _gives(b, a, weight):
            msg = f"Adapter {adapter.name!r}: {b} by {a} does not give {weight} of {module[:SHOWN]!r}."
            raise InferenceFailed(msg)


def _gives(b: list[int], a: list[int], weight: list[int]) -> bool:
    match b, a:
        case [out, rank], [same, width] if rank == same:
            return weight == [out, width]
    return False


def _module_shapes(model: Path) -> dict[str, list[int] | None]:
    """The shape of the weight of each module in the model folder `model` (Hugging Face's format), by the module's name.

    None for a module without an unquantised `weight`.
    """
    shapes: dict[str, list[int] | None] = {}
    for file in _files(model):
        for name, shape in tensor_shapes(model / file, of=f"The model {str(model)!r}").items():
            module, _, kind = name.rpartition(".")
            shapes.setdefault(module, None)
            if kind == "weight":
                shapes[module] = shape
    return shapes


def _files(model: Path) -> set[str]:
    index = model / "model.safetensors.index.json"
    if not index.is_file():
        return {"model.safetensors"}
    try:
        return {str(file) for file in json.loads(index.read_bytes())["weight_map"].values()}
    except UNUSABLE_FILE as error:
        raise unusable(index.name, error, of=f"The model {str(model)!r}") from error
