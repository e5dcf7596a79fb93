"""Provision models on an Ollama server, which stores them itself."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp

from mongars.core.errors import EndpointUnreachable, ProvisioningFailed
from mongars.core.urls import ollama_url
from mongars.engines.provisioning.spec import way_out
from mongars.protocol.ollama import models_in, same_model

if TYPE_CHECKING:
    from mongars.engines.provisioning.job import Job
    from mongars.engines.provisioning.spec import OllamaSource

# A pull may take hours, but a server that sends nothing for two minutes has failed.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=120)


def ensure_ollama(job: Job, source: OllamaSource, *, host: str) -> bool:
    """Make the Ollama server at `host` pull the model if it is missing; returns whether it was pulled.

    The server has the model if it lists the name `source.tag`, case included; a name without a tag has the tag
    `latest`. `job.force`: pull it in any case. `host`: `HOST`, `:PORT`, `HOST:PORT` or a URL, as `ollama_url` reads it.
    Blocks; call it outside of an event loop.

    Raises:
        EndpointUnreachable: no connection to `host` can be made.
        ProvisioningFailed: the server cannot provide the model, does not accept the connection within 5 seconds, or
            sends nothing for 120 seconds.
        ValueError: `host` has none of these forms.
    """
    return asyncio.run(_ensure(job, source, ollama_url(host)))


async def _ensure(job: Job, source: OllamaSource, url: str) -> bool:
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            if not job.force and await _has(session, source.tag, url):
                return False
            await _pull(session, job, url)
            return True
    except aiohttp.ClientConnectorError as error:
        msg = (
            f"No Ollama answers at {url}. Start it, set OLLAMA_HOST to where it runs,"
            f" or {way_out(job.role)}."
        )
        raise EndpointUnreachable(msg) from error
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        msg = f"Ollama at {url} broke off ({type(error).__name__}: {error}). Try again."
        raise ProvisioningFailed(msg) from error


async def _has(session: aiohttp.ClientSession, tag: str, url: str) -> bool:
    async with session.get(f"{url}/api/tags") as response:
        if response.status != HTTPStatus.OK:
            msg = f"Ollama at {url} answered {response.status} to /api/tags; is it an Ollama?"
            raise ProvisioningFailed(msg)
        document: Any = await response.json(content_type=None)
    names = models_in(document) if isinstance(document, dict) else None
    return any(same_model(tag, name) for name in names or ())


async def _pull(session: aiohttp.ClientSession, job: Job, url: str) -> None:
    tag = job.spec.name
    job.step("pull")
    status = ""
    async with session.post(f"{url}/api/pull", json={"model": tag, "stream": True}) as response:
        # A failed pull is an `error` line, in an answer of any status.
        async for line in response.content:
            status = _read(job, line) or status
    if status != "success":
        msg = f"Ollama stopped pulling {tag!r} before it was complete. Run this again to go on."
        raise ProvisioningFailed(msg)


def _read(job: Job, line: bytes) -> str:
    if not line.strip():
        return ""
    event: Any = json.loads(line)
    if not isinstance(event, dict):
        return ""
    if "error" in event:
        msg = f"Ollama could not pull {job.spec.name!r}: {event['error']}"
        raise ProvisioningFailed(msg)
    total = event.get("total")
    if isinstance(total, int):
        job.step("pull", done=int(event.get("completed") or 0), total=total)
    return str(event.get("status", ""))
