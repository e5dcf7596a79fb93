"""The scenarios of the fault catalogue with their published times, and the limits of each.

A limit is a sentence and whether it was kept, judged by what the client received and what the fakes logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.catalogue_world import PACE, Script, Seen
from mongars.core.errors import CallerError
from mongars.testing.faults import (
    FaultyResponse,
    Flapping,
    NoContinuation,
    Reset,
    Silence,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Limits = dict[str, bool]

SLOW_FIRST_TOKEN = 20.0
STALL = 30.0
SILENCE = 120.0
OUTAGE = 60.0

BUSY = Status(code=429, error="overloaded")
PATIENCE = Status(code=429, error="overloaded", headers={"Retry-After": "2"})
UNAVAILABLE = Status(code=503, error="overloaded")
FAILED = Status(code=500, error="inference_failed")
REFUSED = Status(
    code=400, body={"error": {"code": "content_policy_violation", "message": "Not this."}}
)
TOO_LONG = Status(
    code=400,
    body={
        "error": "context_length_exceeded",
        "detail": "The prompt is too long.",
        "prompt_tokens": 5000,
        "context_tokens": 4096,
    },
)
CUT = FaultyResponse(cut_after=40, token_delay=PACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scenario: its id, its script, and a function that checks its limits."""

    id: str
    script: Script
    limits: Callable[[Seen], Limits]


def _answered(seen: Seen) -> Limits:
    return {"right": all(told.right for told in seen.told)}


def _within(seen: Seen, seconds: float) -> Limits:
    return {f"at most {seconds:.0f} s": seen.told[0].seconds <= seconds}


def _at_most(seen: Seen, attempts: int) -> Limits:
    return {f"at most {attempts} attempts": seen.attempts <= attempts}


def _by(seen: Seen, provider: str) -> Limits:
    return {f"{provider} answers": seen.told[0].provider == provider}


def _flowed(seen: Seen) -> Limits:
    """The first content reached the client before the fault: the stream was not held back."""
    first = seen.told[0].first
    later = (*seen.primary[1:], *seen.fallback)
    return {"content before the fault": first is None or (bool(later) and first < min(later))}


def _counted(seen: Seen) -> Limits:
    completion = seen.told[0].completion
    return {"counts are there": completion is not None and completion.usage is not None}


def _patient(seen: Seen) -> Limits:
    gaps = [later - earlier for earlier, later in zip(seen.primary, seen.primary[1:], strict=False)]
    return {
        "asked again after 2 s at the earliest": bool(gaps) and min(gaps) >= 2.0,  # noqa: PLR2004
        "at most 2 attempts in 1.5 s": _early(seen, 1.5) <= 2,  # noqa: PLR2004
    }


def _early(seen: Seen, seconds: float) -> int:
    return sum(at <= seen.primary[0] + seconds for at in seen.primary)


def _refusal(seen: Seen) -> Limits:
    error = seen.told[0].error
    told = isinstance(error, CallerError) and "Not this." in str(error)
    return {"the refusal reaches the client": told, "one attempt": seen.attempts == 1}


def _stalled(seen: Seen) -> Limits:
    first = seen.told[0].first
    return {"content before the fault": first is None or first < STALL / 2}


def _outage(seen: Seen) -> Limits:
    back = [told.asked - OUTAGE for told in seen.told if told.provider == "ray_serve"]
    during = sum(at < OUTAGE for at in seen.primary)
    asked = sum(told.asked < OUTAGE for told in seen.told)
    return {
        "back within 30 s": bool(back) and min(back) <= 30,  # noqa: PLR2004
        f"no more attempts than questions while it lasts ({during} for {asked})": during <= asked,
    }


def _named(seen: Seen) -> Limits:
    completion = seen.told[0].completion
    return {
        "the engine that finished is named": completion is not None
        and completion.origin.engine == "ollama"
    }


CASES = (
    Case(
        id="S01",
        script=Script(faults=(PATIENCE,)),
        limits=lambda seen: _answered(seen) | _by(seen, "ray_serve") | _patient(seen),
    ),
    Case(
        id="S02",
        script=Script(always=BUSY),
        limits=lambda seen: (
            _answered(seen)
            | {"at most 4 attempts in 3 s": _early(seen, 3.0) <= 4}  # noqa: PLR2004
            | _at_most(seen, 6)
            | _within(seen, 40)
        ),
    ),
    Case(
        id="S03",
        script=Script(faults=(FAILED,)),
        limits=lambda seen: (
            _answered(seen) | {"the same one is asked again": len(seen.primary) == 2}  # noqa: PLR2004
        ),
    ),
    Case(
        id="S04",
        script=Script(always=UNAVAILABLE),
        limits=lambda seen: _answered(seen) | _by(seen, "ollama") | _at_most(seen, 6),
    ),
    Case(id="S05", script=Script(faults=(Reset(),)), limits=_answered),
    Case(
        id="S06",
        script=Script(always=Silence(seconds=SILENCE)),
        limits=lambda seen: (
            _answered(seen) | {"one primary attempt": len(seen.primary) == 1} | _within(seen, 15)
        ),
    ),
    Case(
        id="S07",
        script=Script(always=FaultyResponse(first_delay=SLOW_FIRST_TOKEN, keepalives=True)),
        limits=lambda seen: _answered(seen) | _within(seen, 15),
    ),
    Case(
        id="S08",
        script=Script(always=CUT),
        limits=lambda seen: _answered(seen) | _flowed(seen) | _counted(seen),
    ),
    Case(
        id="S09",
        script=Script(always=FaultyResponse(stall_after=20, stall_seconds=STALL, token_delay=PACE)),
        limits=lambda seen: _answered(seen) | _stalled(seen) | _within(seen, 45),
    ),
    Case(
        id="S10",
        script=Script(always=FaultyResponse(malformed_after=10, token_delay=PACE)),
        limits=lambda seen: _answered(seen) | _flowed(seen),
    ),
    Case(
        id="S11",
        script=Script(always=FaultyResponse(done=False, hold_open=True, token_delay=PACE)),
        limits=lambda seen: (
            _answered(seen) | _by(seen, "ray_serve") | _counted(seen) | _within(seen, 8)
        ),
    ),
    Case(
        id="S12",
        script=Script(always=TOO_LONG),
        limits=lambda seen: (
            _answered(seen)
            | {"one primary attempt": len(seen.primary) == 1}
            | _by(seen, "ollama")
            | _at_most(seen, 2)
        ),
    ),
    Case(id="S13", script=Script(always=REFUSED), limits=_refusal),
    Case(
        id="S14",
        script=Script(always=NoContinuation(otherwise=CUT)),
        limits=lambda seen: _answered(seen) | _flowed(seen),
    ),
    Case(
        id="S15",
        script=Script(
            always=Flapping(
                up=3600.0,
                down=OUTAGE,
                begins="down",
                when_up=FaultyResponse(token_delay=PACE),
                when_down=UNAVAILABLE,
            ),
            rounds=20,
            every=4.0,
        ),
        limits=lambda seen: _answered(seen) | _outage(seen),
    ),
    Case(
        id="S16",
        script=Script(always=UNAVAILABLE),
        limits=lambda seen: _answered(seen) | _named(seen) | _counted(seen) | _at_most(seen, 6),
    ),
)
