"""Load a model with vLLM, and end vLLM's processes. The only module that imports vLLM.

Importing this module takes seconds and memory, and vLLM reads part of its configuration from the environment
meanwhile: `engine.py` imports it in a thread, after `runtime_config.prepare`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import psutil
from jinja2 import TemplateError
from vllm.config import StructuredOutputsConfig
from vllm.config.logging import LoggingConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from mongars.core.errors import (
    CallerError,
    ContextLengthExceeded,
    GenerationInterrupted,
    InferenceFailed,
    InvalidRequest,
)
from mongars.core.generation import GenerationRequest, Message, Sampling
from mongars.engines.vllm import runtime_config
from mongars.engines.vllm.adapter_ids import ADAPTER_IDS
from mongars.engines.vllm.chat_prompts import ChatPrompts, token_prompt
from mongars.engines.vllm.sampling import sampling_arguments, structure_arguments

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from vllm.outputs import RequestOutput

    from mongars.engines.adapter_folder import AdapterFolder
    from mongars.engines.vllm.config import VllmConfig

ENGINE_PROCESS = "EngineCore"
GOODBYE_TIMEOUT = 10.0
"""Seconds that vLLM's processes have to end by themselves before they are killed."""
_ONE_AT_A_TIME = threading.Lock()
"""Held while a model is loaded: with two at the same time, their processes could not be distinguished."""


class Loading:
    """One attempt to load a model with vLLM; `run` blocks the calling thread, `abort` can be called from another.

    `config`: the model and how to run it. `log_config`: path of the logging configuration for vLLM's processes, as
    `write_log_config` returns it.
    """

    def __init__(self, config: VllmConfig, *, log_config: Path) -> None:
        self._config = config
        self._log_config = log_config
        self._others: set[int | None] | None = None
        self._aborted = False

    def run(self) -> Llm:
        """Load the model; blocks until it is loaded, and while another model is being loaded in this process.

        Raises any exception of vLLM if loading fails, `InferenceFailed` if it was aborted before it began.
        """
        with _ONE_AT_A_TIME:
            self._others = {process.pid for process in _engine_processes()}
            if self._aborted:
                detail = "Loading was broken off."
                raise InferenceFailed(detail)
            runtime_config.prepare(
                self._log_config.parent, compiling=not self._config.enforce_eager
            )
            return Llm(AsyncLLM.from_engine_args(self._arguments()), self._config)

    def abort(self) -> None:
        """Kill the processes that `run` has started so far, so that it raises.

        Repeat the call until `run` has ended, since it may start further ones.
        """
        self._aborted = True
        if self._others is not None:
            started = [each for each in _engine_processes() if each.pid not in self._others]
            _kill(_family([each.pid for each in started if each.pid is not None]))

    def _arguments(self) -> AsyncEngineArgs:
        config = self._config
        lora = {}
        if config.adapter is not None:
            lora = {"max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": config.max_lora_rank}
        optional = {
            "kv_cache_memory_bytes": None
            if config.kv_cache_mib is None
            else config.kv_cache_mib << 20,
            "max_num_batched_tokens": config.batch_tokens,
        }
        return AsyncEngineArgs(
            model=str(config.model_path),
            served_model_name=config.model_name,
            dtype=config.dtype,
            max_model_len=config.context_tokens,
            max_num_seqs=config.slots,
            gpu_memory_utilization=config.gpu_memory_utilization,
            enforce_eager=config.enforce_eager,
            enable_lora=config.adapter is not None,
            trust_remote_code=False,
            enable_log_requests=False,
            disable_log_stats=True,
            # Small models may generate white space between JSON tokens without end.
            structured_outputs_config=StructuredOutputsConfig(
                backend="guidance", disable_any_whitespace=True
            ),
            logging_config=LoggingConfig(
                log_level="WARNING", pylogging_config_file=str(self._log_config)
            ),
            **lora,
            **{name: value for name, value in optional.items() if value is not None},
        )


