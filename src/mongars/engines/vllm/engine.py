"""The vLLM engine: vLLM's API in this process, its engine core and workers in child processes."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mongars.core.background import Background
from mongars.core.errors import InferenceFailed, NotReady
from mongars.core.generation import Origin
from mongars.core.observe import Note, Observer, Silent
from mongars.core.optional import require
from mongars.engines import log_events
from mongars.engines.adapter_folder import check_adapter
from mongars.engines.engine import EngineStatus
from mongars.engines.vllm import runtime_config
from mongars.engines.vllm.adapter_fit import check_fit
from mongars.engines.vllm.events import VllmEventWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mongars.core.clock import Clock
    from mongars.core.generation import GenerationRequest
    from mongars.core.observe import LogEvent
    from mongars.engines.adapter_folder import AdapterFolder
    from mongars.engines.vllm.config import VllmConfig
    from mongars.engines.vllm.llm import Llm, Loading

T = TypeVar("T")

RETRY_AFTER = 1.0
LOOK_EVERY = 0.5
"""Seconds between two checks that vLLM's engine process runs."""
ABORT_EVERY = 0.1
"""Seconds between two attempts to abort the loading of a model."""
DIED = "vLLM's engine process died."


class VllmEngine:
    """One model, and at most one adapter, served by vLLM; implements `engines.engine.Engine`.

    An engine whose process has ended is not restarted here, since a start takes half a minute and more: its state is
    `failed`, and Ray replaces the replica. `observer` receives the log events; None: they are discarded.

    The constructor raises `ConfigurationError` if vLLM is not installed.
    """

    def __init__(
        self, config: VllmConfig, *, clock: Clock, observer: Observer | None = None
    ) -> None:
        require("vllm", extra="vllm")
        self._config = config
        self._clock = clock
        self._observer = observer or Silent()
        self._watch = Background(self._watch_llm, name="vllm-watch")
        self._status = EngineStatus(state="stopped")
        self._llm: Llm | None = None
        self._adapter: AdapterFolder | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._folder: Path | None = None
        self._loading: tuple[Loading, asyncio.Future[Llm]] | None = None

    @property
    def origin(self) -> Origin:
        """The `Origin` of the answers: the configured model's name, the engine `vllm`, and the loaded adapter.

        Without an adapter before `start` has loaded it.
        """
        if self._adapter is None:
            return Origin(model=self._config.model_name, engine="vllm")
        return Origin(
            model=self._config.model_name,
            engine="vllm",
            adapter_version=self._adapter.version,
            adapter_digest=self._adapter.digest,
        )

    @property
    def continues(self) -> bool:
        """Always False: this engine cannot continue a text."""
        return False

    @property
    def slots(self) -> int:
        """How many requests vLLM processes at the same time, as configured."""
        return self._config.slots

    @property
    def unfinished(self) -> int:
        """The number of requests that vLLM processes or has queued; 0 while no model is loaded."""
        return 0 if self._llm is None else self._llm.unfinished

    @property
    def status(self) -> EngineStatus:
        """The engine's state, and the process id of vLLM's engine core; `failed` once that process has ended."""
        if self._status.state == "ready" and self._llm is not None and self._llm.dead:
            return EngineStatus(state="failed", detail=DIED)
        return self._status

    async def start(self) -> None:
        """Load the model, then the adapter if one is configured; returns when requests can be answered.

        Raises `InferenceFailed` with the reason if either cannot be loaded, or if it takes longer than the configured
        `start_timeout` seconds.
        """
        self._status = EngineStatus(state="starting")
        try:
            async with asyncio.timeout(self._config.start_timeout):
                await self._load()
        except TimeoutError as exc:
            seconds = self._config.start_timeout
            detail = f"vLLM did not load {self._config.model_path} in {seconds:g} s."
            await self._give_up(detail)
            raise InferenceFailed(detail) from exc
        except InferenceFailed as error:
            await self._give_up(str(error))
            raise
        except BaseException:
            await self._drop()
            self._status = EngineStatus(state="stopped")
            raise
        self._watch.start()

    async def aclose(self) -> None:
        """End all of vLLM's processes and remove temporary files. Safe to call twice.

        Answers that are being generated are cut: their streams end with `GenerationInterrupted`.
        """
        self._status = EngineStatus(state="stopped")
        try:
            await self._watch.aclose()
        finally:
            await self._drop()

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Generate the answer to one request; a context whose value yields it as server-sent events, in bytes.

        The events are OpenAI `chat.completion.chunk` objects, then one with the token counts, then `[DONE]`; a block
        of bytes may begin or end inside an event. Leaving the context aborts the request in vLLM.

        Entering raises `NotReady` unless the engine is ready, `ContextLengthExceeded` for a prompt that leaves no room
        for an answer, `ParameterUnsupported` for a parameter or JSON schema that vLLM does not support,
        `InvalidRequest` for messages that the chat template refuses or values that vLLM refuses, and `InferenceFailed`
        if vLLM fails before the first token. Iterating raises `GenerationInterrupted` if the answer is cut.
        """
        llm = self._llm
        if llm is None or self.status.state != "ready":
            detail = f"The engine is {self.status.state}."
            raise NotReady(detail, retry_after=RETRY_AFTER)
        tokens = await self._in_thread(lambda: llm.prompt_tokens(request))
        writer = VllmEventWriter(
            answer_id=request.request_id,
            model=self._config.model_name,
            created=int(self._clock.now().timestamp()),
            top_logprobs=request.sampling.top_logprobs or 0,
        )
        async with (
            llm.answer(request, tokens) as outputs,
            aclosing(writer.write(outputs)) as events,
        ):
            yield events

    async def _load(self) -> None:
        adapter = self._config.adapter
        # One thread, since tokenizers are not thread-safe; nothing else here blocks for long.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="mongars-vllm")
        self._folder = Path(await self._in_thread(lambda: tempfile.mkdtemp(prefix="mongars-vllm-")))
        if adapter is not None:
            await self._in_thread(lambda: _check(adapter, self._config))
        self._llm = await self._load_model(self._folder)
        if adapter is not None:
            await self._llm.load_adapter(adapter)
            self._adapter = adapter
        await self._llm.warm_up()
        self._status = EngineStatus(state="ready", pid=self._llm.pid)

    async def _load_model(self, folder: Path) -> Llm:
        try:
            loading = await self._in_thread(lambda: _new_loading(self._config, folder))
            future = asyncio.get_running_loop().run_in_executor(self._threads, loading.run)
            self._loading = loading, future
            # Shielded: a thread cannot be cancelled, and the processes it starts must be found and ended.
            llm = await asyncio.shield(future)
        except (
            Exception
        ) as exc:  # vLLM and its libraries raise exceptions of any class; all mean a failed load
            reason = runtime_config.logged_reason(folder) or f"{type(exc).__name__}: {exc}"
            detail = f"vLLM could not load {self._config.model_path}: {reason}"
            raise InferenceFailed(detail) from exc
        self._loading = None
        return llm

    async def _give_up(self, reason: str) -> None:
        await self._drop()
        self._status = EngineStatus(state="failed", detail=reason)

    async def _drop(self) -> None:
        # The reference is dropped last: if this is cancelled, the next call finishes the shutdown.
        self._llm = llm = self._llm or await self._broken_off()
        if llm is not None:
            await self._in_thread(llm.shutdown)
            await llm.wait_closed()
        self._llm = self._adapter = None
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    async def _broken_off(self) -> Llm | None:
        """Abort a model that is being loaded, and wait until the loading has ended.

        Returns the model if it was loaded nevertheless, so that it can be shut down; None if not, or if none was being
        loaded.
        """
        if self._loading is None:
            return None
        loading, future = self._loading
        while not future.done():
            loading.abort()
            await asyncio.wait({future}, timeout=ABORT_EVERY)
        self._loading = None
        return future.result() if future.exception() is None else None

    async def _watch_llm(self) -> None:
        while self._llm is not None and not self._llm.dead:
            await self._clock.sleep(LOOK_EVERY)
        reason = DIED
        if self._folder is not None:
            reason = runtime_config.logged_reason(self._folder) or DIED
        self._status = EngineStatus(state="failed", detail=reason)
        self._emit(log_events.ENGINE_FAILED, detail=reason)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _emit(self, log: LogEvent, **values: str | int) -> None:
        self._observer.observe(Note(log=log, values=values))


def _check(adapter: AdapterFolder, config: VllmConfig) -> None:
    check_adapter(adapter, max_rank=config.max_lora_rank)
    check_fit(adapter, config.model_path)


def _new_loading(config: VllmConfig, folder: Path) -> Loading:
    runtime_config.prepare(folder, compiling=not config.enforce_eager)
    from mongars.engines.vllm.llm import Loading  # noqa: PLC0415 - takes seconds; see there

    return Loading(config, log_config=runtime_config.write_log_config(folder))
