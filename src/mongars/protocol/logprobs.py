r"""Log-probabilities of tokens in OpenAI's format.

A token may be only part of a character, so that it has no text. Like OpenAI, it is then named by its
bytes, such as `bytes:\xf0\x9f`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from mongars.protocol.sse import EventSplitter, encode_event, parse_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable

REPLACED = "\N{REPLACEMENT CHARACTER}"
"""The Unicode replacement character, which engines send in place of an incomplete character."""

_BEYOND_ASCII = re.compile(rb'"bytes":\[[\d,]*?(?:12[89]|1[3-9]\d|2\d\d)')
"""Matches a token with a byte outside ASCII: only such a token can be part of a character."""
_ALTERNATIVES = re.compile(
    rb'"top_logprobs":\[(?:[^\[\]"]|"(?:[^"\\]|\\.)*+"|\[[^\[\]]*+\])*+\]', re.DOTALL
)
_NONE = b'"top_logprobs":[]'


def entry(token: str, logprob: float) -> dict[str, Any]:
    """The log-probability entry, in OpenAI's format, of a token whose alternatives are not known.

    Keys: `token`, `logprob`, `top_logprobs` (empty) and `bytes` (the numbers of the token's UTF-8 bytes), which is None
    if `token` is empty or contains an incomplete character.
    """
    known = bool(token) and REPLACED not in token
    return {
        "token": token,
        "logprob": logprob,
        "bytes": list(token.encode()) if known else None,
        "top_logprobs": [],
    }


def entries(text: str, logprobs: Iterable[float]) -> list[dict[str, Any]]:
    """The log-probability entries, in OpenAI's format, of the tokens of `text`: one for each of `logprobs`.

    If there are several, each entry has the whole text as its token, because the token boundaries are unknown.
    """
    values = list(logprobs)
    if len(values) == 1:
        return [entry(text, values[0])]
    return [{**entry(text, value), "bytes": None} for value in values]


def named(sent: dict[str, Any]) -> dict[str, Any]:
    r"""A copy of an engine's log-probability entry in which a token that is part of a character is named by its bytes.

    Such a name is `bytes:` with an escape per byte, as in `bytes:\xf0\x9f`. `sent`: the decoded entry, with `token`,
    `logprob` and, if known, `bytes`. Alternatives in `top_logprobs` are converted too. Raises `TypeError`, `KeyError`
    or `ValueError` if `sent` is not such an entry.
    """
    found = {
        "token": sent["token"],
        "logprob": float(sent["logprob"]),
        "bytes": sent.get("bytes"),
    }
    if found["bytes"] is None:
        found = {name: entry(found["token"], found["logprob"])[name] for name in found}
    else:
        data = bytes(found["bytes"])
        try:
            found["token"] = data.decode()
        except UnicodeDecodeError:
            found["token"] = "bytes:" + "".join(f"\\x{value:02x}" for value in data)
    if "top_logprobs" in sent:
        found["top_logprobs"] = [named(other) for other in sent["top_logprobs"] or ()]
    return found


async def mended(
    blocks: AsyncIterable[bytes], *, alternatives: bool
) -> AsyncGenerator[bytes, None]:
    r"""Yield the engine's stream of events, in which a token that is part of a character is named by its bytes.

    Such a name in a log-probability entry is `bytes:` with an escape per byte, as `bytes:\xf0\x9f`. `blocks`: the
    bytes of the stream, cut anywhere; each yielded block has whole events, and an event that is incomplete at the end
    is dropped. `alternatives` False: the lists of alternative tokens are emptied. Raises `EventTooLarge`, and
    `TypeError`, `KeyError` or `ValueError` for a malformed event with such a token.
    """
    splitter = EventSplitter()
    async for block in blocks:
        found = splitter.blocks(block)
        if found:
            yield b"".join([_mended(raw, alternatives=alternatives) for raw in found])


def _mended(raw: bytes, *, alternatives: bool) -> bytes:
    if not alternatives:
        raw = _ALTERNATIVES.sub(_NONE, raw)
    if _BEYOND_ASCII.search(raw) is None:
        return raw
    event = parse_event(raw)
    body = None if event is None else orjson.loads(event.data)
    for choice in body["choices"] if isinstance(body, dict) else ():
        if choice.get("logprobs"):
            content = choice["logprobs"]["content"]
            choice["logprobs"]["content"] = [named(sent) for sent in content]
    return raw if body is None else encode_event(body)
