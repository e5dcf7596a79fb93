"""The kinds of engines, each registered once.

Settings, the definition of the Serve application, its exports, the checks and the replica derive from
this table what they need to know of a kind. To add one: write its engine and a factory, and add an
entry to `_BUILT_IN` (or call `register` before the settings are read).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mongars.core.optional import require

ModelForm = Literal["file", "folder", "served", "none"]
"""`file`: a GGUF file, in each node's own cache. `folder`: a model folder, at the same path on every
node. `served`: a model of the server at `url`. `none`: the kind needs no model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """One kind of engine."""

    name: str
    """As `MONGARS_ENGINE` and `kind` name it."""
    factory: str
    """`MODULE:FUNCTION` of (EngineSpec, EngineSetup) -> Engine (`engines.factories`); imported on use."""
    embedder_factory: str = ""
    """The same for its Embedder; empty if the kind has none."""
    model: ModelForm = "file"
    takes_options: bool = False
    """Whether its factory reads `EngineSpec.options`; else they are refused."""
    selectable: bool = True
    """Whether `MONGARS_ENGINE` can name it."""
    package: str = ""
    """The module that must be installed; empty if none has to be."""
    extra: str = ""
    """The extra of this distribution that installs it."""

    def check_installed(self) -> None:
        """Raise `ConfigurationError`, naming the extra, if its package is not installed."""
        if self.package:
            require(self.package, extra=self.extra)


_BUILT_IN = (
    EngineKind(
        name="llama_cpp",
        factory="mongars.engines.llama_cpp.factory:build_engine",
        embedder_factory="mongars.engines.llama_cpp.factory:build_embedder",
        package="xllamacpp",
        extra="engine",
    ),
    EngineKind(
        name="vllm",
        factory="mongars.engines.vllm.factory:build_engine",
        model="folder",
        package="vllm",
        extra="vllm",
    ),
    EngineKind(
        name="ollama",
        factory="mongars.engines.ollama.factory:build_engine",
        model="served",
        selectable=False,  # chosen by a model named ollama:TAG
    ),
    EngineKind(
        name="fake",
        factory="mongars.engines.fake_factory:build_engine",
        embedder_factory="mongars.engines.fake_factory:build_embedder",
        model="none",
        selectable=False,
    ),
)

KINDS: dict[str, EngineKind] = {kind.name: kind for kind in _BUILT_IN}
"""Every registered kind by its name."""


def register(kind: EngineKind) -> None:
    """Add a kind. Raises `ValueError` if the name is taken."""
    if kind.name in KINDS:
        message = f"An engine kind {kind.name!r} is registered already."
        raise ValueError(message)
    KINDS[kind.name] = kind


def check_kind(name: str) -> str:
    """The name itself, for validators. Raises `ValueError`, naming the kinds there are."""
    return _checked(name, [*KINDS])


def check_selectable(name: str) -> str:
    """The same for `MONGARS_ENGINE`."""
    return _checked(name, [kind.name for kind in KINDS.values() if kind.selectable])


def check_embedding(name: str) -> str:
    """The same for kinds with an embedder."""
    return _checked(name, [kind.name for kind in KINDS.values() if kind.embedder_factory])


def _checked(name: str, known: list[str]) -> str:
    if name not in known:
        *most, last = (repr(each) for each in known)
        message = f"Input should be {', '.join(most)} or {last}"
        raise ValueError(message)
    return name
