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
    """The text of a control token, such as `<|im_end|>`, as a part of a text that was split at such tokens."""

    text: str


class Markers:
    """The texts of a vocabulary's control tokens ("markers", such as `<|im_end|>`), to find them in message texts.

    Texts of fewer than 2 characters, white space not counted, are left out.
    """

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
        """Whether the text contains the text of a control token, or could form one together with text beside it."""
        if self._anywhere.search(text) is not None:
            return True
        trimmed = text.strip()
        return (
            trimmed.startswith(self._endings)
            or trimmed.endswith(self._beginnings)
            or (len(trimmed) >= _SHORTEST_BORDER and trimmed in self._all)
        )

    def pieces(self, text: str) -> list[str | Marker]:
        """Split the text at the texts of control tokens in it: these become `Marker` objects, the rest stays strings.

        Joined, the pieces are the text; empty strings are left out.
        """
        found: list[str | Marker] = []
        last = 0
        for match in self._anywhere.finditer(text):
            found += [text[last : match.start()], Marker(match[0])]
            last = match.end()
        return [piece for piece in (*found, text[last:]) if piece]

    def cut(self, text: str) -> list[str]:
        """Split the text so that no piece contains the whole text of a control token.

        Each such text is cut after its first character. Joined, the pieces are the text.
        """
        found, last = [], 0
        # Not `finditer`: the rest of one marker may be the beginning of the next.
        while match := self._anywhere.search(text, last):
            found.append(text[last : match.start() + 1])
            last = match.start() + 1
        return [*found, text[last:]]

    def broken(self, text: str) -> str:
        """Insert `SEPARATOR` (an invisible character) into every text of a control token in `text`.

        It is also put at the beginning or end of `text` if that could complete such a text together with text beside
        it. A text to which neither applies is returned unchanged.
        """
        if not self.may_occur_in(text):
            return text
        held = SEPARATOR.join(self.cut(text))
        trimmed = held.strip()
        if trimmed.startswith(self._endings) or trimmed in self._all:
            held = SEPARATOR + held
        return held + SEPARATOR if trimmed.endswith(self._beginnings) else held

    def broken_messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Apply `broken` to the messages' contents, so that a tokenizer recognises no control token in them.

        Messages in which nothing changes are returned as the same objects.
        """
        return tuple(
            replace(message, content=self.broken(message.content))
            if self.may_occur_in(message.content)
            else message
            for message in messages
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholders:
    """Placeholders that a chat template renders instead of the message texts `texts`.

    Each contains `nonce`, a random number, so that the message texts are recognisable in the template's output.
    """

    nonce: str
    texts: tuple[str, ...]

    @classmethod
    def instead_of(cls, texts: Sequence[str]) -> Placeholders:
        """Make placeholders, with a new random number, for the message texts `texts`."""
        return cls(nonce=secrets.token_hex(16), texts=tuple(texts))

    def contents(self) -> list[str]:
        """The message contents to render, in the order of `texts`: each text is replaced by its placeholder.

        White space at the ends of a text is kept, so that the chat template can trim it; a blank text stays as it is.
        """
        return [self._content(index, text) for index, text in enumerate(self.texts)]

    def _content(self, index: int, text: str) -> str:
        core = text.strip()
        if not core:
            return text
        start = text.index(core)
        return f"{text[:start]}{self.nonce}x{index}x{text[start + len(core) :]}"

    def rendered_parts(self, rendered: str) -> list[tuple[str, bool]]:
        """Split `rendered`, the output of the chat template, into pairs (part, whether the part is a message text).

        The message texts, without white space at their ends, are in place of their placeholders. Parts are in order;
        empty ones are left out.
        """
        found = re.split(f"{self.nonce}x([0-9]+)x", rendered)
        parts = [
            (self.texts[int(piece)].strip(), True) if index % 2 else (piece, False)
            for index, piece in enumerate(found)
        ]
        return [part for part in parts if part[0]]


def literal_parts(
    rendered: str, placeholders: Placeholders, *, markers: Markers, others: Markers
) -> list[str | Marker]:
    """Split a prompt into the control tokens that the chat template wrote (`Marker` objects) and the text between them.

    `rendered` is the output of the chat template with `placeholders` instead of message texts, `markers` are the texts
    of all control tokens. Tokenize each text as a whole, with control tokens disabled: template text next to a message
    text is part of the same piece, so the tokens are those of the rendered prompt. `others` are the markers that the
    tokenizer recognises even so; a text that contains one is split inside of it.
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
    """The texts of all control tokens of a vocabulary, and of those that the tokenizer recognises even in plain text.

    `kinds` maps the text of each special token to whether it is a control token; the tokenizer recognises the others
    even in plain text. Of these, only those that occur in the chat template `template` (its source text) are returned,
    in both results; the rest, such as line breaks and HTML tags, is left out.
    """
    others = [text for text, is_control in kinds.items() if not is_control and text in template]
    control = [text for text, is_control in kinds.items() if is_control]
    return Markers([*control, *others]), Markers(others)


def _parts(found: Iterable[str]) -> tuple[str, ...]:
    return tuple({part for part in found if len(part) >= _SHORTEST_BORDER})
