"""Convert the GGUF file that llama.cpp uses to the format that vLLM reads.

```
<cache>/hf/<sha256 of the GGUF>/   config.json, model.safetensors, tokenizer.json, ...
```
Weights are dequantised to float32, so both engines compute with the same numbers. llama.cpp keeps the rows of each
attention head interleaved for its rotary embedding; that order is undone here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mongars.core.errors import ProvisioningFailed
from mongars.engines.provisioning.model_cache import ModelCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mongars.engines.provisioning.spec import ModelFile

_LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_PARTS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_SPECIAL = {gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED}


def ensure_hf_base(root: Path, model: ModelFile, *, waiting: Callable[[], None]) -> Path:
    """The folder with a cached GGUF model in Hugging Face's format; converts the GGUF file if the folder is missing.

    `root` is the model cache, where the folder is stored. Blocks; `waiting` is called every 0.2 seconds while another
    process holds the cache's lock.

    Raises:
        ProvisioningFailed: the model's architecture, its tokenizer or one of its tensors cannot be converted, or its
            metadata lacks a field that the conversion needs.
    """
    target = root / "hf" / model.digest
    if target.is_dir():
        return target
    cache = ModelCache(root)
    with cache.exclusive(waiting), cache.workspace() as folder:
        made = folder / "hf"
        made.mkdir()
        _convert(gguf.GGUFReader(model.path), made)
        target.parent.mkdir(exist_ok=True)
        if not target.is_dir():
            made.rename(
                target
            )  # renamed as a whole, so that a reader sees a complete folder or none
    return target


class _Metadata(dict[str, Any]):
    """The metadata of a GGUF file; looking up a field that is not there raises a `ProvisioningFailed` that names it."""

    def __missing__(self, field: str) -> NoReturn:
        msg = f"The model cannot be converted: its metadata has no {field!r}."
        raise ProvisioningFailed(msg)


def _convert(reader: gguf.GGUFReader, folder: Path) -> None:
    values = _Metadata({name: field.contents() for name, field in reader.fields.items()})
    kind = (values.get("general.architecture"), values.get("tokenizer.ggml.model"))
    if kind != ("llama", "gpt2") or "llama.rope.scaling.type" in values:
        msg = f"A model of architecture and tokenizer {kind!r} cannot be converted; llama is known."
        raise ProvisioningFailed(msg)
    heads = {"attn_q": values["llama.attention.head_count"]}
    heads["attn_k"] = values["llama.attention.head_count_kv"]
    tensors = {}
    for tensor in reader.tensors:
        part = tensor.name.removesuffix(".weight").split(".")[-1]
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if part in heads:
            weight = _rows_of_huggingface(weight, heads[part])
        tensors[_hf_name(tensor.name)] = np.ascontiguousarray(weight)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tied = "lm_head.weight" not in tensors
    _write(folder / "config.json", _model_config(values, tied=tied))
    _write(folder / "generation_config.json", _token_ids(values))
    _tokenizer(values).save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", _tokenizer_config(values))


def _hf_name(name: str) -> str:
    parts = name.removesuffix(".weight").split(".")
    match parts:
        case ["blk", layer, part] if part in _LAYER_PARTS:
            return f"model.layers.{layer}.{_LAYER_PARTS[part]}.weight"
        case [part] if part in _TOP_PARTS:
            return f"{_TOP_PARTS[part]}.weight"
    msg = f"The model has a tensor {name!r} that cannot be converted."
    raise ProvisioningFailed(msg)


def _rows_of_huggingface(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Undo llama.cpp's interleaving of the rows of an attention weight (a matrix of `heads` equal blocks of d rows).

    Row `2*k + half` of each block becomes row `half*d/2 + k`, where `half` is 0 or 1.
    """
    rows, columns = weight.shape
    interleaved = weight.reshape(heads, rows // heads // 2, 2, columns)
    return interleaved.swapaxes(1, 2).reshape(rows, columns)


def _token_ids(values: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{role}_token_id": values[key]
        for role, key in _TOKEN_ROLES.items()
        if key in values and role != "unk"
    }


_TOKEN_ROLES = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
}


def _model_config(values: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    heads = values["llama.attention.head_count"]
    theta = values.get("llama.rope.freq_base", 10_000.0)  # llama.cpp's default
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": values["llama.embedding_length"],
        "intermediate_size": values["llama.feed_forward_length"],
        "num_hidden_layers": values["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": values["llama.attention.head_count_kv"],
        "head_dim": values["llama.embedding_length"] // heads,
        "max_position_embeddings": values["llama.context_length"],
        # Stored as float32: the shortest decimal that rounds to it is the original value.
        "rms_norm_eps": float(str(np.float32(values["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "vocab_size": len(values["tokenizer.ggml.tokens"]),
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        **_token_ids(values),
    }


def _tokenizer(values: dict[str, Any]) -> Tokenizer:
    tokens = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    )
    # As llama.cpp does for the pre-tokenizer "smollm"; others split text differently.
    if values.get("tokenizer.ggml.pre") != "smollm":
        msg = f"The pre-tokenizer {values.get('tokenizer.ggml.pre')!r} cannot be converted."
        raise ProvisioningFailed(msg)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = values["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind in _SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return tokenizer


def _tokenizer_config(values: dict[str, Any]) -> dict[str, Any]:
    tokens = values["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": values["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": values["tokenizer.chat_template"],
        **{
            f"{role}_token": tokens[values[key]]
            for role, key in _TOKEN_ROLES.items()
            if key in values
        },
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
