"""The operator's settings for inference: endpoints, timeouts, retries, cache."""

from __future__ import annotations

import functools
import hmac
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mongars.core.deadline import Deadline
from mongars.core.fair_queue import Share
from mongars.core.generation import Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mongars.core.generation import GenerationRequest

BYTES_PER_TOKEN = 3
"""A low estimate for English and code; it only scales a timeout and is never reported."""

RESERVE_SHARE = 1 / 3
"""The local providers' part of a deadline that is too short for the whole local reserve."""


@functools.lru_cache(maxsize=1024)
def _salt(key: bytes, scope: str) -> str:
    return hmac.digest(key, scope.encode(), "sha256").hex()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Certificates for `https://` Ray endpoints, as PEM files; other servers get the system's trust store.

    `cert_file` and `key_file` go together. None: the system's CAs, no client certificate.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def given(self) -> bool:
        """Whether any file is configured."""
        return self.ca_file is not None or self.cert_file is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """Settings of `LLMIntegration`; all times are in seconds.

    `timeout` (`RAY_CLIENT_TIMEOUT`) bounds the wait for the first content token on Ray, not the
    whole answer: streams are bounded by `idle_timeout` and `total_timeout` only. It grows
    by `seconds_per_1k_prompt_tokens`. All Ray attempts of a request share it, so that `local_reserve`
    is left for the local providers.
    """

    endpoints: tuple[str, ...]
    use_ray: bool
    timeout: float = 10.0
    connect_timeout: float = 5.0
    max_connections: int = 10
    max_keepalive: int = 5
    scaling_status_codes: frozenset[int] = frozenset({503, 409})
    scaling_backoff: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    max_scale_cycles: int = 2
    retry_after_max: float = 60.0
    """Longer `Retry-After` values are reduced to this; then one trial request is sent."""
    idle_timeout: float = 30.0
    total_timeout: float = 600.0
    local_reserve: float = 5.0
    seconds_per_1k_prompt_tokens: float = 10.0
    session_affinity: bool = True
    """Requests of one session go to the same endpoint, whose cache has their prompt, if its load allows."""
    hedge: bool = False
    """Whether a request whose first token is late is sent to a second endpoint too."""
    answer_cache_bytes: int = 0
    """Memory for the answer cache; 0 switches off storing and sharing answers."""
    answer_cache_seconds: float = 300.0
    cache_salt_key: bytes = field(
        default_factory=lambda: secrets.token_bytes(32), repr=False, compare=False
    )
    """Key that turns an account's name into a `cache_salt`; equal in all API processes of a deployment."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Share of each account when slots are short; 1 for accounts not listed."""
    token: str | None = field(default=None, repr=False)
    """Bearer token for the Ray endpoints."""
    tls: TlsConfig = TlsConfig()
    no_fallback: str = ""
    """Why there is no local provider, and what to do; empty if there is one."""
    ollama_host: str | None = None
    ollama_model: str | None = None
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def ray_active(self) -> bool:
        """Whether requests are sent to Ray."""
        return self.use_ray and bool(self.endpoints)

    def cache_salt(self, scope: str | None) -> str | None:
        """The salt of an account for prefix caches on replicas; it does not reveal the account's name."""
        return None if scope is None else _salt(self.cache_salt_key, scope)

    def share(self, scope: str | None) -> Share:
        """The account and weight of a request in the fair queues."""
        return Share(scope=scope, weight=self.weights.get(scope or "", 1.0))

    def first_token_seconds(self, request: GenerationRequest) -> float:
        """Seconds that the first content token of this request may take on Ray."""
        return self.first_result_seconds(request.prompt_bytes)

    def first_result_seconds(self, size: int) -> float:
        """The same for a request with so many bytes of text."""
        return self.timeout + self._reading_time(size)

    def start_by(self, seconds: float, deadline: Deadline) -> Deadline:
        """When a result from Ray must have started, at most `seconds` from now.

        It leaves `local_reserve` before `deadline` for the local providers, or a third of a short one.
        """
        remaining = deadline.remaining()
        reserve = min(self.local_reserve, remaining * RESERVE_SHARE)
        window = min(seconds, remaining - reserve)
        return Deadline.after(deadline.clock, window)

    def local_start_by(self, request: GenerationRequest, deadline: Deadline) -> Deadline:
        """The deadline for the first token from a local server, which may have to load its model first."""
        seconds = max(self.timeout, self.idle_timeout) + self._reading_time(request.prompt_bytes)
        return Deadline.after(deadline.clock, min(seconds, deadline.remaining()))

    def _reading_time(self, size: int) -> float:
        return self.seconds_per_1k_prompt_tokens * size / BYTES_PER_TOKEN / 1000
