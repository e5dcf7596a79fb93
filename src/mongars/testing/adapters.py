"""LoRA adapters of the fake engine, for tests of preparing, swapping and pinning adapters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from mongars.core.clock import Clock, SystemClock
from mongars.core.generation import BASE_ADAPTER
from mongars.engines.fake import FakeEngine, FakePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeAdapter:
    """One version of a LoRA adapter for `FakeEngine`; its digest is computed from `version` and `content`."""

    version: str
    content: str = ""

    @property
    def digest(self) -> str:
        """The SHA-256 of the adapter's version and content: 64 hexadecimal digits."""
        return hashlib.sha256(f"{self.version}:{self.content}".encode()).hexdigest()

    @property
    def name(self) -> str:
        """`version@digest`, with 12 digits of the digest: the name by which a request can demand this adapter.

        The answers of `engine` begin with it.
        """
        return f"{self.version}@{self.digest[:12]}"

    def engine(self, plan: FakePlan | None = None, *, clock: Clock | None = None) -> FakeEngine:
        """A `FakeEngine` with this adapter loaded, not started.

        `plan` is its behaviour, such as delays and faults, with the adapter in it replaced by this one; None: answers
        without faults. `clock` None: the system's clock.
        """
        planned = replace(
            plan or FakePlan(), adapter_version=self.version, adapter_digest=self.digest
        )
        return FakeEngine(planned, clock=clock or SystemClock())


def adapter_in(text: str) -> str:
    """The name of the adapter that made `text`, an answer of `FakeEngine`; `baseline` if there was none."""
    first = text.split(" ", 1)[0]
    return first if "@" in first else BASE_ADAPTER
