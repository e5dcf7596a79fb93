"""The configuration of the llama.cpp child process, sent to it as one line on its standard input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

READY_LINE = b"ready\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOrder:
    """The configuration of a llama.cpp child process, written as one line of JSON to its standard input.

    It is sent over a pipe, so that the API key is in no command line or environment. Requests to the child go to the
    UNIX socket at `socket_path` with `api_key` as bearer token. `threads` and `prompt_threads`: how many threads
    generate tokens, and process prompts. `context_tokens`: the context window of each of the `slots`, the requests
    processed at a time. `prompt_batch_tokens`: the most prompt tokens processed in one step. `prompt_cache_mib`: host
    memory in MiB for prompts of finished requests. `embedding`: whether it embeds texts instead of generating answers.
    """

    model_path: str
    model_name: str
    socket_path: str
    api_key: str
    slots: int
    context_tokens: int
    threads: int
    prompt_threads: int
    prompt_batch_tokens: int
    prompt_cache_mib: int
    embedding: bool

    def to_line(self) -> bytes:
        """This configuration as one line of JSON, with a newline at its end."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> ChildOrder:
        """Parse a line that `to_line` wrote; the inverse function."""
        return cls(**json.loads(line))
