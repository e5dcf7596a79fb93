"""Parsing the text of environment variables."""

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
    """Parse a boolean: 1/true/yes/on or 0/false/no/off, ignoring case and surrounding space.

    A value that is no text is returned unchanged. Raises `ValueError` for any other text.
    """
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in TRUE | FALSE:
        return word in TRUE
    message = "must be one of 1/true/yes/on or 0/false/no/off"
    raise ValueError(message)


def split_list(value: object) -> object:
    """Split a comma-separated text into a tuple of trimmed, non-empty parts. Other values are returned unchanged."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def none_is_none(value: object) -> object:
    """None for an empty text or `none` (in any case), which switch an option off; any other value unchanged."""
    return None if isinstance(value, str) and value.strip().lower() in {"", "none"} else value


def checked_weights(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Return `entries`, the value of a variable with users' weights, unchanged if it is valid.

    Raises `ValueError` unless each entry is `user=number`, with a user name and a number from 0.01 to 100.
    """
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
    """A pydantic field for the environment variable `name` with the default value `default`.

    `description` is its text in the generated reference. `limits` are constraints on the value, given to pydantic's
    `Field`: `gt`, `ge`, `le`, `min_length`.
    """
    return Field(default=default, validation_alias=name, description=description, **limits)


def expanded(path: Path, name: str) -> Path:
    """`path` as an absolute path, with `~` replaced by the user's home folder.

    Raises `ConfigurationError`, naming the variable `name`, if the path begins with `~` and the user has no home
    folder.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError as exc:
        msg = (
            f"{name}: {str(path)!r} needs a home folder; HOME is not set and this user has none."
            f" Set {name} to an absolute path."
        )
        raise ConfigurationError(msg) from exc


def weights(entries: tuple[str, ...]) -> dict[str, float]:
    """Parse entries such as `alice=4` into each user's weight; of several entries for a user, the last one applies.

    A user's weight is the relative share of the model servers' capacity that the user gets when requests queue. Raises
    `ValueError` for another form, or a weight outside `LEAST_WEIGHT` (0.01) to `MOST_WEIGHT` (100).
    """
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
    """Parse texts such as `0.5` into delays in seconds, in order; negative ones are dropped.

    Returns `DEFAULT_BACKOFF` (0.5, 1, 2 and 4 seconds) if an entry is no finite number, or if no entry is left.
    """
    numbers = [seconds(entry) for entry in entries]
    if None in numbers:
        return DEFAULT_BACKOFF
    return tuple(each for each in numbers if each is not None and each >= 0) or DEFAULT_BACKOFF


def seconds(entry: str) -> float | None:
    """The finite number that the text `entry` stands for, such as a number of seconds; may be negative.

    None for any other text.
    """
    try:
        number = float(entry)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
