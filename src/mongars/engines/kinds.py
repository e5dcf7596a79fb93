"""The registry of engine kinds (`llama_cpp`, `vllm`, ...).

Settings, the definition of the Serve application, its exports, the checks and the replica read from it what they
need to know of a kind. To add one: write its engine and a factory, and add an entry to `_BUILT_IN`. `register`
adds one to a running process only, for tests: replicas are processes of their own, and JSON schemas that were
generated before lack it. A kind whose requests have a body format of its own also needs it in
`protocol.sampling_fields`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mongars.core.optional import require

ModelForm = Literal["file", "folder", "served", "none"]
"""`file`: a GGUF file in each node's cache. `folder`: a model folder at the same path on every node. `served`: a
model of the server at `EngineSpec.url`. `none`: the kind needs no model.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """One kind of engine, such as `llama_cpp`: the functions that make its engines, and what it needs to run.

    `factory` and `embedder_factory` are names `MODULE:FUNCTION` of functions that get an `EngineSpec` and an
    `EngineSetup` and return the `Engine` or `Embedder`, not started; `embedder_factory` is empty if the kind has none.
    `model`: the form of the model that it loads: `file` (a GGUF file), `folder` (a model folder), `served` (a model of
    the server at `EngineSpec.url`) or `none` (it needs no model). `package`: the Python module that must be installed,
    by the extra `extra` of the `mongars` distribution; empty: none. `takes_options`: whether its engines read
    `EngineSpec.options`; `selectable`: whether the setting `MONGARS_ENGINE` accepts it.
    """

    name: str
    """The kind's name in `MONGARS_ENGINE` and `EngineSpec.kind`."""
    factory: str
    """`MODULE:FUNCTION` of a function (EngineSpec, EngineSetup) -> Engine; imported when the first engine is made."""
    embedder_factory: str = ""
    """`MODULE:FUNCTION` of a function (EngineSpec, EngineSetup) -> Embedder; empty if the kind has no embedder."""
    model: ModelForm = "file"
    takes_options: bool = False
    """Whether the factory reads `EngineSpec.options`; False: a specification with options is refused."""
    selectable: bool = True
    """Whether `MONGARS_ENGINE` accepts this kind."""
    package: str = ""
    """The Python module that must be installed; empty: none."""
    extra: str = ""
    """The extra of the `mongars` distribution that installs `package`."""

    def check_installed(self) -> None:
        """Check that the Python module `package` that this kind of engine needs can be found; does not import it.

        Raises `ConfigurationError`, naming the extra of the `mongars` distribution to install, if it is not installed.
        """
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
"""Every registered engine kind by its name."""


def register(kind: EngineKind) -> None:
    """Add an engine kind to the registry `KINDS` of this process; call it before the settings are read.

    Raises `ValueError` if its name is registered already.
    """
    if kind.name in KINDS:
        message = f"An engine kind {kind.name!r} is registered already."
        raise ValueError(message)
    KINDS[kind.name] = kind


def check_kind(name: str) -> str:
    """Return `name` if it is, case included, the name of a registered engine kind.

    Raises `ValueError` with the possible names if not.
    """
    return _checked(name, [*KINDS])


def check_selectable(name: str) -> str:
    """Return `name` if it is, case included, a registered engine kind that the setting `MONGARS_ENGINE` accepts.

    Raises `ValueError` with the possible names if not.
    """
    return _checked(name, [kind.name for kind in KINDS.values() if kind.selectable])


def check_embedding(name: str) -> str:
    """Return `name` if it is, case included, a registered engine kind that has an embedder.

    Raises `ValueError` with the possible names if not.
    """
    return _checked(name, [kind.name for kind in KINDS.values() if kind.embedder_factory])


def _checked(name: str, known: list[str]) -> str:
    if name not in known:
        *most, last = (repr(each) for each in known)
        message = f"Input should be {', '.join(most)} or {last}"
        raise ValueError(message)
    return name
