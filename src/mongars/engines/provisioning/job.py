"""The context in which a model source provisions the model of one role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.engines.provisioning.spec import ModelFile, ProvisioningStep, source_of

if TYPE_CHECKING:
    from mongars.engines.provisioning.model_cache import Blob, ModelCache, ReportBytes
    from mongars.engines.provisioning.spec import ModelSpec, Phase, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One role to provision: its model, the cache to store it in, and where to report progress.

    `force`: check or download the model again even if it is in the cache.
    """

    role: str
    spec: ModelSpec
    cache: ModelCache
    progress: Progress
    force: bool

    def step(self, phase: Phase, *, done: int = 0, total: int | None = None) -> None:
        """Report progress: the phase, and the bytes done and in total (None: unknown)."""
        step = ProvisioningStep(
            role=self.role, name=self.spec.name, phase=phase, done=done, total=total
        )
        self.progress(step)

    def reporter(self, phase: Phase, total: int | None) -> ReportBytes:
        """A function that is called with the number of bytes done and reports it as progress of `phase`.

        `total` is the number of bytes of the whole phase; None: unknown.
        """

        def report(done: int) -> None:
            self.step(phase, done=done, total=total)

        return report

    def keep(self, blob: Blob) -> ModelFile:
        """Record the cached file `blob` as the model of this role and return its description."""
        model = ModelFile(
            role=self.role,
            name=self.spec.name,
            path=blob.path,
            digest=blob.digest,
            size=blob.size,
            source=source_of(self.spec),
        )
        self.cache.record(model)
        return model
