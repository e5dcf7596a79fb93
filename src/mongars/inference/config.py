"""What the operator decides about answering: endpoints, timers, retries."""

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
"""A cautious guess for English and code; it only scales a timer, it is never reported."""

RESERVE_SHARE = 1 / 3
"""Of a deadline too short for the whole local reserve, the local tier keeps this much."""


@functools.lru_cache(maxsize=1024)
def _salt(key: bytes, scope: str) -> str:
    return hmac.digest(key, scope.encode(), "sha256").hex()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Certificates for `https://` Ray endpoints, as PEM files; other servers get the system's trust store.

    `cert_file` and `key_file` go together. None: the system's CAs, no certificate of ours.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def given(self) -> bool:
        """Whether there is anything to read."""
        return self.ca_file is not None or self.cert_file is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """Settings of `LLMIntegration`; all times are in seconds.

    `timeout` (`RAY_CLIENT_TIMEOUT`) bounds the wait for the first content token on Ray, not the
    whole answer: a long healthy stream ends by `idle_timeout` and `total_timeout` only. It grows
    by `seconds_per_1k_prompt_tokens`. All Ray attempts of a request share it, so that the local
    tier still has `local_reserve` to answer.
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
    """No `Retry-After` of a peer is obeyed for longer; then one request tests it."""
    idle_timeout: float = 30.0
    total_timeout: float = 600.0
    local_reserve: float = 5.0
    seconds_per_1k_prompt_tokens: float = 10.0
    session_affinity: bool = True
    """Conversations go to the endpoint that knows their prompt, as far as its load allows."""
    hedge: bool = False
    """A request whose first token is late is asked of a second endpoint as well."""
    answer_cache_bytes: int = 0
    """Memory for answers to questions that may be asked again; 0 keeps none and shares none."""
    answer_cache_seconds: float = 300.0
    cache_salt_key: bytes = field(
        default_factory=lambda: secrets.token_bytes(32), repr=False, compare=False
    )
    """Turns an account's name into a `cache_salt`; the same in all API processes of a deployment."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """How much accounts get where slots are short; 1 where nothing is said."""
    token: str | None = field(default=None, repr=False)
    """Bearer token the Ray endpoints ask for."""
    tls: TlsConfig = TlsConfig()
    no_fallback: str = ""
    """Why nothing answers when Ray cannot, and what to do; empty where a local provider is there."""
    ollama_host: str | None = None
    ollama_model: str | None = None
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def ray_active(self) -> bool:
        """Whether Ray takes part at all."""
        return self.use_ray and bool(self.endpoints)

    def cache_salt(self, scope: str | None) -> str | None:
        """What replicas know an account by: it does not hold the name, and no other account can make it."""
        return None if scope is None else _salt(self.cache_salt_key, scope)

    def share(self, scope: str | None) -> Share:
        """What a request of that account counts as where requests wait for slots."""
        return Share(scope=scope, weight=self.weights.get(scope or "", 1.0))

    def first_token_cap(self, request: GenerationRequest) -> float:
        """How long the first content token of this request may take on Ray."""
        return self.timeout + self._reading_time(request)

    def commit_by(self, request: GenerationRequest, deadline: Deadline) -> Deadline:
        """When Ray must have begun to answer, so that the local tier can still finish."""
        remaining = deadline.remaining()
        reserve = min(self.local_reserve, remaining * RESERVE_SHARE)
        window = min(self.first_token_cap(request), remaining - reserve)
        return Deadline.after(deadline.clock, window)

    def local_commit_by(self, request: GenerationRequest, deadline: Deadline) -> Deadline:
        """The same for a local server, which may have to load its model first."""
        patience = max(self.timeout, self.idle_timeout) + self._reading_time(request)
        return Deadline.after(deadline.clock, min(patience, deadline.remaining()))

    def _reading_time(self, request: GenerationRequest) -> float:
        return self.seconds_per_1k_prompt_tokens * request.prompt_bytes / BYTES_PER_TOKEN / 1000
