"""Splits an answer into segments for speech output, in the format of the earlier monGARS's front ends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

WORDS_PER_SECOND = 2.5
"""Assumed speaking rate, from which durations are estimated."""
PAUSE_SECONDS = 0.3
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")


def speech_turn(text: str, *, turn_id: str, created_at: datetime) -> dict[str, Any]:
    """Convert an answer to the JSON object that front ends with speech output read: one segment per sentence.

    Keys: `turn_id`, `text` (the answer), `created_at` (ISO 8601), `segments`, `average_words_per_second` (2.5) and
    `tempo` (1.0). A segment has its `text`, and `estimated_duration` and `pause_after` in seconds. A sentence ends at a
    line break, or at `.`, `!`, `?` or `…` before white space.
    """
    sentences = [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
    segments = [
        {
            "text": sentence,
            "estimated_duration": round(len(sentence.split()) / WORDS_PER_SECOND, 3),
            "pause_after": PAUSE_SECONDS,
        }
        for sentence in sentences
    ]
    return {
        "turn_id": turn_id,
        "text": text,
        "created_at": created_at.isoformat(),
        "segments": segments,
        "average_words_per_second": WORDS_PER_SECOND,
        "tempo": 1.0,
    }
