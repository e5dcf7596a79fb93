"""How the text of a variable becomes a value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from mongars.core.errors import ConfigurationError
from mongars.core.fair_queue import LEAST_WEIGHT, MOST_WEIGHT

if TYPE_CHECKING:
    from pathlib import Path

TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off"}
DEFAULT_BACKOFF = (0.5, 1.0, 2.0, 4.0)


def read_boolean(value: object) -> object:
    """The one rule for booleans: 1/true/yes/on and 0/false/no/off, any case, trimmed."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in TRUE | FALSE:
        return word in TRUE
    message = "must be one of 1/true/yes/on or 0/false/no/off"
    raise ValueError(message)


def split_list(value: object) -> object:
    """A comma-separated list without its blanks."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def none_is_none(value: object) -> object:
    """An empty variable, or the value `none`, switches off what has a default."""
    return None if isinstance(value, str) and value.strip().lower() in {"", "none"} else value


def checked_weights(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses what is not a list of `user=number`."""
    weights(entries)
    return entries


Boolean = Annotated[bool, BeforeValidator(read_boolean)]
Switch = BeforeValidator(none_is_none)
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)]
UserWeights = Annotated[
    tuple[str, ...], NoDecode, AfterValidator(checked_weights), BeforeValidator(split_list)
]
Port = Annotated[int, Field(ge=1, le=65535)]


def variable(name: str, default: Any, description: str, **limits: Any) -> Any:  # noqa: ANN401
    """One environment variable; the description feeds the generated reference."""
    return Field(default=default, validation_alias=name, description=description, **limits)


def expanded(path: Path, name: str) -> Path:
    """The absolute path. Raises `ConfigurationError` for a `~` where there is no home folder."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as exc:
        msg = (
            f"{name}: {str(path)!r} needs a home folder; HOME is not set and this user has none."
            f" Set {name} to an absolute path."
        )
        raise ConfigurationError(msg) from exc


def weights(entries: tuple[str, ...]) -> dict[str, float]:
    """`alice=4` as a user and a weight. Raises `ValueError` for anything else."""
    found: dict[str, float] = {}
    for entry in entries:
        user, _, given = entry.rpartition("=")
        weight = seconds(given)
        if not user.strip() or weight is None or not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
            message = (
                f"must be a list such as alice=4,bob=0.5 with weights from {LEAST_WEIGHT} to"
                f" {MOST_WEIGHT:g}, not {entry!r}"
            )
            raise ValueError(message)
        found[user.strip()] = weight
    return found


def backoff_schedule(entries: tuple[str, ...]) -> tuple[float, ...]:
    """The schedule in seconds; a non-number resets the list to the default, negatives drop out."""
    numbers = [seconds(entry) for entry in entries]
    if None in numbers:
        return DEFAULT_BACKOFF
    return tuple(each for each in numbers if each is not None and each >= 0) or DEFAULT_BACKOFF


def seconds(entry: str) -> float | None:
    """A finite number; None for anything else."""
    try:
        number = float(entry)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
