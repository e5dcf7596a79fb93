"""The program of the child process: llama.cpp's HTTP server on a private UNIX socket.

Reads one line of JSON (`ChildOrder`) from standard input, loads the model, writes the line `ready` to standard
output and serves until standard input is closed. Standard input is a pipe from the parent, so the child ends when
the parent ends, even if the parent is killed.

Why a child process: loading a model holds the interpreter lock for its whole duration, and a crash in native code
ends the process that it happens in.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import xllamacpp

from mongars.core.errors import ProvisioningFailed
from mongars.engines.llama_cpp.order import READY_LINE, ChildOrder
from mongars.engines.provisioning.gguf import gguf_values


def server_parameters(order: ChildOrder) -> xllamacpp.CommonParams:
    """The parameters for llama.cpp's HTTP server that correspond to `order`.

    Optional endpoints that the server offers by default (slots, web page, CORS) are disabled; its metrics are enabled.
    Reads the metadata of an embedding model's file; raises `ProvisioningFailed` if that is unusable.
    """
    params = xllamacpp.CommonParams()
    params.model.path = order.model_path
    params.model_alias = {order.model_name}
    params.hostnames = [order.socket_path]
    params.api_keys = [order.api_key]
    params.endpoint_slots = False
    params.endpoint_metrics = True
    params.ui = False
    params.cors_origins = ""
    params.n_parallel = order.slots
    params.n_ctx = order.context_tokens * order.slots
    params.fit_params = False
    params.n_batch = order.prompt_batch_tokens
    params.n_ubatch = order.prompt_batch_tokens
    params.cache_ram_mib = order.prompt_cache_mib
    params.cpuparams.n_threads = order.threads
    params.cpuparams_batch.n_threads = order.prompt_threads
    # Busy-waiting threads take the core from the threads that they wait for (ADR 0007).
    params.cpuparams.poll = 0
    params.cpuparams_batch.poll = 0
    if order.embedding:
        params.embedding = True
        params.n_batch = params.n_ubatch = order.context_tokens  # a text is read in one piece
        # An engine that generates answers shares the cores: with one thread less, neither waits (ADR 0010).
        params.cpuparams_batch.n_threads = order.threads
        if not any(key.endswith(".pooling_type") for key in gguf_values(Path(order.model_path))):
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.n_threads_http = order.slots + 4
    params.verbosity = 1
    return params


def main() -> None:
    """Read one line of JSON (`ChildOrder`) from standard input, load the model, and serve it on a UNIX socket.

    Writes the line `ready` to standard output once the model is loaded. Does not return: when standard input is closed,
    removes the socket's folder and ends the process with status 0; if the model cannot be loaded, exits with status 1
    and a message on standard error.
    """
    order = ChildOrder.from_line(sys.stdin.buffer.readline())
    os.umask(0o177)  # the socket is created with mode 0600
    try:
        server = xllamacpp.Server(server_parameters(order))
    except (
        RuntimeError,
        ProvisioningFailed,
    ) as exc:  # llama.cpp writes the reason to standard error
        sys.exit(str(exc))
    sys.stdout.buffer.write(READY_LINE)
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read()
    shutil.rmtree(Path(order.socket_path).parent, ignore_errors=True)
    # Not a clean exit: native threads may still run, and no state has to be saved.
    os._exit(0 if server else 1)


if __name__ == "__main__":
    main()
