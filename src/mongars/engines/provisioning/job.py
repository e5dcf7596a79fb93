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
    """The provisioning of the base model of one model role, such as `general`.

    `spec`: where the model comes from. `cache`: where it is stored. `progress`: called with each step of progress; an
    exception that it raises ends the job. `force`: check a model again that is in the cache, instead of trusting its
    size and time.
    """

    role: str
    spec: ModelSpec
    cache: ModelCache
    progress: Progress
    force: bool

    def step(self, phase: Phase, *, done: int = 0, total: int | None = None) -> None:
        """Report a step of this job to `progress`: its phase, and the bytes done and in total (None: unknown)."""
        step = ProvisioningStep(
            role=self.role, name=self.spec.name, phase=phase, done=done, total=total
        )
        self.progress(step)

    def reporter(self, phase: Phase, total: int | None) -> ReportBytes:
        """A function that reports progress of `phase` to this job; call it with the number of bytes done so far.

        `total` is the number of bytes of the whole phase; None: unknown.
        """

        def report(done: int) -> None:
            self.step(phase, done=done, total=total)

        return report

    def keep(self, blob: Blob) -> ModelFile:
        """Record the cached file `blob` as the model of this job's role, and return the model's description."""
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
