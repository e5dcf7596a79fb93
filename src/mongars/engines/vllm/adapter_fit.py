"""Check that an adapter fits a model.

vLLM loads an adapter for modules that the model does not have without an error, and then answers like the base
model, so the adapter version in responses would be wrong.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mongars.core.errors import InferenceFailed
from mongars.engines.adapter_folder import adapted_modules, tensor_header

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.engines.adapter_folder import AdapterFolder


def check_fit(adapter: AdapterFolder, model: Path) -> None:
    """Raise `InferenceFailed` unless every module of the adapter exists in the model with the same shape.

    Shapes are compared only for unquantised weights; quantised weights do not reveal the shape.
    """
    shapes = _module_shapes(model)
    for module, (a, b) in adapted_modules(adapter).items():
        if module not in shapes:
            msg = f"Adapter {adapter.name!r} is for {module!r}, which {model.name!r} does not have."
            raise InferenceFailed(msg)
        weight = shapes[module]
        if weight is not None and not _gives(b, a, weight):
            msg = f"Adapter {adapter.name!r}: {b} by {a} does not give {weight} of {module!r}."
            raise InferenceFailed(msg)


def _gives(b: list[int], a: list[int], weight: list[int]) -> bool:
    match b, a:
        case [out, rank], [same, width] if rank == same:
            return weight == [out, width]
    return False


def _module_shapes(model: Path) -> dict[str, list[int] | None]:
    """The shape of the weight of each module of a model, by the module's name; None for a quantised weight.

    `model` is a model folder in Hugging Face's format.
    """
    shapes: dict[str, list[int] | None] = {}
    for file in _files(model):
        for name, tensor in tensor_header(model / file, of=f"The model {str(model)!r}").items():
            module, _, kind = name.rpartition(".")
            shapes.setdefault(module, None)
            if kind == "weight":
                shapes[module] = tensor["shape"]
    return shapes


def _files(model: Path) -> set[str]:
    index = model / "model.safetensors.index.json"
    if not index.is_file():
        return {"model.safetensors"}
    try:
        return set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"The model {str(model)!r} has no usable {index.name}: {error!r}."
        raise InferenceFailed(msg) from error
