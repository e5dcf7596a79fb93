"""Error messages and warnings about environment variables."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from mongars.settings.environment import Environment
from mongars.settings.parsing import seconds

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


_SECRET = ("KEY", "SECRET", "PASSWORD", "TOKEN", "DATABASE_URL")


def complaint(error: dict[str, Any]) -> str:
    """The message for one of pydantic's validation errors of the environment: variable, reason, and the given value.

    `error` is an element of `ValidationError.errors()`, and may be changed. The value is left out if it may be a
    secret.
    """
    if error["type"] == "too_short":
        error["msg"] = f"needs at least {error['ctx']['min_length']} characters"
    name = ".".join(str(part) for part in error["loc"][:1])
    reason = str(error["msg"]).removeprefix("Value error, ")
    if not name:
        return reason  # the error concerns several variables, and names them
    secret = any(word in name for word in _SECRET) or "@" in str(error.get("input"))
    shown = "" if secret else f" (got {error.get('input')!r})"
    return f"{name}: {reason}{shown}"


def unknown_names(names: AbstractSet[str]) -> tuple[str, ...]:
    """Warnings for variables among `names` that begin with `MONGARS_` or `RAY_` but are no variables of monGARS.

    Ray itself has hundreds of `RAY_` variables, so those are reported only if they resemble a variable of monGARS.
    """
    known = {str(field.validation_alias) for field in Environment.model_fields.values()}
    known |= {"MONGARS_STACK_ID", "MONGARS_STACK_PART"}
    warnings = []
    for name in sorted(names - known):
        if not name.startswith(("MONGARS_", "RAY_")):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near:
            warnings.append(f"{name} is not a variable of monGARS; did you mean {near[0]}?")
        elif name.startswith("MONGARS_") and not name.startswith("MONGARS_TEST_"):
            warnings.append(f"{name} is not a variable of monGARS.")
    return tuple(warnings)


def prompt_cache_warnings(environment: Environment) -> tuple[str, ...]:
    """A warning if `MONGARS_PROMPT_CACHE_MIB` has no effect because `MONGARS_PROMPT_CACHE_SCOPE` is not `shared`.

    Returns a tuple with the warning's text; empty if there is nothing to warn of.
    """
    if not environment.prompt_cache_mib or environment.prompt_cache_scope == "shared":
        return ()
    return (
        "MONGARS_PROMPT_CACHE_MIB is not used: llama.cpp cannot keep that memory apart by user."
        " Leave it out, or set MONGARS_PROMPT_CACHE_SCOPE=shared where all users trust each other.",
    )


def backoff_warnings(environment: Environment) -> tuple[str, ...]:
    """The texts of warnings, one for each entry of `RAY_SCALING_BACKOFF` that is no number or is negative; else empty.

    Such an entry does not stop the start: a negative one is dropped, and one that is no number makes the default list
    apply.
    """
    warnings = []
    for entry in environment.ray_scaling_backoff:
        number = seconds(entry)
        if number is None:
            warnings.append(f"RAY_SCALING_BACKOFF: {entry!r} is no number; using the default list.")
        elif number < 0:
            warnings.append(f"RAY_SCALING_BACKOFF: {entry!r} is negative; dropped.")
    return tuple(warnings)
