"""The special tokens of a GGUF model that llama.cpp recognises in a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mongars.core.control_tokens import (
    Marker,
    Markers,
    Placeholders,
    literal_parts,
    vocabulary_markers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mongars.engines.provisioning.gguf import Found

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
"""Token types of GGUF. llama.cpp finds the first two in a text only if control tokens are enabled."""
_ALWAYS_CONTROL = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<EOT>",
        "< EOT >",
        "_<EOT>",
        "[EOT]",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    }
)
"""Tokens that end a message; llama.cpp treats them as control tokens, whatever type the file gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The control tokens of a GGUF model, such as `<|im_end|>`: their texts (`markers`) and token ids (`ids`, by text).

    `others`: the texts of those that llama.cpp recognises even in plain text. `reasons`: whether the chat template
    provides for reasoning before the answer.
    """

    markers: Markers
    """The texts of all control tokens."""
    others: Markers
    """The texts of control tokens that llama.cpp recognises in plain text, too."""
    ids: Mapping[str, int]
    reasons: bool
    """Whether the chat template provides for reasoning before the answer."""

    @classmethod
    def of(cls, values: Mapping[str, Found]) -> Self:
        """Extract the control tokens from `values`, a GGUF file's metadata by key; none if it has no token list."""
        kinds, ids = {}, {}
        for index, (token, kind) in enumerate(_tokens(values)):
            known = token in _ALWAYS_CONTROL
            if known or kind in {_UNKNOWN, _CONTROL, _USER_DEFINED}:
                kinds[token] = known or kind != _USER_DEFINED
                ids[token] = index
        template = str(values.get("tokenizer.chat_template", ""))
        markers, others = vocabulary_markers(kinds, template)
        reasons = "think" in template or "reasoning" in template
        return cls(markers=markers, others=others, ids=ids, reasons=reasons)

    def mixed_prompt(self, rendered: str, placeholders: Placeholders) -> list[str | int]:
        """Split a rendered prompt into token ids of control tokens and plain texts, as llama.cpp's `/tokenize` accepts.

        `rendered` is the output of the chat template with `placeholders` instead of the message texts. Only control
        tokens that the chat template wrote become ids; those in message texts stay plain text.
        """
        parts = literal_parts(rendered, placeholders, markers=self.markers, others=self.others)
        return [self.ids[part.text] if isinstance(part, Marker) else part for part in parts]


def _tokens(values: Mapping[str, Found]) -> list[tuple[str, Found]]:
    tokens, types = values.get("tokenizer.ggml.tokens"), values.get("tokenizer.ggml.token_type")
    if not (isinstance(tokens, list) and isinstance(types, list)):
        return []
    return [(str(token), kind) for token, kind in zip(tokens, types, strict=False)]
