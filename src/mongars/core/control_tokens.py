"""Find texts that a tokenizer would read as control tokens of a chat template.

A tokenizer that reads a rendered prompt cannot distinguish `<|im_end|>` written by the chat template from the
same characters typed by a user, who could so end the user's message and add a system message. For engines that
accept tokens, such texts are tokenized as plain text (`literal_parts`); for engines that accept only text, the
characters are separated (`broken`). A marker is the text of a control token.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mongars.core.generation import Message

SEPARATOR = "\u200b"
"""ZERO WIDTH SPACE: an invisible character, inserted into a marker to break it."""
_SHORTEST_BORDER = 2
"""How many characters a text must share with the beginning or end of a marker to count as a part of it."""

COMMON_MARKERS = (
    "<s>",
    "</s>",
    "<bos>",
    "<eos>",
    "<unk>",
    "<pad>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "<start_of_turn>",
    "<end_of_turn>",
    "<EOT>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|start|>",
    "<|message|>",
    "<|channel|>",
    "<|return|>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
)
"""Markers (texts of control tokens) of widely used chat templates, for engines whose vocabulary is not available."""


@dataclass(frozen=True, slots=True)
class Marker:
    """A control token found in a text, or one in a rendered prompt that the chat template wrote."""

    text: str


class Markers:
    """The texts of a vocabulary's control tokens (such as `<|im_end|>`), to find them in message texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        long_enough = {text for text in texts if len(text.strip()) >= _SHORTEST_BORDER}
        found = sorted(long_enough, key=len, reverse=True)
        self.texts = tuple(found)
        """Longest first, the order in which tokenizers match them."""
        self._anywhere = re.compile("|".join(map(re.escape, found)) or r"(?!)")
        self._beginnings = _parts(text[:end] for text in found for end in range(len(text)))
        self._endings = _parts(text[start:] for text in found for start in range(1, len(text)))
        self._all = "\n".join(found)

    def may_occur_in(self, text: str) -> bool:
        """Whether the text contains a marker (text of a control token), or could form one with adjacent text."""
        if self._anywhere.search(text) is not None:
            return True
        trimmed = text.strip()
        return (
            trimmed.startswith(self._endings)
            or trimmed.endswith(self._beginnings)
            or (len(trimmed) >= _SHORTEST_BORDER and trimmed in self._all)
        )

    def pieces(self, text: str) -> list[str | Marker]:
        """Split the text at its markers (texts of control tokens) into plain strings and `Marker` objects."""
        found: list[str | Marker] = []
        last = 0
        for match in self._anywhere.finditer(text):
            found += [text[last : match.start()], Marker(match[0])]
            last = match.end()
        return [piece for piece in (*found, text[last:]) if piece]

    def cut(self, text: str) -> list[str]:
        """Split the text into pieces without any whole marker, by a cut after the first character of each marker."""
        found, last = [], 0
        # Not `finditer`: the rest of one marker may be the beginning of the next.
        while match := self._anywhere.search(text, last):
            found.append(text[last : match.start() + 1])
            last = match.start() + 1
        return [*found, text[last:]]

    def broken(self, text: str) -> str:
        """The text with a `SEPARATOR` wherever it contains a marker or could complete one with adjacent text."""
        if not self.may_occur_in(text):
            return text
        held = SEPARATOR.join(self.cut(text))
        trimmed = held.strip()
        if trimmed.startswith(self._endings) or trimmed in self._all:
            held = SEPARATOR + held
        return held + SEPARATOR if trimmed.endswith(self._beginnings) else held

    def broken_messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages, with every control token in their contents split up so that a tokenizer reads plain text.

        `broken` describes how. Messages without a control token are returned as the same objects.
        """
        return tuple(
            replace(message, content=self.broken(message.content))
            if self.may_occur_in(message.content)
            else message
            for message in messages
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholders:
    """Random names that are rendered by a chat template in place of message texts, to find the texts in its output."""

    nonce: str
    texts: tuple[str, ...]

    @classmethod
    def instead_of(cls, texts: Sequence[str]) -> Placeholders:
        """Make placeholders with new random names for the message texts `texts`."""
        return cls(nonce=secrets.token_hex(16), texts=tuple(texts))

    def contents(self) -> list[str]:
        """The message contents to render: each text is replaced by its placeholder, except white space at its ends.

        The white space is kept so that the chat template can trim it.
        """
        return [self._content(index, text) for index, text in enumerate(self.texts)]

    def _content(self, index: int, text: str) -> str:
        core = text.strip()
        if not core:
            return text
        start = text.index(core)
        return f"{text[:start]}{self.nonce}x{index}x{text[start + len(core) :]}"

    def rendered_parts(self, rendered: str) -> list[tuple[str, bool]]:
        """Split the template's output into parts, in order: (part, whether the part is a message text)."""
        found = re.split(f"{self.nonce}x([0-9]+)x", rendered)
        parts = [
            (self.texts[int(piece)].strip(), True) if index % 2 else (piece, False)
            for index, piece in enumerate(found)
        ]
        return [part for part in parts if part[0]]


def literal_parts(
    rendered: str, placeholders: Placeholders, *, markers: Markers, others: Markers
) -> list[str | Marker]:
    """The prompt as control tokens that the chat template wrote, and the plain text between them.

    Tokenize each plain piece as a whole, with control tokens disabled: template text next to a message text is part of
    the same piece, so the tokens are those of the rendered prompt. `others` are the markers that a tokenizer recognises
    even in plain text; pieces that contain one are split inside it.
    """
    parts: list[str | Marker] = []
    plain = ""
    for piece, is_text in placeholders.rendered_parts(rendered):
        for part in (piece,) if is_text else markers.pieces(piece):
            if isinstance(part, str):
                plain += part
                continue
            parts += [*others.cut(plain), part]
            plain = ""
    return [part for part in (*parts, *others.cut(plain)) if part]


def vocabulary_markers(kinds: Mapping[str, bool], template: str) -> tuple[Markers, Markers]:
    """All markers of a vocabulary, and those of them that the tokenizer recognises in plain text as well.

    `kinds` maps each special token to whether it is a control token. Other special tokens count as markers only if the
    chat template contains them, as vocabularies also have line breaks and HTML tags among them.
    """
    others = [text for text, is_control in kinds.items() if not is_control and text in template]
    control = [text for text, is_control in kinds.items() if is_control]
    return Markers([*control, *others]), Markers(others)


def _parts(found: Iterable[str]) -> tuple[str, ...]:
    return tuple({part for part in found if len(part) >= _SHORTEST_BORDER})
