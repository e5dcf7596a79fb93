"""BERT's WordPiece tokenizer for uncased models, with exactly the tokens of the reference implementation.

llama.cpp has an implementation of its own, which differs for some texts: it does not decompose Hangul, drops the
vowel signs of Indic scripts, and splits words of any length; the vectors then differ from the reference. So texts
are tokenized here and sent to llama.cpp as token ids.

Unlike the reference, this one never produces `[SEP]` or another control token from characters of a text.
"""

from __future__ import annotations

import unicodedata
from itertools import islice
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mongars.engines.provisioning.gguf import Found

_LONGEST_WORD = 100
_PART = 256
"""Number of characters of a text that are normalised at once.

Python's time for it grows with the square of a run of combining characters, and no other thread runs meanwhile.
Between parts, such a run is not put in order, which makes no difference for accents: they are removed.
"""
_WORD = "\u2581"
"""The prefix of tokens that begin a word, in a GGUF file."""
_CONTROL = 3
_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """A WordPiece tokenizer (as used by uncased BERT models): converts texts to token ids of one vocabulary.

    Made by `of` from the metadata `values` of a GGUF file, which contains the vocabulary.
    """

    def __init__(self, values: Mapping[str, Found]) -> None:
        tokens = _texts(values["tokenizer.ggml.tokens"])
        kinds = _numbers(values["tokenizer.ggml.token_type"])
        ids = {token: index for index, token in enumerate(tokens)}
        self._words = {token[1:]: ids[token] for token in tokens if token.startswith(_WORD)}
        self._pieces = {token: ids[token] for token in tokens if not token.startswith(_WORD)}
        special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
        self._special = {token: self._pieces.pop(token) for token in special}
        self._longest = max(map(len, tokens))
        self._letters = _Letters()

    @classmethod
    def of(cls, values: Mapping[str, Found]) -> Self | None:
        """Make the tokenizer from `values`, a GGUF file's metadata by key; None if that is for another tokenizer."""
        return cls(values) if values.get("tokenizer.ggml.model") == "bert" else None

    def encode(self, text: str, *, most: int | None = None) -> list[int]:
        """The token ids of a text, with `[CLS]` before and `[SEP]` after them.

        Only the first `most` of them are computed, which saves the time for the rest of a long text; None: all.
        """
        return list(islice(self._tokens(text), most))

    def _tokens(self, text: str) -> Iterator[int]:
        yield self._special["[CLS]"]
        for word in self._words_in(text):
            yield from self._cut(word)
        yield self._special["[SEP]"]

    def _words_in(self, text: str) -> Iterator[str]:
        """The normalised words of a text; of a word with more than 100 characters at least the first 101."""
        begun = ""  # the last word of a part, which may continue in the next one
        for start in range(0, len(text), _PART):
            part = unicodedata.normalize("NFD", text[start : start + _PART])
            *words, begun = (begun + part.translate(self._letters)).split(" ")
            yield from filter(None, words)
            begun = begun[: _LONGEST_WORD + 1]
        if begun:
            yield begun

    def _cut(self, word: str) -> list[int]:
        """The token ids of one word: the longest token that it begins with, then likewise for the rest.

        The id of `[UNK]` alone if a part of the word has no token, or if the word is longer than 100 characters.
        """
        unknown = [self._special["[UNK]"]]
        if len(word) > _LONGEST_WORD:
            return unknown
        found: list[int] = []
        vocabulary, start = self._words, 0
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                token = vocabulary.get(word[start:end])
                if token is not None:
                    break
            else:
                return unknown
            found.append(token)
            vocabulary, start = self._pieces, end
        return found


class _Letters(dict[int, str]):
    """A table for `str.translate` that maps each character (by its code point) to its normalised text for `WordPiece`.

    Lower case; spaces for white space; spaces around punctuation and ideographs; empty for accents and control
    characters. Each replacement is computed on first use.
    """

    def __missing__(self, point: int) -> str:
        self[point] = made = _letter(chr(point))
        return made


def _letter(letter: str) -> str:
    category = unicodedata.category(letter)
    if letter in "\t\n\r" or category[0] == "Z":
        return " "
    if category in {"Cc", "Cf", "Co", "Cs", "Mn"} or letter == "\ufffd":
        return ""
    if _stands_alone(letter, category):
        return f" {letter} "
    return letter.lower()


def _stands_alone(letter: str, category: str) -> bool:
    if category[0] == "P" or (letter.isascii() and not letter.isalnum()):
        return True
    return any(first <= ord(letter) <= last for first, last in _IDEOGRAPHS)


def _texts(value: Found) -> Sequence[str]:
    if isinstance(value, list):
        return [text for text in value if isinstance(text, str)]
    return ()


def _numbers(value: Found) -> Sequence[int]:
    if isinstance(value, list):
        return [number for number in value if isinstance(number, int)]
    return ()
