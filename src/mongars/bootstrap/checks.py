"""The checks of `mongars doctor`: each returns a line about one component, and changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mongars.bootstrap.model import configured_model
from mongars.core.errors import ConfigurationError, StorageUnavailable
from mongars.engines.kinds import KINDS
from mongars.engines.provisioning.spec import FileSource, OllamaSource
from mongars.inference.events import split_label
from mongars.inference.http.tls import TlsContexts
from mongars.persistence.database import Database
from mongars.persistence.migrate import current, head
from mongars.persistence.url import masked

if TYPE_CHECKING:
    from mongars.engines.provisioning.spec import ModelSpec
    from mongars.settings import Settings


def model_check(settings: Settings) -> str:
    """Check that the base model of every model role (such as `general`) is on this machine.

    Returns one line with roles and model names. Models of Ollama are listed without a check, and so is a role whose
    engine needs no model. Raises `ConfigurationError` if a model is missing; the message names the command that
    downloads it.
    """
    roles = settings.provisioning().models
    return ", ".join(_model(settings, role, spec) for role, spec in roles.items())


def _model(settings: Settings, role: str, spec: ModelSpec) -> str:
    if isinstance(spec, OllamaSource):
        return f"{role}: {spec.tag} in Ollama"
    kind = KINDS[settings.environment.engine]
    if kind.model == "none":
        return f"{role}: none needed by {kind.name}"
    if kind.model == "folder" and isinstance(spec, FileSource) and spec.is_model_folder:
        return f"{role}: {spec.path}"
    found = configured_model(settings, role)
    if found is None:
        detail = f"no {role} model in {settings.cache}; run: python -m scripts.provision_models"
        raise ConfigurationError(detail)
    return f"{role}: {found.name} ({found.digest[:12]})"


def engine_check(settings: Settings) -> str:
    """Check that the Python package of the engine (`MONGARS_ENGINE`) is installed; returns the engine's name.

    Raises `ConfigurationError`, naming the package extra of monGARS to install, if it is missing.
    """
    kind = KINDS[settings.environment.engine]
    kind.check_installed()
    return kind.name


def ray_check(settings: Settings) -> str:
    """Check the TLS certificate files for the Ray Serve endpoints; connects to no endpoint.

    Returns the endpoints' URLs on one line, separated by commas, or a text that Ray Serve is not used. Raises
    `ConfigurationError` if a certificate or key file cannot be used.
    """
    config = settings.inference()
    TlsContexts(config)
    if not config.ray_active:
        return "not used: RAY_SERVE_URL is empty or USE_RAY_SERVE is false"
    return ", ".join("".join(split_label(url)) for url in config.endpoints)


def registry_check(settings: Settings) -> str:
    """Check that the path of the adapter registry (`LLM_ADAPTER_REGISTRY_PATH`) is a folder or does not exist yet.

    Returns the path, followed by ` (no adapter yet)` if it does not exist. Raises `ConfigurationError` if it is
    something else, such as a file.
    """
    if settings.registry.exists() and not settings.registry.is_dir():
        detail = f"LLM_ADAPTER_REGISTRY_PATH: {settings.registry} is not a folder"
        raise ConfigurationError(detail)
    return f"{settings.registry}{'' if settings.registry.exists() else ' (no adapter yet)'}"


def database_check(settings: Settings) -> str:
    """Check that the database can be read and written and has this version's schema; returns its URL without password.

    Raises `StorageUnavailable` if it cannot be reached or its schema is another one, `ConfigurationError` if
    `DATABASE_URL` is unusable.
    """
    config = settings.database()
    asyncio.run(_reach(settings))
    revision = current(config)
    if revision != head():
        detail = f"the schema is at {revision}, this version needs {head()}; run: python init_db.py"
        raise StorageUnavailable(detail)
    return f"{masked(config.url)} at {revision}"


async def _reach(settings: Settings) -> None:
    async with Database(settings.database()) as database:
        await database.healthy()