class Llm:
    """A model loaded with vLLM: vLLM's API in this process, its engine core and workers in child processes.

    Made by `Loading.run`; end it with `shutdown`, then `wait_closed`. `pid`: process id of the engine core.
    """

    def __init__(self, llm: AsyncLLM, config: VllmConfig) -> None:
        self._llm = llm
        self._config = config
        self._prompts = ChatPrompts.of(llm.get_tokenizer())
        self._lora: LoRARequest | None = None
        self._defaults = llm.model_config.get_diff_sampling_param()
        cores = llm.engine_core.resources.engine_manager.processes
        self.pid: int | None = cores[0].pid
        self._processes = _family([core.pid for core in cores])

    @property
    def dead(self) -> bool:
        """Whether vLLM's engine process has ended."""
        return bool(self._llm.errored)

    @property
    def unfinished(self) -> int:
        """The number of requests that vLLM processes or has queued."""
        return int(self._llm.get_num_unfinished_requests())

    async def load_adapter(self, adapter: AdapterFolder) -> None:
        """Load the adapter that every following request uses, in addition to the base model.

        Its files are not checked against its digest here. Raises `InferenceFailed` with the reason on failure.
        """
        lora = LoRARequest(
            lora_name=adapter.name,
            lora_int_id=ADAPTER_IDS.id_of(adapter.digest),
            lora_path=str(adapter.path),
        )
        try:
            await self._llm.add_lora(lora)
            loaded = lora.lora_int_id in await self._llm.list_loras()
        except Exception as exc:  # vLLM raises a bare Exception for what failed in its process
            detail = f"Adapter {adapter.name!r} could not be loaded: {exc}"
            raise InferenceFailed(detail) from exc
        if not loaded:
            detail = f"vLLM did not keep adapter {adapter.name!r}."
            raise InferenceFailed(detail)
        self._lora = lora

    async def warm_up(self) -> None:
        """Generate one short answer with log-probabilities, since the first use of them compiles code for seconds.

        Raises `InferenceFailed` if no answer can be generated.
        """
        sampling = Sampling(max_tokens=2, temperature=0.0, logprobs=True, top_logprobs=1)
        hello = Message(role="user", content="Hello")
        request = GenerationRequest(messages=(hello,), request_id="warm-up", sampling=sampling)
        try:
            async with self.answer(request, self.prompt_tokens(request)) as outputs:
                async for _ in outputs:
                    pass
        except CallerError as exc:
            detail = f"The model does not answer: {exc}"
            raise InferenceFailed(detail) from exc

    def prompt_tokens(self, request: GenerationRequest) -> list[int]:
        """The token ids of the prompt for a request's messages. Blocks the calling thread; not thread-safe.

        Raises:
            InvalidRequest: the model's chat template rejects the messages.
            ContextLengthExceeded: the prompt leaves no room for an answer in the context window.
        """
        try:
            tokens = self._prompts.tokens(request.messages)
        except (TemplateError, ValueError) as exc:
            detail = f"The model's chat template refuses this conversation: {exc}"
            raise InvalidRequest(detail) from exc
        limit = self._llm.model_config.max_model_len
        if len(tokens) >= limit:
            raise ContextLengthExceeded(prompt_tokens=len(tokens), context_tokens=limit)
        return tokens

    @asynccontextmanager
    async def answer(
        self, request: GenerationRequest, tokens: list[int]
    ) -> AsyncIterator[AsyncIterator[RequestOutput]]:
        """Generate the answer to a request; a context that yields vLLM's outputs, each with its new tokens only.

        `tokens` are the token ids of the prompt. Entering waits for the first output; leaving aborts the request.
        Entering raises `ParameterUnsupported` for a parameter or JSON schema that vLLM does not support,
        `InvalidRequest` for values that vLLM refuses, `InferenceFailed` if it fails before the first token; iterating
        raises `GenerationInterrupted` if it fails later.
        """
        outputs = self._llm.generate(
            token_prompt(tokens, request, cache_scope=self._config.prompt_cache_scope),
            self._parameters(request),
            request.request_id,
            lora_request=self._lora,
        )
        async with aclosing(outputs):
            try:
                first = await anext(outputs)
            except (VLLMClientError, ValueError) as exc:
                raise InvalidRequest(str(exc)) from exc
            except (EngineDeadError, EngineGenerateError) as exc:
                detail = "The engine failed before the first token."
                raise InferenceFailed(detail) from exc
            async with aclosing(_translated(first, outputs)) as translated:
                yield translated

    def _parameters(self, request: GenerationRequest) -> SamplingParams:
        structure = structure_arguments(request.sampling.response_format)
        try:
            return SamplingParams(
                **sampling_arguments(request.sampling, self._defaults),
                structured_outputs=structure and StructuredOutputsParams(**structure),
                output_kind=RequestOutputKind.DELTA,
            )
        except (VLLMClientError, ValueError) as exc:
            raise InvalidRequest(str(exc)) from exc

    def shutdown(self) -> None:
        """End vLLM's processes; kills those that still run after 10 seconds.

        Blocks the calling thread. Safe to call twice, and after a crash.
        """
        self._llm.shutdown(timeout=GOODBYE_TIMEOUT)
        _kill(self._processes)
        psutil.wait_procs(self._processes, timeout=GOODBYE_TIMEOUT)

    async def wait_closed(self) -> None:
        """Wait until vLLM's tasks in this event loop have ended, and close the sockets that it leaves open.

        Call it after `shutdown`.
        """
        resources = self._llm.engine_core.resources
        if pending := {self._llm.output_handler, resources.output_queue_task} - {None}:
            await asyncio.wait(pending)
        resources.ctx.term()  # their sockets are closed by now


async def _translated(
    first: RequestOutput, rest: AsyncIterator[RequestOutput]
) -> AsyncGenerator[RequestOutput, None]:
    yield first
    try:
        async for output in rest:
            yield output
    except (EngineDeadError, EngineGenerateError) as exc:
        detail = "The engine died while it was answering."
        raise GenerationInterrupted(detail) from exc


def _engine_processes() -> list[BaseProcess]:
    return [each for each in multiprocessing.active_children() if each.name == ENGINE_PROCESS]


def _family(pids: list[int]) -> list[psutil.Process]:
    """The processes with the ids `pids` that still run, and all their descendants."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()  # psutil checks that the process id has not been reused
