"""The WordPiece tokenizer on long texts: how much of a text it processes, and that parts of a text leave no trace."""

from __future__ import annotations

import tracemalloc
import unicodedata

import pytest

from mongars.engines.llama_cpp.wordpiece import WordPiece

UNKNOWN, BEGIN, END, LONG, SHORT, LETTER, MORE, COMMA = range(8)
TOKENS = ["[UNK]", "[CLS]", "[SEP]", "\u2581ete", "\u2581an", "\u2581b", "b", "\u2581,"]
KINDS = [3, 3, 3, 1, 1, 1, 1, 1]


@pytest.fixture
def wordpiece() -> WordPiece:
    found = WordPiece.of(
        {
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.tokens": TOKENS,
            "tokenizer.ggml.token_type": KINDS,
        }
    )
    assert found is not None
    return found


@pytest.mark.parametrize("shift", range(12))
def test_words_are_whole_wherever_the_parts_of_a_text_end(wordpiece, shift: int) -> None:
    """Each word of a long text has its tokens, with accents, before a comma and across the ends of parts."""
    text = " " * shift + "\u00e9t\u00e9, A\u0301N\n" * 500
    assert wordpiece.encode(text) == [BEGIN, *[LONG, COMMA, SHORT] * 500, END]


@pytest.mark.parametrize("before", [0, 200, 255, 256])
def test_only_words_of_more_than_a_hundred_characters_are_unknown(wordpiece, before: int) -> None:
    """A word of 100 characters is cut into tokens, one of 101 or of thousands is unknown, wherever it stands."""
    for length, tokens in (
        (100, [LETTER, *[MORE] * 99]),
        (101, [UNKNOWN]),
        (5000, [UNKNOWN]),
    ):
        text = " " * before + "b" * length + " an"
        assert wordpiece.encode(text) == [BEGIN, *tokens, SHORT, END]


def test_no_more_of_a_text_is_processed_than_needed(wordpiece) -> None:
    """The first tokens of a text of 4 MB are found without memory for the others."""
    text = "an " * 1_400_000
    tracemalloc.start()
    try:
        assert wordpiece.encode(text, most=513) == [BEGIN, *[SHORT] * 512]
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_text_is_normalised_in_small_parts(wordpiece, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 256 characters are normalised at once: the time grows with the square of a run of accents."""
    sizes = []
    normalize = unicodedata.normalize

    def measured(form: str, text: str) -> str:
        sizes.append(len(text))
        return normalize(form, text)

    monkeypatch.setattr(unicodedata, "normalize", measured)
    accents = "\u0301" * 2000 + "\u0323" * 2000
    assert wordpiece.encode(f"an{accents} an") == [BEGIN, SHORT, SHORT, END]
    assert max(sizes) <= 256
