"""The llama.cpp embedder: a supervised child process with an embedding model."""

from __future__ import annotations

import asyncio
import math
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from mongars.core.control_tokens import Markers
from mongars.core.errors import ContextLengthExceeded, InferenceFailed, ProvisioningFailed
from mongars.engines.embedder import Embeddings
from mongars.engines.llama_cpp.literal_prompt import text_tokens
from mongars.engines.llama_cpp.refusal import refusal_of
from mongars.engines.llama_cpp.supervisor import LlamaCppSupervisor
from mongars.engines.llama_cpp.vocabulary import Vocabulary
from mongars.engines.llama_cpp.wordpiece import WordPiece
from mongars.engines.provisioning.gguf import gguf_values
from mongars.protocol.body import json_object
from mongars.protocol.embeddings import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mongars.core.clock import Clock
    from mongars.core.errors import MongarsError
    from mongars.core.observe import Observer
    from mongars.engines.engine import EngineStatus
    from mongars.engines.llama_cpp.config import LlamaCppConfig

AT_ONCE = 16
"""Maximum number of texts per request to the child, which finishes them all even if the connection is closed."""
TOKENS_AT_ONCE = 512
"""Maximum number of tokens per request to the child, unless it is a single text."""

Input = str | list[int]

_Vectors = tuple[list[tuple[float, ...]], int]

_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large to process")
"""llama.cpp's message, with status 500, for a text that is longer than its batch."""


