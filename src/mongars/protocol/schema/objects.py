"""Grammar of an object with named members in a fixed order, some of which are optional."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mongars.protocol.schema.characters import literal
from mongars.protocol.schema.rules import COMMA, LINE, constant

if TYPE_CHECKING:
    from mongars.protocol.schema.rules import Rules


@dataclass(frozen=True, slots=True)
class Member:
    """A property of an object: its name, the grammar expression of its value, and whether it is required."""

    name: str
    value: str
    required: bool

    @property
    def text(self) -> str:
        """The grammar expression of this property as it is written in an object: name, colon and value."""
        return f"{literal(constant(self.name) + ': ')} {self.value}"


def object_rule(rules: Rules, members: list[Member]) -> str:
    """A grammar expression for a JSON object with these properties in this order; those not required may be absent.

    Rules that the expression needs are added to `rules`.
    """
    # `after` generates the members from this one on if another member stands before them.
    after = ""
    starts: list[str] = []
    empty = True
    for member in reversed(members):
        written = f"{member.text} {after}".rstrip()
        if member.required:
            starts, empty = [written], False
        else:
            starts.insert(0, written)
        following = f"{COMMA} {member.text}"
        own = following if member.required else f"({following})?"
        after = rules.shared(f"{own} {after}".rstrip())
    begin = " | ".join(starts)
    inner = f"({LINE} ({begin}) {LINE}){'?' if empty else ''} " if starts else ""
    return rules.shared(f'"{{" {inner}"}}"')
