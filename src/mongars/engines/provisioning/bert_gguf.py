"""Convert a sentence-embedding BERT model to GGUF, from the files its authors publish.

The input is `model.safetensors` (float32) and `vocab.txt`; the output is one GGUF file for llama.cpp. Both formats
are a header followed by raw numbers, so the conversion is a stream in the order of the input and needs no other
library. Only input with a known SHA-256 is converted: its layout is not checked again, and the output has the same
bytes on every machine.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.engines.provisioning.gguf_head import F16, F32, Tensor, Value, gguf_head, padding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Any

    from mongars.engines.provisioning.spec import BertFiles

_BLOCK = 1 << 18
_MEAN = 1  # pooling over the tokens of a text
_NORMAL, _CONTROL = 1, 3  # kinds of tokens
_MOSTLY_F16 = 1
_WORD = "\u2581"
"""llama.cpp's prefix of tokens that begin a word. WordPiece marks the other tokens instead, with `##`."""

_ROLES = {"[PAD]": "padding", "[UNK]": "unknown", "[CLS]": "bos", "[SEP]": "seperator"}
_ROLES |= {"[MASK]": "mask"}

_TOP = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_LAYER_NAME = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
_UNUSED = ("embeddings.position_ids", "pooler.")
_KEPT_WHOLE = {"position_embd", "token_types"}
"""Matrices that stay float32, since llama.cpp adds them to float32 matrices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _TensorSpan:
    """One tensor of a BERT model in conversion: where its bytes are in the input, and what it becomes in the output.

    The offsets `begin` and `end` count from the end of the safetensors header. `tensor` describes it in the GGUF file;
    None: it is not written.
    """

    begin: int
    end: int
    tensor: Tensor | None


def bert_gguf(weights: IO[bytes], *, vocabulary: bytes, files: BertFiles) -> Iterator[bytes]:
    """Convert a BERT model to the GGUF format; yields the bytes of the GGUF file in blocks.

    `weights`: the open safetensors file (float32), read in order. `vocabulary`: its `vocab.txt` in UTF-8. `files` has
    what neither contains: title, licence, the number of attention heads and the epsilon of layer normalisation. The
    input is trusted to have the expected layout, and not checked.
    """
    (size,) = struct.unpack("<Q", weights.read(8))
    head: dict[str, Any] = json.loads(weights.read(size))
    parts = [_part(name, entry) for name, entry in head.items() if name != "__metadata__"]
    parts.sort(key=lambda part: part.begin)
    tensors = [part.tensor for part in parts if part.tensor is not None]
    tokens = vocabulary.decode().removesuffix("\n").split("\n")
    yield gguf_head(_values(tensors, tokens, files), tensors)
    for part in parts:
        yield from _numbers(weights, part)


def _part(name: str, entry: dict[str, Any]) -> _TensorSpan:
    begin, end = entry["data_offsets"]
    if name.startswith(_UNUSED):
        return _TensorSpan(begin=begin, end=end, tensor=None)
    renamed, shape = _renamed(name), tuple(entry["shape"])
    matrix = len(shape) > 1 and renamed.partition(".")[0] not in _KEPT_WHOLE
    tensor = Tensor(name=renamed, shape=shape, kind=F16 if matrix else F32)
    return _TensorSpan(begin=begin, end=end, tensor=tensor)


def _renamed(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    layer = _LAYER_NAME.fullmatch(stem)
    if layer is None:
        return f"{_TOP[stem]}.{suffix}"
    return f"blk.{layer[1]}.{_LAYER[layer[2]]}.{suffix}"


def _values(tensors: list[Tensor], tokens: list[str], files: BertFiles) -> dict[str, Value]:
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    context, width = shapes["position_embd.weight"]
    kinds = [_kind(token) for token in tokens]
    values: dict[str, Value] = {
        "general.architecture": "bert",
        "general.name": files.title,
        "general.license": files.licence,
        "general.file_type": _MOSTLY_F16,
        "bert.block_count": sum(name.endswith("attn_q.weight") for name in shapes),
        "bert.context_length": context,
        "bert.embedding_length": width,
        "bert.feed_forward_length": shapes["blk.0.ffn_up.weight"][0],
        "bert.attention.head_count": files.heads,
        "bert.attention.layer_norm_epsilon": files.epsilon,
        "bert.attention.causal": False,
        "bert.pooling_type": _MEAN,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": shapes["token_types.weight"][0],
        "tokenizer.ggml.tokens": tuple(map(_token, tokens, kinds)),
        "tokenizer.ggml.token_type": tuple(kinds),
    }
    for token, role in _ROLES.items():
        values[f"tokenizer.ggml.{role}_token_id"] = tokens.index(token)
    return values


def _kind(token: str) -> int:
    return _CONTROL if token in _ROLES else _NORMAL


def _token(token: str, kind: int) -> str:
    """Convert a WordPiece token to llama.cpp's notation, which marks the start of words instead of continuations.

    `kind` is the GGUF token type; a control token stays unchanged.
    """
    if kind == _CONTROL:
        return token
    return token[2:] if token.startswith("##") else _WORD + token


def _numbers(weights: IO[bytes], part: _TensorSpan) -> Iterator[bytes]:
    left = part.end - part.begin
    while left and (block := weights.read(min(left, _BLOCK))):
        left -= len(block)
        if part.tensor is not None:
            yield _halved(block) if part.tensor.kind == F16 else block
    if part.tensor is not None:
        yield padding(part.tensor.size)


def _halved(block: bytes) -> bytes:
    """Convert a block of float32 numbers to float16, rounding to nearest, ties to even."""
    count = len(block) // 4
    return struct.pack(f"<{count}e", *struct.unpack(f"<{count}f", block))