class LlamaCppEmbedder:
    """One embedding model in one llama.cpp child process; implements `engines.embedder.Embedder`.

    The process is restarted if it ends, or hangs and is killed; after 8 restarts in a row that failed or did not last
    30 seconds the state is `failed`, and it is not restarted again. `observer` receives the log events; None: they are
    discarded.

    llama.cpp finishes the texts that it has received, whether or not the client is still connected. Therefore a
    request to it is small (16 texts, 512 tokens), there is at most one per slot, and it keeps its slot until its
    response, also if the `embed` that sent it is cancelled. What many cancelled calls leave behind is so at most one
    request per slot.
    """

    def __init__(
        self, config: LlamaCppConfig, *, clock: Clock, observer: Observer | None = None
    ) -> None:
        self._config = config
        self._slots = asyncio.Semaphore(config.slots)
        self._running: set[asyncio.Task[_Vectors]] = set()
        self._child = LlamaCppSupervisor(config, clock=clock, observer=observer)
        self._wordpiece: WordPiece | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._markers = Markers(())

    @property
    def model(self) -> str:
        """The name of the embedding model, as configured."""
        return self._config.model_name

    @property
    def status(self) -> EngineStatus:
        """The embedder's current state, the number of restarts of its child process, and its process id."""
        return self._child.status

    async def start(self) -> None:
        """Start the child process and load the model.

        Raises `InferenceFailed` with the reason if the file is no readable GGUF file, or if the child cannot load it or
        takes longer than the configured `start_timeout`.
        """
        try:
            values = await asyncio.to_thread(gguf_values, self._config.model_path)
        except ProvisioningFailed as exc:
            raise InferenceFailed(str(exc)) from exc
        self._wordpiece = WordPiece.of(values)
        # One thread: the tokenizer holds the interpreter's lock, and many would slow down the event loop.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="mongars-wordpiece")
        self._markers = Vocabulary.of(values).markers
        await self._child.start()

    async def aclose(self) -> None:
        """Kill the child process and remove its socket. Safe to call twice.

        A running `embed` fails with `InferenceFailed` or `NotReady`.
        """
        await self._child.aclose()
        if self._threads is not None:
            self._threads.shutdown(wait=False)  # no text follows the one in it: there is no child
        if self._running:
            await asyncio.wait(self._running)  # their connections are closed

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Convert each text to a vector of Euclidean length 1, in the order of `texts`.

        Raises `ContextLengthExceeded` for a text with more tokens than the context window, `NotReady` while the child
        process does not run, `InferenceFailed` if it fails, and rarely `InvalidRequest` (its response has status 400
        or 422) or `InvalidAnswer` (its response is no JSON object).
        """
        _ = self._child.session  # raises if there is no child
        inputs = await self._inputs(texts)
        vectors: list[tuple[float, ...]] = []
        tokens = 0
        for group in _groups(inputs):
            found, read = await self._in_slot(group)
            vectors += found
            tokens += read
        return Embeddings(vectors=tuple(vectors), prompt_tokens=tokens, model=self.model)

    async def _inputs(self, texts: Sequence[str]) -> Sequence[Input]:
        """Convert texts to inputs of llama.cpp's embeddings endpoint: each as a text, or as a list of token ids.

        Token ids are sent for a WordPiece model, whose texts llama.cpp would split into other tokens than the
        tokenizer with which the model was trained, and for texts that look like control tokens.

        Raises `NotReady` while the child does not run, `ContextLengthExceeded` for the first text of a WordPiece model
        that is too long, and for another model another `MongarsError`, mostly `InferenceFailed`, if the child cannot
        tokenize a text.
        """
        if self._wordpiece is not None:
            return [await self._word_pieces(self._wordpiece, text) for text in texts]
        return [
            await self._plain_tokens(text) if self._markers.may_occur_in(text) else text
            for text in texts
        ]

    async def _word_pieces(self, wordpiece: WordPiece, text: str) -> list[int]:
        """The token ids of one text, computed in the thread for it.

        Texts are passed to the thread one by one, so that calls take turns and a cancelled one leaves at most one
        there. Raises `NotReady` while the child does not run, `ContextLengthExceeded` if the text is too long.
        """
        _ = self._child.session  # raises if there is no child
        most = self._config.context_tokens + 1
        encode = partial(wordpiece.encode, text, most=most)
        tokens = await asyncio.get_running_loop().run_in_executor(self._threads, encode)
        if len(tokens) == most:
            raise self._too_long(most, exact=False)
        return tokens

    async def _plain_tokens(self, text: str) -> list[int]:
        """The token ids of `text`; texts of control tokens in it, such as `<|im_end|>`, are tokenized as plain text.

        Raises `NotReady` while the child process does not run or if it responds with status 503, `InvalidRequest` for
        status 400 or 422, `InvalidAnswer` if the response is no JSON object, and `InferenceFailed` for another error
        status or if the connection fails.
        """
        try:
            return await text_tokens(self._child, text, add_special=True)
        except (aiohttp.ClientError, OSError) as exc:
            raise _broken_connection(exc) from exc

    async def _in_slot(self, inputs: Sequence[Input]) -> _Vectors:
        """The vectors of `inputs` and the number of their tokens, by one request, sent when the child has a free slot.

        If this call is cancelled while it waits for the response, the slot stays taken until the response arrives.
        Raises `ContextLengthExceeded` for an input that is too long, `NotReady` while the child does not run, else
        another `MongarsError`, mostly `InferenceFailed`.
        """
        await self._slots.acquire()
        # Not a `TaskGroup`: the request outlives a cancelled caller, as the child's work does.
        request = asyncio.create_task(self._request(inputs))  # noqa: TID251
        self._running.add(request)
        request.add_done_callback(self._free_slot)
        await asyncio.wait({request})
        return request.result()

    def _free_slot(self, request: asyncio.Task[_Vectors]) -> None:
        self._running.discard(request)
        self._slots.release()
        if not request.cancelled():
            request.exception()  # asyncio would log it if the caller was cancelled

    async def _request(self, inputs: Sequence[Input]) -> _Vectors:
        """The vectors of `inputs`, and the number of their tokens, by one request to the child process.

        Raises `ContextLengthExceeded` for an input that is too long, `NotReady` while the child does not run,
        `InvalidRequest` if it responds with status 400 or 422, `InvalidAnswer` if the response is no JSON object, and
        `InferenceFailed` if the connection fails, the response lacks vectors or has another error status.
        """
        body = {"model": self.model, "input": list(inputs), "encoding_format": "float"}
        try:
            async with self._child.post("/v1/embeddings", body) as response:
                with self._child.waiting(response):
                    if response.status != HTTPStatus.OK:
                        raise self._refusal(await refusal_of(response))
                    answer = json_object(await response.read())
        except (aiohttp.ClientError, OSError) as exc:
            raise _broken_connection(exc) from exc
        try:
            entries = in_order(answer["data"], count=len(inputs))
            vectors = [_unit(entry["embedding"]) for entry in entries]
            tokens = int(answer["usage"]["prompt_tokens"])
        except (KeyError, TypeError, ValueError) as exc:
            detail = (
                f"The embedding engine did not send one vector for each of {len(inputs)} texts."
            )
            raise InferenceFailed(detail) from exc
        return vectors, tokens

    def _refusal(self, error: MongarsError) -> MongarsError:
        found = _TOO_LONG.search(str(error))
        return error if found is None else self._too_long(int(found[1]))

    def _too_long(self, found: int, *, exact: bool = True) -> ContextLengthExceeded:
        """The error for a text of `found` tokens; of at least so many if not `exact`."""
        most = self._config.context_tokens
        size = f"{found}" if exact else f"more than {found - 1}"
        detail = (
            f"This model's maximum context length is {most} tokens. However, a text is {size}"
            " tokens long. Split it."
        )
        return ContextLengthExceeded(
            detail, prompt_tokens=found, context_tokens=most, param="input"
        )


def _groups(inputs: Sequence[Input]) -> Iterator[list[Input]]:
    """Divide `inputs`, in order, into lists for one request each, of at most 16 texts and 512 tokens.

    A text of more than 512 tokens is alone in its list. Tokens of a text that is not tokenized are counted as its
    bytes, which is never too few.
    """
    group: list[Input] = []
    tokens = 0
    for entry in inputs:
        size = _most_tokens(entry)
        if group and (len(group) == AT_ONCE or tokens + size > TOKENS_AT_ONCE):
            yield group
            group, tokens = [], 0
        group.append(entry)
        tokens += size
    if group:
        yield group


def _most_tokens(entry: Input) -> int:
    """The number of tokens of a tokenized text; for another one an upper bound: a token has at least one byte."""
    return len(entry.encode(errors="replace")) if isinstance(entry, str) else len(entry)


def _broken_connection(error: Exception) -> InferenceFailed:
    return InferenceFailed(f"The embedding engine broke the connection: {error}")


def _unit(vector: Sequence[float]) -> tuple[float, ...]:
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not math.isfinite(length) or length == 0.0:
        detail = "The embedding engine sent a vector without a direction."
        raise InferenceFailed(detail)
    return tuple(value / length for value in vector)
