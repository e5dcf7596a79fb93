"""Settings of inference that an operator can change: endpoints, timeouts, retries, answer cache."""

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
"""A low estimate for English text and code, used only to extend the first-token timeout for long prompts."""

RESERVE_SHARE = 1 / 3
"""Share of the remaining time kept for local providers if it is less than `local_reserve` seconds."""


@functools.lru_cache(maxsize=1024)
def _salt(key: bytes, scope: str) -> str:
    return hmac.digest(key, scope.encode(), "sha256").hex()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """PEM files for connections to `https://` Ray endpoints; other servers are verified with the system's trust store.

    `ca_file`: certificates of the CAs that may sign an endpoint's certificate; None: those of the system. `cert_file`
    and `key_file`: client certificate and its key, set together; None: no client certificate is sent.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def given(self) -> bool:
        """Whether a CA file or a client certificate is configured."""
        return self.ca_file is not None or self.cert_file is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """Settings of `LLMIntegration`, the client of the Ray endpoints with its fallbacks; all times are in seconds.

    `timeout` (`RAY_CLIENT_TIMEOUT`) bounds the wait for the first content token from Ray; it is extended in proportion
    to the prompt, by `seconds_per_1k_prompt_tokens` per 1000 tokens (estimated). All Ray attempts of a request share
    this time; `local_reserve`, or a third of the request's time if that is less, is left for the local providers
    (Ollama, embedded engine). Once the first content token has arrived, only `idle_timeout` (from one chunk to the
    next) and `total_timeout` (for the whole request) apply. The other fields are described one by one; most have a
    default.
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
    """Longer `Retry-After` values are reduced to this; after it, one trial request is sent."""
    idle_timeout: float = 30.0
    total_timeout: float = 600.0
    local_reserve: float = 5.0
    seconds_per_1k_prompt_tokens: float = 10.0
    session_affinity: bool = True
    """Whether requests of one session prefer the endpoint whose prompt cache holds their prompt, load permitting."""
    hedge: bool = False
    """Whether a request without a first token after the usual time is also sent to a second endpoint."""
    answer_cache_bytes: int = 0
    """Bytes of memory for the answer cache; 0 disables storing answers and sharing generations."""
    answer_cache_seconds: float = 300.0
    cache_salt_key: bytes = field(
        default_factory=lambda: secrets.token_bytes(32), repr=False, compare=False
    )
    """Secret key from which `cache_salt` is computed; must be equal in all API processes of a deployment."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Share of the places in queues per account, relative to others, when they are short; 1 for accounts not listed."""
    token: str | None = field(default=None, repr=False)
    """Bearer token sent to the Ray endpoints; None: no `Authorization` header."""
    tls: TlsConfig = TlsConfig()
    no_fallback: str = ""
    """Why no local provider is configured and how to add one, for error messages; empty if there is one."""
    ollama_host: str | None = None
    ollama_model: str | None = None
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def ray_active(self) -> bool:
        """Whether requests are sent to Ray: enabled, and at least one endpoint configured."""
        return self.use_ray and bool(self.endpoints)

    def cache_salt(self, scope: str | None) -> str | None:
        """The `cache_salt` that is sent to replicas with requests of the account `scope`; None if `scope` is None.

        Replicas reuse cached prompt prefixes only among requests with the same salt. It is a keyed hash (32 hexadecimal
        digits), so that replicas do not learn the account's name.
        """
        return None if scope is None else _salt(self.cache_salt_key, scope)

    def share(self, scope: str | None) -> Share:
        """The account `scope` with its configured weight (1 by default), by which fair queues order requests.

        `scope` None: a request without an account.
        """
        return Share(scope=scope, weight=self.weights.get(scope or "", 1.0))

    def first_token_seconds(self, request: GenerationRequest) -> float:
        """Time limit in seconds for the first content token from Ray: `timeout`, extended for a long prompt.

        It grows in proportion to the prompt: by `seconds_per_1k_prompt_tokens` per 3000 bytes (about 1000 tokens).
        """
        return self.first_result_seconds(request.prompt_bytes)

    def first_result_seconds(self, size: int) -> float:
        """Time limit in seconds for Ray to send the first content token of an answer, or all vectors of texts to embed.

        `timeout`, extended in proportion to `size`, that of the prompt or texts in bytes: by
        `seconds_per_1k_prompt_tokens` per 3000 bytes (about 1000 tokens).
        """
        return self.timeout + self._reading_time(size)

    def start_by(self, seconds: float, deadline: Deadline) -> Deadline:
        """The deadline for Ray to send the first content of an answer, or all vectors: `seconds` from now, or earlier.

        At least `local_reserve` seconds before the request's own `deadline` are left for the local providers (Ollama,
        embedded engine), or a third of the time until then if that is less.
        """
        remaining = deadline.remaining()
        reserve = min(self.local_reserve, remaining * RESERVE_SHARE)
        window = min(seconds, remaining - reserve)
        return Deadline.after(deadline.clock, window)

    def local_start_by(self, request: GenerationRequest, deadline: Deadline) -> Deadline:
        """The deadline for the first token from Ollama, model loading included; never later than `deadline`.

        The larger of `timeout` and `idle_timeout` from now, plus `seconds_per_1k_prompt_tokens` per 3000 bytes of the
        prompt (about 1000 tokens), in proportion.
        """
        seconds = max(self.timeout, self.idle_timeout) + self._reading_time(request.prompt_bytes)
        return Deadline.after(deadline.clock, min(seconds, deadline.remaining()))

    def _reading_time(self, size: int) -> float:
        return self.seconds_per_1k_prompt_tokens * size / BYTES_PER_TOKEN / 1000
