"""The names under which models are served, in every dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.core.errors import ModelUnknown

if TYPE_CHECKING:
    from mongars.api.context import ApiConfig

MODEL_ALIAS = "mongars"
"""A name that always means the general model."""


class ServedModels:
    """The models that requests may name."""

    def __init__(self, config: ApiConfig) -> None:
        coding = [] if config.coding_model is None else [config.coding_model]
        self._coding = config.coding_model
        self.names = tuple(dict.fromkeys([config.model_name, *coding, MODEL_ALIAS]))
        """The names of all served models, without duplicates."""

    def check(self, name: str) -> None:
        """Raise `ModelUnknown` for a name that is not served."""
        if name not in self.names:
            served = ", ".join(map(repr, self.names))
            detail = f"The model {name!r} does not exist here. Served: {served}."
            raise ModelUnknown(detail, param="model")

    def task_type(self, name: str) -> str:
        """The task type of a request that names this model."""
        return "coding" if name == self._coding else "general"
