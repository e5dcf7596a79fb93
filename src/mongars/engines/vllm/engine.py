"""vLLM as an engine: its API in this process, its engine core and workers in child processes."""

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
from mongars.engines.vllm import environment
from mongars.engines.vllm.adapter_fit import check_fit
from mongars.engines.vllm.events import EventWriter

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
"""Seconds between two checks that the engine process runs."""
ABORT_EVERY = 0.1
"""Seconds between two attempts to abort a load."""
DIED = "vLLM's engine process died."


class VllmEngine:
    """One model, and at most one adapter; implements `engines.engine.Engine`.

    An engine that has died is not restarted here, since a start takes half a minute and more: it is
    `failed`, and Ray replaces the replica.
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
        """The model, and the adapter that has been loaded into it."""
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
        """False: it cannot continue a text."""
        return False

    @property
    def slots(self) -> int:
        """How many requests are processed at the same time."""
        return self._config.slots

    @property
    def unfinished(self) -> int:
        """Requests that vLLM processes or has queued."""
        return 0 if self._llm is None else self._llm.unfinished

    @property
    def status(self) -> EngineStatus:
        """State and the process id of vLLM's engine."""
        if self._status.state == "ready" and self._llm is not None and self._llm.dead:
            return EngineStatus(state="failed", detail=DIED)
        return self._status

    async def start(self) -> None:
        """Load model and adapter. Raises `InferenceFailed` with vLLM's reason if it cannot."""
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
        """End vLLM's processes; none is left afterwards."""
        self._status = EngineStatus(state="stopped")
        await self._watch.aclose()
        await self._drop()

    @asynccontextmanager
    async def stream(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Answer one request; leaving the context aborts it in vLLM."""
        llm = self._llm
        if llm is None or self.status.state != "ready":
            detail = f"The engine is {self.status.state}."
            raise NotReady(detail, retry_after=RETRY_AFTER)
        tokens = await self._in_thread(lambda: llm.prompt_tokens(request))
        writer = EventWriter(
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
        # One thread: tokenizers are not thread-safe, and nothing else blocks for long.
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
        ) as exc:  # vLLM and its libraries raise any exception; the meaning is the same
            reason = environment.logged_reason(folder) or f"{type(exc).__name__}: {exc}"
            detail = f"vLLM could not load {self._config.model_path}: {reason}"
            raise InferenceFailed(detail) from exc
        self._loading = None
        return llm

    async def _give_up(self, reason: str) -> None:
        await self._drop()
        self._status = EngineStatus(state="failed", detail=reason)

    async def _drop(self) -> None:
        # The reference goes last: should this be cancelled, the next call finishes the work.
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
        """Abort a load that is running; returns the model if the load had already finished."""
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
            reason = environment.logged_reason(self._folder) or DIED
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
    environment.prepare(folder, compiling=not config.enforce_eager)
    from mongars.engines.vllm.llm import Loading  # noqa: PLC0415 - takes seconds; see there

    return Loading(config, log_config=environment.write_log_config(folder))
