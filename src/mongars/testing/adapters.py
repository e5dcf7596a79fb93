"""LoRA adapters of the deterministic engine, for tests of what is prepared, swapped and pinned."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from mongars.core.clock import Clock, SystemClock
from mongars.core.generation import BASE_ADAPTER
from mongars.engines.fake import FakeEngine, FakePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeAdapter:
    """A version of an adapter; its digest is computed from its content."""

    version: str
    content: str = ""

    @property
    def digest(self) -> str:
        """sha256, 64 hexadecimal digits."""
        return hashlib.sha256(f"{self.version}:{self.content}".encode()).hexdigest()

    @property
    def name(self) -> str:
        """As requests pin it, and as answers of its engine begin."""
        return f"{self.version}@{self.digest[:12]}"

    def engine(self, plan: FakePlan | None = None, *, clock: Clock | None = None) -> FakeEngine:
        """An engine that has it loaded, and else behaves as planned."""
        planned = replace(
            plan or FakePlan(), adapter_version=self.version, adapter_digest=self.digest
        )
        return FakeEngine(planned, clock=clock or SystemClock())


def adapter_in(text: str) -> str:
    """The adapter that wrote an answer, by its text; `baseline` for none."""
    first = text.split(" ", 1)[0]
    return first if "@" in first else BASE_ADAPTER
