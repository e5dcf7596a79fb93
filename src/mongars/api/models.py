"""The names under which models are served, the same in every client API."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from mongars.core.errors import ModelUnknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from mongars.api.context import ApiConfig

MODEL_ALIAS = "mongars"
"""A model name that always refers to the general model (for embeddings: to the embedding model)."""


class ServedModels:
    """The names of the models that requests may use, in all client APIs; names are compared exactly, case included.

    They are the configured names and `mongars`, an alias of the general model (for embeddings: of the embedding model).
    """

    def __init__(self, config: ApiConfig) -> None:
        coding = [] if config.coding_model is None else [config.coding_model]
        self._coding = config.coding_model
        self.names = tuple(dict.fromkeys([config.model_name, *coding, MODEL_ALIAS]))
        """Every name of a text-generating model, without repetition."""
        embedding = config.embedding_model
        self._embedding = embedding
        self.listed = tuple(
            dict.fromkeys([*self.names, *([] if embedding is None else [embedding])])
        )
        """Every model name, without repetition; that of the embedding model last."""

    def check(self, name: str) -> None:
        """Raise `ModelUnknown` unless `name` is exactly a served text-generating model's or the alias `mongars`."""
        if name not in self.names:
            raise self.unknown(name, among=self.names)

    def check_listed(self, name: str) -> None:
        """Raise `ModelUnknown` unless `name` is a served model's (text or embedding) or the alias `mongars`.

        Names are compared exactly, case included.
        """
        if name not in self.listed:
            raise self.unknown(name, among=self.listed)

    def unknown(self, name: str, *, among: tuple[str, ...]) -> ModelUnknown:
        """The error for a model `name` that is none of `among`, the names that the request could use."""
        served = ", ".join(map(repr, among))
        reason = "does not exist here"
        if name in self.listed:
            reason = "gives embeddings only and generates no text"
        detail = f"The model {name!r} {reason}. Served: {served}."
        return ModelUnknown(detail, param="model")

    def find_embedding(self, name: str, *, same: Callable[[str, str], bool] = operator.eq) -> str:
        """The embedding model's configured name, if `name` is that name, the alias `mongars` or empty.

        `same` decides whether `name` (its first argument) equals one of them; by default exactly, case included. Raises
        `ModelUnknown` for any other name, since vectors of different models cannot be compared, and if no embedding
        model is served.
        """
        if self._embedding is None:
            detail = "No embedding model is served here. Set RAY_EMBEDDING_MODEL and provision it."
            raise ModelUnknown(detail, param="model")
        if not name or same(name, self._embedding) or same(name, MODEL_ALIAS):
            return self._embedding
        detail = (
            f"The model {name!r} gives no embeddings here. Use {self._embedding!r}"
            f" (RAY_EMBEDDING_MODEL) or {MODEL_ALIAS!r}."
        )
        raise ModelUnknown(detail, param="model")

    def task_type(self, name: str) -> str:
        """The model role that serves the model `name`: `coding` for exactly the coding model's name, else `general`."""
        return "coding" if name == self._coding else "general"
