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
    """The provisioned file of the model that the settings name for `role`.

    None if no model is provisioned for the role, or another one: after a change of `RAY_GENERAL_MODEL`, the earlier
    model's file is not used in place of the new one.
    """
    found = find_model(settings.cache, role)
    wanted = settings.provisioning().models.get(role)
    same = found is not None and wanted is not None and found.source == source_of(wanted)
    return found if same else None


def node_model(role: str, name: str) -> Path:
    """The path of a role's model file in this node's cache.

    Raises `ConfigurationError` if there is none, or if the node's model for the role is not the one named `name`, so
    that no answer carries the name of another model than the one that generated it.
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
    """A warning that this host cannot answer while Ray Serve is unavailable, and what to do about it.

    Empty if the host can answer, since an Ollama server is configured or a local model is provisioned.
    """
    config = settings.inference()
    if config.ollama_host is not None or configured_model(settings) is not None:
        return ""
    return (
        "No local model on this host: while Ray Serve cannot answer, every request fails with"
        " 502. Run on this host: python -m scripts.provision_models (then restart), or set OLLAMA_HOST."
    )
