"""The provisioning of one role, as its source gets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.engines.provisioning.spec import ModelFile, ProvisioningStep, source_of

if TYPE_CHECKING:
    from mongars.engines.provisioning.model_cache import Blob, ModelCache, ReportBytes
    from mongars.engines.provisioning.spec import ModelSpec, Phase, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The task of a source: which model to provide, the cache to store it in, and progress reports."""

    role: str
    spec: ModelSpec
    cache: ModelCache
    progress: Progress
    force: bool

    def step(self, phase: Phase, *, done: int = 0, total: int | None = None) -> None:
        """Report the progress: a phase, and its bytes done and in all."""
        step = ProvisioningStep(
            role=self.role, name=self.spec.name, phase=phase, done=done, total=total
        )
        self.progress(step)

    def reporter(self, phase: Phase, total: int | None) -> ReportBytes:
        """A function that reports how many of `total` bytes are done."""

        def report(done: int) -> None:
            self.step(phase, done=done, total=total)

        return report

    def keep(self, blob: Blob) -> ModelFile:
        """Record the blob as the model of this role."""
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
