"""The base models that the settings name, as far as they are on this machine."""

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
    """The provisioned file of a role's model; None if another one, or none, is there.

    A changed `RAY_GENERAL_MODEL` must be provisioned before it serves: the file of the model that
    was configured earlier is never passed off as the new one.
    """
    found = find_model(settings.cache, role)
    wanted = settings.provisioning().models.get(role)
    same = found is not None and wanted is not None and found.source == source_of(wanted)
    return found if same else None


def node_model(role: str, name: str) -> Path:
    """The file of a role's model in this node's own cache.

    Raises `ConfigurationError` if it is not there, or if the node has another model for the role:
    no answer comes under the name of a model that did not make it.
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
    """Why this host answers nothing when Ray cannot, and what to do; empty if it would answer."""
    config = settings.inference()
    if config.ollama_host is not None or configured_model(settings) is not None:
        return ""
    return (
        "No local model on this host: while Ray Serve cannot answer, every request fails with"
        " 502. Run on this host: python -m scripts.provision_models (then restart), or set OLLAMA_HOST."
    )
