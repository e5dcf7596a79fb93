"""One llama.cpp child process: spawn it, wait until it is ready, end it and remove its files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from mongars.core.background import Background
from mongars.core.errors import InferenceFailed
from mongars.engines.child_environment import engine_environment
from mongars.engines.llama_cpp.order import READY_LINE, ChildOrder

if TYPE_CHECKING:
    from mongars.engines.llama_cpp.config import LlamaCppConfig

STDERR_LINES = 20
LONGEST_TMPDIR = 70  # 107, less what is appended: /mongars-engine-<8>/engine.sock
STDERR_WIDTH = 500
STDERR_BLOCK = 8192


class LlamaCppProcess:
    """A running llama.cpp child process that serves one model on a UNIX socket; made by `spawn`, ended by `aclose`.

    HTTP requests go to the socket at `socket_path` with `api_key` as bearer token.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, *, socket_path: Path, api_key: str
    ) -> None:
        self._process = process
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._reader = Background(self._read_stderr, name="llama-cpp-stderr")
        self._reader.start()
        self.socket_path = socket_path
        self.api_key = api_key

    @classmethod
    async def spawn(cls, config: LlamaCppConfig) -> LlamaCppProcess:
        """Start a llama.cpp child process and return when the model is loaded and its socket accepts requests.

        Raises:
            InferenceFailed: the child could not be started, ended, or took longer than `config.start_timeout` seconds;
                if it ended, the message contains the end of its standard error.
        """
        folder: Path | None = None
        try:
            folder = _socket_folder()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "mongars.engines.llama_cpp.child",
                env=engine_environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in a terminal is handled by the parent
            )
        except BaseException as exc:  # a cancellation must remove the folder, too
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(exc, OSError):
                raise
            detail = f"The engine process could not be started: {exc}"
            raise InferenceFailed(detail) from exc
        key = secrets.token_urlsafe(32)
        child = cls(process, socket_path=folder / "engine.sock", api_key=key)
        try:
            async with asyncio.timeout(config.start_timeout):
                await child._order(config)
        except TimeoutError as exc:
            await child.aclose()
            detail = f"The engine did not load {config.model_path} in {config.start_timeout:g} s."
            raise InferenceFailed(detail) from exc
        except BaseException:
            await child.aclose()
            raise
        return child

    async def _order(self, config: LlamaCppConfig) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:  # `spawn` sets both
            detail = "The engine process has no pipes."
            raise InferenceFailed(detail)
        order = ChildOrder(
            model_path=str(config.model_path),
            model_name=config.model_name,
            socket_path=str(self.socket_path),
            api_key=self.api_key,
            slots=config.slots,
            context_tokens=config.context_tokens,
            threads=config.threads or max(1, usable_cores() - 1),
            prompt_threads=config.threads or usable_cores(),
            prompt_batch_tokens=config.prompt_batch_tokens,
            # llama.cpp copies prompts between this memory and any slot, whatever their scopes.
            prompt_cache_mib=config.prompt_cache_mib
            if config.prompt_cache_scope == "shared"
            else 0,
            embedding=config.embedding,
        )
        with contextlib.suppress(ConnectionError):  # it ended; the next line reports that
            stdin.write(order.to_line())
            await stdin.drain()
        if await stdout.readline() != READY_LINE:
            await self._process.wait()
            await self._reader.finished()
            detail = f"The engine could not load {config.model_path}: {self.last_error()}"
            raise InferenceFailed(detail)

    @property
    def pid(self) -> int:
        """The process id of the child process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child process still runs, as far as is known: no exit status has been received."""
        return self._process.returncode is None

    def last_error(self) -> str:
        """The last lines (at most 20, each of at most 500 characters) of the child process's standard error.

        They are joined by ` | `. If there are none: `exit status N`, with N `None` while the process runs.
        """
        text = " | ".join(self._stderr)
        return text or f"exit status {self._process.returncode}"

    async def wait(self) -> int:
        """Wait until the child process ends; returns its exit status (negative: the signal that ended it)."""
        return await self._process.wait()

    def kill(self) -> None:
        """Send SIGKILL to the child process if it runs; does not wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                self._process.kill()

    async def aclose(self) -> None:
        """Kill the child process, wait for its end and remove its socket. Safe to call twice."""
        self.kill()
        await self._process.wait()
        await self._reader.aclose()
        shutil.rmtree(self.socket_path.parent, ignore_errors=True)

    async def _read_stderr(self) -> None:
        if self._process.stderr is None:
            return
        # In blocks, not lines: a line may be longer than any buffer.
        while block := await self._process.stderr.read(STDERR_BLOCK):
            lines = block.decode("utf-8", "replace").splitlines()
            self._stderr.extend(line.strip()[:STDERR_WIDTH] for line in lines if line.strip())


def _socket_folder() -> Path:
    """Create a private temporary folder (mode 0700) with a path short enough for a UNIX socket in it.

    The path of a UNIX socket may have at most 107 bytes; if the usual temporary folder (TMPDIR) is too long for that,
    it is created in /tmp.
    """
    usual = tempfile.gettempdir()
    short = usual if len(os.fsencode(usual)) <= LONGEST_TMPDIR else "/tmp"  # noqa: S108 (made private)
    return Path(tempfile.mkdtemp(prefix="mongars-engine-", dir=short))


def usable_cores() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
