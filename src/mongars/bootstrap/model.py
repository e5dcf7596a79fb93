"""Find the base models that the settings name, if they are stored on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mongars.core.errors import ConfigurationError
from mongars.engines.provisioning.model_cache import find_model
from mongars.engines.provisioning.spec import source_of
from mongars.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from mongars.engines.provisioning.spec import ModelFile
    from mongars.settings import Settings


def configured_model(settings: Settings, role: str = "general") -> ModelFile | None:
    """The downloaded file, in `MONGARS_CACHE`, of the model that the settings name for the model role `role`.

    None if there is no file for the role, or only that of another model: after a change of `RAY_GENERAL_MODEL`, the
    earlier model's file is not used in place of the new one.
    """
    found = find_model(settings.cache, role)
    wanted = settings.provisioning().models.get(role)
    same = found is not None and wanted is not None and found.source == source_of(wanted)
    return found if same else None


def node_model(role: str, name: str) -> Path:
    """The path of the file of the model role `role` in the model cache (`MONGARS_CACHE`) of this cluster node.

    Raises `ConfigurationError` if there is none, or if the file's model is not named exactly `name`, so that no answer
    carries the name of a model that did not generate it.
    """
    settings = load_settings()
    found = find_model(settings.cache, role)
    way_out = (
        f"Set RAY_{role.upper()}_MODEL on the node and run there:"
        f" python -m scripts.provision_models --roles {role}"
    )
    if found is None:
        message = f"No {role} model in {settings.cache} on this node. {way_out}"
        raise ConfigurationError(message)
    if found.name != name:
        message = f"The {role} model on this node is {found.name!r}, not {name!r}. {way_out}"
        raise ConfigurationError(message)
    return found.path


def no_fallback(settings: Settings) -> str:
    """A warning for the operator that nothing on this host answers while Ray Serve is unavailable, with the remedy.

    Empty if there is a fallback: an Ollama server is configured, or the `general` model's file is on this machine.
    """
    config = settings.inference()
    if config.ollama_host is not None or configured_model(settings) is not None:
        return ""
    return (
        "No local model on this host: while Ray Serve cannot answer, every request fails with"
        " 502. Run on this host: python -m scripts.provision_models (then restart), or set OLLAMA_HOST."
    )
